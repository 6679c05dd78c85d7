// The connections between watchers: sockets that carry a Control's messages, driven by its owner's epoll queue. Nothing
// here waits.
#pragma once

#include <cstdint>
#include <list>
#include <optional>
#include <string>
#include <vector>

#include "ridgeline/comm/control.h"
#include "ridgeline/comm/control_network.h"

namespace ridgeline::comm::detail {

struct ControlSetup {
  int host = 0;
  std::vector<ControlName> names;  // of all hosts
  std::vector<ControlCard> cards;  // the same; empty when there is one host
  ControlSecret secret{};
  int listener = -1;  // not owned
  ControlTimes times;
  int64_t connect_limit = 10 * kSecond;  // how long a parent may take to answer at start-up
};

class ControlLinks {
 public:
  // Events of `queue` that are at `mark` or above, as 64-bit data, are for `handle`.
  static constexpr uint64_t kMark = uint64_t{1} << 32;

  ControlLinks(const ControlSetup& setup, int queue);
  ~ControlLinks();
  ControlLinks(const ControlLinks&) = delete;
  ControlLinks& operator=(const ControlLinks&) = delete;

  // Tries to reach a host until `limit` (steady clock).
  void reach(int host, int64_t limit, int64_t now);
  void send(int peer, const ControlMessage& message);
  void handle(uint64_t data, int64_t now, Control& control);
  // Attempts that take too long, and strangers that do not say who they are.
  void tick(int64_t now, Control& control);
  // Nothing more is to be sent: peers see the end of the stream behind what has been.
  void finish();
  bool finished() const;       // and every peer has done the same
  bool knows(int peer) const;  // connected, and it has answered

  // "10.0.0.1:4711 (Connection refused), …": what was tried to reach a host that could not be reached.
  const std::string& tried() const { return tried_; }

 private:
  struct Connection {
    int file = -1;
    uint64_t mark = 0;
    int peer = -1;            // -1 before it has said who it is
    bool ours = false;        // made from here
    bool greeted = false;     // both ends know each other: what arrives is Control's
    bool connecting = false;  // the system is still at it
    bool closed = false;      // by the peer, or broken: to be removed
    int error = 0;            // why
    int64_t limit = 0;        // until it is greeted
    std::vector<std::byte> out;
    ControlReader in;
  };
  struct Reaching {
    int host = -1;
    int64_t limit = 0;
    int64_t next_attempt = 0;
    int address = 0;
  };

  Connection* add(int file, int64_t limit);
  void watch(const Connection& connection, int operation) const;
  void attempt(int64_t now);
  void attempt_failed(int error, int64_t now);
  void accept_all(int64_t now);
  void put(Connection& connection, const ControlMessage& message);
  void flush(Connection& connection);
  void read(Connection& connection);
  void deliver(Connection& connection, int64_t now, Control& control);
  bool admit(Connection& connection, const ControlMessage& message, int64_t now, Control& control);
  void sweep(int64_t now, Control& control);

  const ControlSetup& setup_;
  int queue_;
  uint64_t next_mark_ = kMark + 1;
  std::list<Connection> connections_;
  std::optional<Reaching> reaching_;
  std::string tried_;
  bool finishing_ = false;
};

}  // namespace ridgeline::comm::detail

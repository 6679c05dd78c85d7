// Messages over TCP. Every pair of members of a channel has a connection of its own for each tag, made when either
// first has something for the other, by the one with the higher number. So a message waits only for those that were
// sent before it under its tag; the system's buffers are all that runs ahead of the receiver, and bytes go straight to
// and from the caller's memory.
//
// On the wire: the greeting of who connects, then frames: a header that names tag and length, and the bytes. A header
// other than that of the receive which is next is an error; no length that arrives is ever used.
#pragma once

#include <list>
#include <vector>

#include "ridgeline/comm/control_messages.h"
#include "ridgeline/comm/socket.h"
#include "ridgeline/comm/wire.h"

namespace ridgeline::comm::detail {

// Where a rank listens.
struct TcpCard {
  ControlAddress address;
  int32_t port;
};

// First on every connection.
struct TcpGreeting {
  char protocol[8];
  ControlSecret secret;
  uint64_t key;  // of the channel
  int32_t from, to;
  uint64_t tag;
};

// The connections of a rank to and from its peers, before a channel has them.
class TcpPeers {
 public:
  // `cards`: of every rank. `listener`: not owned.
  TcpPeers(int rank, std::vector<TcpCard> cards, const ControlSecret& secret, int listener);

  int rank() const { return rank_; }
  // Begins to connect. Throws Undeliverable.
  Socket reach(int peer) const;
  TcpGreeting greeting(int peer, uint64_t key, int tag) const;
  // What `peer` has connected for a tag of the channel `key`; not open where it has not yet. Throws Undeliverable.
  Socket take(int peer, uint64_t key, int tag);
  int strangers() const { return strangers_; }  // connections that did not greet as one of this run

 private:
  struct Arrival {
    Socket socket;
    int64_t limit;
    TcpGreeting greeting;
    size_t heard;  // bytes of it
  };
  void accept_all();
  bool hear(Arrival& arrival) const;  // false when it is to be dropped

  int rank_;
  std::vector<TcpCard> cards_;
  ControlSecret secret_;
  int listener_;
  std::list<Arrival> arrivals_;
  int strangers_ = 0;
};

class TcpChannel : public Channel {
 public:
  // `peers` outlives it.
  TcpChannel(TcpPeers& peers, std::span<const int> ranks, uint64_t key);

  void send(const void* data, int64_t bytes, int member, int tag, Batch& batch) override;
  void receive(void* data, int64_t bytes, int member, int tag, Batch& batch) override;
  bool progress() override;
  int missing(const Batch& batch, std::span<int> members) const override;
  void withdraw() override;

 private:
  struct Frame {
    char protocol[4];
    uint32_t tag;
    uint64_t bytes;
  };
  struct Message {
    Frame frame;    // as it is sent, or must arrive
    Frame arrived;  // of a receive
    std::byte* data;
    int member;
    bool sends;
    Batch* batch;
    uint64_t moved = 0;  // bytes, the frame's included

    int tag() const { return static_cast<int>(frame.tag); }
    uint64_t size() const { return sizeof(Frame) + frame.bytes; }
    bool done() const { return moved == size(); }
  };
  // With a member, for a tag. A direction is stuck until the next look when its oldest message is not done.
  struct Link {
    Socket socket;
    size_t greeted = 0;  // bytes of the greeting that are sent
    uint64_t stuck_sends = 0, stuck_receives = 0;
  };

  void post(std::byte* data, int64_t bytes, int member, int tag, bool sends, Batch& batch);
  Link& link(int member, int tag) { return links_[static_cast<size_t>(member * kTags + tag)]; }
  bool move(Message& message);  // whether any byte has moved
  bool move_here(Message& receive);
  bool connected(int member, int tag);
  void check(const Message& receive) const;
  [[noreturn]] void broken(int member, int error) const;

  TcpPeers& peers_;
  std::vector<int> ranks_;
  uint64_t key_;
  int me_ = 0;
  std::vector<Link> links_;    // by member and tag
  std::vector<Message> open_;  // in the order in which they were posted
  uint64_t look_ = 0;          // how often progress has been called
  bool moved_at_posting_ = false;
};

}  // namespace ridgeline::comm::detail

// A socket that does not block, closed with its owner; and whole pieces of bytes over it, with a time limit.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ridgeline/comm/control_network.h"

namespace ridgeline::comm::detail {

class Socket {
 public:
  explicit Socket(int file = -1) : file_(file) {}
  ~Socket();
  Socket(Socket&& other) noexcept;
  Socket& operator=(Socket&& other) noexcept;
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  // Begins to connect; what is sent meanwhile waits. Not open, with errno, when that is impossible at once.
  static Socket connecting(const sockaddr* address, socklen_t length);
  // One that has come to `listener`; not open, with errno, when none has.
  static Socket accepted(int listener);

  int file() const { return file_; }
  bool open() const { return file_ >= 0; }

  // All of it has passed; false when the other end is gone, or at `limit` (steady clock, nanoseconds), with errno.
  bool send(const void* data, size_t bytes, int64_t limit) const;
  bool receive(void* data, size_t bytes, int64_t limit) const;

 private:
  int file_;
};

}  // namespace ridgeline::comm::detail

#include "ridgeline/comm/socket.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "ridgeline/comm/board.h"

namespace ridgeline::comm::detail {
namespace {

// Small messages are answers that somebody waits for.
void send_at_once(int file) {
  const int on = 1;
  ::setsockopt(file, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

// False at `limit`.
bool ready(int file, int16_t events, int64_t limit) {
  for (;;) {
    const int64_t left = limit - steady_nanoseconds();
    if (left <= 0) {
      errno = ETIMEDOUT;
      return false;
    }
    pollfd one{file, events, 0};
    constexpr int64_t kMillisecond = 1'000'000, kLongest = 10'000;
    if (::poll(&one, 1, static_cast<int>(std::min(left / kMillisecond + 1, kLongest))) > 0) return true;
  }
}

// `pass(bytes so far)` as send(2) and recv(2).
template <typename Pass>
bool pass_all(int file, size_t bytes, int16_t events, int64_t limit, const Pass& pass) {
  for (size_t passed = 0; passed < bytes;) {
    const ssize_t count = pass(passed);
    if (count > 0) {
      passed += static_cast<size_t>(count);
    } else if (count == 0) {
      errno = ECONNRESET;
      return false;
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      if (!ready(file, events, limit)) return false;
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

}  // namespace

Socket::~Socket() {
  if (file_ >= 0) ::close(file_);
}

Socket::Socket(Socket&& other) noexcept : file_(std::exchange(other.file_, -1)) {}

Socket& Socket::operator=(Socket&& other) noexcept {
  std::swap(file_, other.file_);
  return *this;
}

Socket Socket::connecting(const sockaddr* address, socklen_t length) {
  Socket socket(::socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.open()) return socket;
  send_at_once(socket.file());
  if (::connect(socket.file(), address, length) == 0 || errno == EINPROGRESS) return socket;
  const int problem = errno;
  socket = Socket();
  errno = problem;
  return socket;
}

Socket Socket::accepted(int listener) {
  Socket socket(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (socket.open()) send_at_once(socket.file());
  return socket;
}

bool Socket::send(const void* data, size_t bytes, int64_t limit) const {
  return pass_all(file_, bytes, POLLOUT, limit, [&](size_t sent) {
    return ::send(file_, static_cast<const std::byte*>(data) + sent, bytes - sent, MSG_NOSIGNAL);
  });
}

bool Socket::receive(void* data, size_t bytes, int64_t limit) const {
  return pass_all(file_, bytes, POLLIN, limit, [&](size_t received) {
    return ::recv(file_, static_cast<std::byte*>(data) + received, bytes - received, 0);
  });
}

}  // namespace ridgeline::comm::detail

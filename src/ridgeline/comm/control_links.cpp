#include "ridgeline/comm/control_links.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace ridgeline::comm::detail {
namespace {

constexpr int64_t kAttempt = 2 * kSecond;   // for one address
constexpr int64_t kPause = kSecond / 10;    // between two attempts
constexpr int64_t kGreeting = 5 * kSecond;  // for a stranger to say who it is
constexpr size_t kStrangers = 256;          // at once
constexpr size_t kMostUnsent = 256 << 10;   // of a peer that does not read: beyond it signs of life are left out
constexpr size_t kTriedCharacters = 400;    // of a message for people

}  // namespace

ControlLinks::ControlLinks(const ControlSetup& setup, int queue) : setup_(setup), queue_(queue) {
  if (setup.listener < 0) return;
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = kMark;
  ::epoll_ctl(queue_, EPOLL_CTL_ADD, setup.listener, &event);
}

ControlLinks::~ControlLinks() {
  for (const Connection& connection : connections_) ::close(connection.file);
}

void ControlLinks::watch(const Connection& connection, int operation) const {
  epoll_event event{};
  const bool write = connection.connecting || !connection.out.empty();
  event.events = write ? EPOLLIN | EPOLLOUT : EPOLLIN;
  event.data.u64 = connection.mark;
  ::epoll_ctl(queue_, operation, connection.file, &event);
}

ControlLinks::Connection* ControlLinks::add(int file, int64_t limit) {
  const int on = 1;
  ::setsockopt(file, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  Connection& connection = connections_.emplace_back();
  connection.file = file;
  connection.mark = next_mark_++;
  connection.limit = limit;
  return &connection;
}

void ControlLinks::reach(int host, int64_t limit, int64_t now) {
  reaching_ = Reaching{.host = host, .limit = limit, .next_attempt = now, .address = 0};
  tried_.clear();
  attempt(now);
}

void ControlLinks::attempt(int64_t now) {
  const ControlCard& card = setup_.cards[static_cast<size_t>(reaching_->host)];
  reaching_->next_attempt = INT64_MAX;  // not before this one has failed
  if (card.count == 0) return attempt_failed(EADDRNOTAVAIL, now);
  sockaddr_storage address{};
  const ControlAddress& to = card.addresses[reaching_->address % card.count];
  const socklen_t length = socket_address(to, card.port, address);
  const int file = ::socket(to.family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (file < 0) return attempt_failed(errno, now);
  const bool at_once = ::connect(file, reinterpret_cast<const sockaddr*>(&address), length) == 0;
  if (!at_once && errno != EINPROGRESS) {
    const int error = errno;
    ::close(file);
    return attempt_failed(error, now);
  }
  Connection* connection = add(file, std::min(now + kAttempt, reaching_->limit));
  connection->ours = true;
  connection->peer = reaching_->host;
  connection->connecting = !at_once;
  connection->out = encode(Hello{setup_.secret, setup_.host});
  watch(*connection, EPOLL_CTL_ADD);
}

void ControlLinks::attempt_failed(int error, int64_t now) {
  const ControlCard& card = setup_.cards[static_cast<size_t>(reaching_->host)];
  const std::string where =
      card.count == 0 ? "no address"
                      : fmt::format("{} port {}", text_of(card.addresses[reaching_->address % card.count]), card.port);
  const std::string said = fmt::format("{} ({})", where, std::strerror(error));
  if (tried_.find(said) == std::string::npos && tried_.size() < kTriedCharacters) {
    tried_ += (tried_.empty() ? "" : ", ") + said;
  }
  ++reaching_->address;
  reaching_->next_attempt = now + kPause;
}

void ControlLinks::put(Connection& connection, const ControlMessage& message) {
  const std::vector<std::byte> bytes = encode(message);
  if (connection.out.size() > kMostUnsent && std::holds_alternative<Alive>(message)) return;
  connection.out.insert(connection.out.end(), bytes.begin(), bytes.end());
  if (!connection.connecting) flush(connection);
}

void ControlLinks::send(int peer, const ControlMessage& message) {
  for (Connection& connection : connections_) {
    if (connection.peer == peer && connection.greeted && !connection.closed) return put(connection, message);
  }
}

void ControlLinks::flush(Connection& connection) {
  size_t sent = 0;
  while (sent < connection.out.size()) {
    const ssize_t count =
        ::send(connection.file, connection.out.data() + sent, connection.out.size() - sent, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      // A broken connection also becomes readable: what has arrived before is read first.
      if (errno != EAGAIN && errno != EWOULDBLOCK) sent = connection.out.size();
      break;
    }
    sent += static_cast<size_t>(count);
  }
  connection.out.erase(connection.out.begin(), connection.out.begin() + static_cast<int64_t>(sent));
  watch(connection, EPOLL_CTL_MOD);
  if (finishing_ && connection.out.empty()) ::shutdown(connection.file, SHUT_WR);
}

void ControlLinks::accept_all(int64_t now) {
  for (;;) {
    const int file = ::accept4(setup_.listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (file < 0) return;
    const auto strangers =
        std::count_if(connections_.begin(), connections_.end(), [](const Connection& one) { return !one.greeted; });
    if (static_cast<size_t>(strangers) >= kStrangers) {
      ::close(file);
      continue;
    }
    watch(*add(file, now + kGreeting), EPOLL_CTL_ADD);
  }
}

void ControlLinks::read(Connection& connection) {
  std::byte bytes[16 << 10];
  for (;;) {
    const ssize_t count = ::recv(connection.file, bytes, sizeof(bytes), 0);
    if (count > 0) {
      connection.in.add({bytes, static_cast<size_t>(count)});
      return;  // once per event: no peer may keep this process from the others
    }
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
    connection.closed = true;
    connection.error = count == 0 ? ECONNRESET : errno;
    return;
  }
}

// The first message on a connection: who it is, or the answer of the host that was reached.
bool ControlLinks::admit(Connection& connection, const ControlMessage& message, int64_t now, Control& control) {
  if (!connection.ours) {
    const auto* hello = std::get_if<Hello>(&message);
    if (hello == nullptr || hello->secret != setup_.secret || hello->host == setup_.host) return false;
    connection.peer = static_cast<int>(hello->host);
    // Of two connections of one host the later counts: it gave the earlier up.
    for (Connection& other : connections_) {
      if (!other.greeted || other.peer != connection.peer) continue;
      other.greeted = false;
      other.closed = true;
    }
  } else if (!std::holds_alternative<Alive>(message)) {
    return false;
  } else {
    reaching_.reset();
  }
  connection.greeted = true;
  control.connected(connection.peer, now);
  return true;
}

void ControlLinks::deliver(Connection& connection, int64_t now, Control& control) {
  while (const auto message = connection.in.next(static_cast<int>(setup_.names.size()))) {
    if (connection.greeted) {
      control.received(connection.peer, *message, now);
    } else if (!admit(connection, *message, now, control)) {
      connection.closed = true;
      connection.error = EPROTO;
      return;
    }
  }
  if (!connection.in.broken()) return;
  connection.closed = true;
  connection.error = EPROTO;
}

void ControlLinks::handle(uint64_t data, int64_t now, Control& control) {
  if (data == kMark) return accept_all(now);
  const auto found =
      std::find_if(connections_.begin(), connections_.end(), [&](const Connection& one) { return one.mark == data; });
  if (found == connections_.end()) return;
  Connection& connection = *found;
  if (connection.connecting) {
    int error = 0;
    socklen_t length = sizeof(error);
    ::getsockopt(connection.file, SOL_SOCKET, SO_ERROR, &error, &length);
    connection.connecting = false;
    connection.closed = error != 0;
    connection.error = error;
  }
  if (!connection.closed) flush(connection);
  if (!connection.closed) read(connection);
  deliver(connection, now, control);
  sweep(now, control);
}

// Removes what is closed; its end is told only where both ends had known each other.
void ControlLinks::sweep(int64_t now, Control& control) {
  for (auto it = connections_.begin(); it != connections_.end();) {
    if (!it->closed) {
      ++it;
      continue;
    }
    const Connection gone = std::move(*it);
    it = connections_.erase(it);
    ::close(gone.file);
    if (gone.greeted) {
      control.lost(gone.peer, now);
    } else if (gone.ours && reaching_ && reaching_->host == gone.peer) {
      attempt_failed(gone.error, now);
    }
  }
}

void ControlLinks::tick(int64_t now, Control& control) {
  for (Connection& connection : connections_) {
    if (connection.greeted || now < connection.limit) continue;
    connection.closed = true;
    connection.error = ETIMEDOUT;
  }
  sweep(now, control);
  if (!reaching_) return;
  if (now >= reaching_->limit) {
    const int host = reaching_->host;
    reaching_.reset();
    control.lost(host, now);
  } else if (now >= reaching_->next_attempt) {
    attempt(now);
  }
}

void ControlLinks::finish() {
  if (finishing_) return;
  finishing_ = true;
  for (Connection& connection : connections_) {
    if (!connection.connecting) flush(connection);
  }
}

bool ControlLinks::knows(int peer) const {
  return std::any_of(connections_.begin(), connections_.end(),
                     [&](const Connection& one) { return one.greeted && one.peer == peer; });
}

bool ControlLinks::finished() const {
  return std::none_of(connections_.begin(), connections_.end(), [](const Connection& one) { return one.greeted; });
}

}  // namespace ridgeline::comm::detail

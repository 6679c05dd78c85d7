#include "ridgeline/comm/tcp_channel.h"

#include <fmt/format.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "ridgeline/comm/board.h"
#include "ridgeline/comm/control.h"

namespace ridgeline::comm::detail {
namespace {

constexpr char kTcpProtocol[8] = {'R', 'L', 't', 'c', 'p', '0', '0', '2'};
constexpr char kFrameProtocol[4] = {'R', 'L', 'f', '1'};
constexpr int64_t kTimeToIntroduce = 5 * kSecond;
constexpr int64_t kMostUnknown = 1024;  // connections that have not greeted yet; more are left to the system

bool would_wait(int error) {
  return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

// What is left of a frame and its data after `moved` bytes of both.
int parts_left(void* frame, size_t frame_bytes, std::byte* data, uint64_t bytes, uint64_t moved, iovec (&parts)[2]) {
  int count = 0;
  if (moved < frame_bytes) parts[count++] = {static_cast<std::byte*>(frame) + moved, frame_bytes - moved};
  const uint64_t of_data = moved > frame_bytes ? moved - frame_bytes : 0;
  if (of_data < bytes) parts[count++] = {data + of_data, bytes - of_data};
  return count;
}

}  // namespace

TcpPeers::TcpPeers(int rank, std::vector<TcpCard> cards, const ControlSecret& secret, int listener)
    : rank_(rank), cards_(std::move(cards)), secret_(secret), listener_(listener) {}

Socket TcpPeers::reach(int peer) const {
  const TcpCard& card = cards_[static_cast<size_t>(peer)];
  sockaddr_storage address{};
  const socklen_t length = socket_address(card.address, card.port, address);
  Socket socket = Socket::connecting(reinterpret_cast<const sockaddr*>(&address), length);
  if (socket.open()) return socket;
  const int error = errno;
  throw Undeliverable(fmt::format("cannot connect to rank {} at {} port {} ({})", peer, text_of(card.address),
                                  card.port, std::strerror(error)));
}

TcpGreeting TcpPeers::greeting(int peer, uint64_t key, int tag) const {
  TcpGreeting greeting{};
  std::memcpy(greeting.protocol, kTcpProtocol, sizeof(kTcpProtocol));
  greeting.secret = secret_;
  greeting.key = key;
  greeting.from = rank_;
  greeting.to = peer;
  greeting.tag = static_cast<uint64_t>(tag);
  return greeting;
}

void TcpPeers::accept_all() {
  auto unknown = std::count_if(arrivals_.begin(), arrivals_.end(),
                               [](const Arrival& arrival) { return arrival.heard < sizeof(TcpGreeting); });
  while (unknown < kMostUnknown) {
    Socket socket = Socket::accepted(listener_);
    if (socket.open()) {
      arrivals_.push_back({std::move(socket), steady_nanoseconds() + kTimeToIntroduce, {}, 0});
      ++unknown;
    } else if (errno == EMFILE || errno == ENFILE) {
      throw Undeliverable("too many connections: this process may not open more files (ulimit -n)");
    } else if (errno != ECONNABORTED && errno != EINTR) {
      return;
    }
  }
}

// No further than the greeting: what follows is the channel's.
bool TcpPeers::hear(Arrival& arrival) const {
  if (arrival.heard == sizeof(TcpGreeting)) return true;
  auto* bytes = reinterpret_cast<std::byte*>(&arrival.greeting);
  const ssize_t count = ::recv(arrival.socket.file(), bytes + arrival.heard, sizeof(TcpGreeting) - arrival.heard, 0);
  if (count == 0 || (count < 0 && !would_wait(errno))) return false;
  if (count > 0) arrival.heard += static_cast<size_t>(count);
  if (arrival.heard < sizeof(TcpGreeting)) return steady_nanoseconds() < arrival.limit;
  const TcpGreeting expected = greeting(rank_, arrival.greeting.key, 0);
  return std::memcmp(arrival.greeting.protocol, expected.protocol, sizeof(expected.protocol)) == 0 &&
         arrival.greeting.secret == secret_ && arrival.greeting.to == rank_;
}

Socket TcpPeers::take(int peer, uint64_t key, int tag) {
  accept_all();
  for (auto arrival = arrivals_.begin(); arrival != arrivals_.end();) {
    if (!hear(*arrival)) {
      ++strangers_;
      arrival = arrivals_.erase(arrival);
      continue;
    }
    const TcpGreeting& greeting = arrival->greeting;
    if (arrival->heard == sizeof(TcpGreeting) && greeting.from == peer && greeting.key == key &&
        greeting.tag == static_cast<uint64_t>(tag)) {
      Socket socket = std::move(arrival->socket);
      arrivals_.erase(arrival);
      return socket;
    }
    ++arrival;
  }
  return Socket();
}

TcpChannel::TcpChannel(TcpPeers& peers, std::span<const int> ranks, uint64_t key)
    : peers_(peers), ranks_(ranks.begin(), ranks.end()), key_(key), links_(ranks.size() * kTags) {
  me_ = static_cast<int>(std::find(ranks_.begin(), ranks_.end(), peers.rank()) - ranks_.begin());
}

void TcpChannel::send(const void* data, int64_t bytes, int member, int tag, Batch& batch) {
  post(static_cast<std::byte*>(const_cast<void*>(data)), bytes, member, tag, true, batch);
}

void TcpChannel::receive(void* data, int64_t bytes, int member, int tag, Batch& batch) {
  post(static_cast<std::byte*>(data), bytes, member, tag, false, batch);
}

void TcpChannel::post(std::byte* data, int64_t bytes, int member, int tag, bool sends, Batch& batch) {
  Message message{.frame = {}, .arrived = {}, .data = data, .member = member, .sends = sends, .batch = &batch};
  std::memcpy(message.frame.protocol, kFrameProtocol, sizeof(kFrameProtocol));
  message.frame.tag = static_cast<uint32_t>(tag);
  message.frame.bytes = static_cast<uint64_t>(bytes);
  const bool waits = std::any_of(open_.begin(), open_.end(), [&](const Message& other) {
    return other.sends && other.member == member && other.tag() == tag && !other.done();
  });
  open_.push_back(message);
  ++batch.open;
  // What the system takes now travels while the caller computes.
  if (sends && !waits && member != me_) moved_at_posting_ = move(open_.back()) || moved_at_posting_;
}

bool TcpChannel::progress() {
  bool moved = moved_at_posting_;
  moved_at_posting_ = false;
  ++look_;
  for (Message& message : open_) {
    Link& with = link(message.member, message.tag());
    uint64_t& stuck = message.sends ? with.stuck_sends : with.stuck_receives;
    if (message.done() || stuck == look_) continue;
    moved = move(message) || moved;
    if (!message.done()) stuck = look_;
  }
  std::erase_if(open_, [](const Message& message) {
    if (message.done()) --message.batch->open;
    return message.done();
  });
  return moved;
}

bool TcpChannel::move(Message& message) {
  if (message.member == me_) return !message.sends && move_here(message);
  if (!connected(message.member, message.tag())) return false;
  iovec parts[2];
  msghdr call{};
  call.msg_iov = parts;
  call.msg_iovlen = static_cast<size_t>(parts_left(message.sends ? &message.frame : &message.arrived, sizeof(Frame),
                                                   message.data, message.frame.bytes, message.moved, parts));
  const int file = link(message.member, message.tag()).socket.file();
  const ssize_t count = message.sends ? ::sendmsg(file, &call, MSG_NOSIGNAL) : ::recvmsg(file, &call, 0);
  if (count < 0 && would_wait(errno)) return false;
  if (count <= 0) broken(message.member, count == 0 ? ECONNRESET : errno);
  const bool had_frame = message.moved >= sizeof(Frame);
  message.moved += static_cast<uint64_t>(count);
  if (!message.sends && !had_frame && message.moved >= sizeof(Frame)) check(message);
  return true;
}

// A message to itself: the oldest that was sent under its tag.
bool TcpChannel::move_here(Message& receive) {
  const auto sent = std::find_if(open_.begin(), open_.end(), [&](const Message& message) {
    return message.sends && message.member == me_ && message.tag() == receive.tag() && !message.done();
  });
  if (sent == open_.end()) return false;
  receive.arrived = sent->frame;
  check(receive);
  if (receive.frame.bytes > 0) std::memcpy(receive.data, sent->data, receive.frame.bytes);
  receive.moved = sent->moved = receive.size();
  return true;
}

bool TcpChannel::connected(int member, int tag) {
  Link& with = link(member, tag);
  const int rank = ranks_[static_cast<size_t>(member)];
  const bool ours = me_ > member;
  if (!with.socket.open()) with.socket = ours ? peers_.reach(rank) : peers_.take(rank, key_, tag);
  if (!with.socket.open()) return false;
  const TcpGreeting greeting = peers_.greeting(rank, key_, tag);
  while (ours && with.greeted < sizeof(greeting)) {
    const ssize_t count = ::send(with.socket.file(), reinterpret_cast<const std::byte*>(&greeting) + with.greeted,
                                 sizeof(greeting) - with.greeted, MSG_NOSIGNAL);
    if (count < 0 && would_wait(errno)) return false;
    if (count < 0) broken(member, errno);
    with.greeted += static_cast<size_t>(count);
  }
  return true;
}

void TcpChannel::check(const Message& receive) const {
  const Frame& expected = receive.frame;
  const Frame& arrived = receive.arrived;
  if (std::memcmp(&expected, &arrived, sizeof(Frame)) == 0) return;
  const int rank = ranks_[static_cast<size_t>(receive.member)];
  if (std::memcmp(expected.protocol, arrived.protocol, sizeof(expected.protocol)) != 0) {
    throw Undeliverable(fmt::format("what rank {} sends makes no sense", rank));
  }
  throw Undeliverable(fmt::format("rank {} sends {} bytes of kind {} where {} of kind {} are expected", rank,
                                  arrived.bytes, arrived.tag, expected.bytes, expected.tag));
}

void TcpChannel::broken(int member, int error) const {
  throw Undeliverable(fmt::format("the connection to rank {} is broken ({})", ranks_[static_cast<size_t>(member)],
                                  std::strerror(error)));
}

int TcpChannel::missing(const Batch& batch, std::span<int> members) const {
  size_t count = 0;
  for (const Message& message : open_) {
    if (message.batch == &batch && !message.done()) add_once(members, count, message.member);
  }
  return static_cast<int>(count);
}

void TcpChannel::withdraw() {
  open_.clear();
  for (Link& link : links_) link.socket = Socket();
}

}  // namespace ridgeline::comm::detail

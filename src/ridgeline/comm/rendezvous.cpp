#include "ridgeline/comm/rendezvous.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <netdb.h>
#include <poll.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "ridgeline/base/random.h"
#include "ridgeline/comm/board.h"
#include "ridgeline/comm/control.h"
#include "ridgeline/comm/failure.h"

namespace ridgeline::comm::detail {

enum class RendezvousWord : uint32_t { hello, welcome, refused, part };

namespace {

using Word = RendezvousWord;

constexpr char kRendezvousProtocol[4] = {'R', 'L', 'r', '2'};  // the last character is its version
constexpr int64_t kTimeToGreet = 5 * kSecond;
constexpr int64_t kOneConnection = 2 * kSecond;  // an address gets so long to answer
constexpr int64_t kLastWord = kSecond;           // for each rank to hear why it is refused
constexpr size_t kMostArrivals = 1024;           // at once
constexpr int kNapMicroseconds = 100'000;
constexpr const char* kTheRendezvous = "the rendezvous";  // what a rank was last seen in

struct WordHeader {
  char protocol[4];
  Word word;
  uint64_t bytes;  // that follow
};
struct Greeting {
  WordHeader header;
  int32_t rank, size;
  ControlSecret secret;
};
struct RefusedText {
  char what[1024], next[512];
  int32_t told;  // to people, by rank 0
};

WordHeader header_of(Word word, size_t bytes) {
  WordHeader header{};
  std::memcpy(header.protocol, kRendezvousProtocol, sizeof(header.protocol));
  header.word = word;
  header.bytes = bytes;
  return header;
}

bool is_of_this_version(const WordHeader& header) {
  return std::memcmp(header.protocol, kRendezvousProtocol, sizeof(header.protocol)) == 0;
}
bool is_of_some_version(const WordHeader& header) {
  return std::memcmp(header.protocol, kRendezvousProtocol, sizeof(header.protocol) - 1) == 0;
}

bool say(const Socket& socket, Word word, const void* data, size_t bytes, int64_t limit) {
  const WordHeader header = header_of(word, bytes);
  return socket.send(&header, sizeof(header), limit) && socket.send(data, bytes, limit);
}

void refuse(const Socket& socket, const std::string& what, const std::string& next, bool told = false) {
  RefusedText text{};
  text.told = told ? 1 : 0;
  put_text(text.what, what);
  put_text(text.next, next);
  say(socket, Word::refused, &text, sizeof(text), steady_nanoseconds() + kLastWord);
}

// Not what it is, but whether it is the same.
ControlSecret digest_of(const std::string& secret) {
  return {hash_name(secret), hash_name("ridgeline" + secret)};
}

// Of one end of a connection, which `name` reads.
ControlAddress address_by(int (*name)(int, sockaddr*, socklen_t*), int file) {
  sockaddr_storage socket{};
  socklen_t length = sizeof(socket);
  ControlAddress address{};
  if (name(file, reinterpret_cast<sockaddr*>(&socket), &length) == 0) {
    address_of(reinterpret_cast<const sockaddr&>(socket), address);
  }
  return address;
}

// A system may connect a socket with itself, where nobody listens on a port that it gives away.
bool is_connected_with_itself(int file) {
  sockaddr_storage own{}, other{};
  socklen_t own_length = sizeof(own), other_length = sizeof(other);
  ::getsockname(file, reinterpret_cast<sockaddr*>(&own), &own_length);
  ::getpeername(file, reinterpret_cast<sockaddr*>(&other), &other_length);
  return own_length == other_length && std::memcmp(&own, &other, own_length) == 0;
}

// 0 when it is made; else the system's error.
int finish_connecting(const Socket& socket, int64_t limit) {
  pollfd one{socket.file(), POLLOUT, 0};
  while (::poll(&one, 1, 10) == 0) {
    if (steady_nanoseconds() > limit) return ETIMEDOUT;
  }
  int problem = 0;
  socklen_t length = sizeof(problem);
  ::getsockopt(socket.file(), SOL_SOCKET, SO_ERROR, &problem, &length);
  return problem == 0 && is_connected_with_itself(socket.file()) ? ECONNREFUSED : problem;
}

}  // namespace

struct Rendezvous::Arrival {
  Socket socket;
  int64_t limit;
  Greeting greeting{};
  size_t heard = 0;  // bytes of it
};

Rendezvous::Rendezvous(const RendezvousSetup& setup, Tell tell) : setup_(setup), tell_(std::move(tell)) {
  ranks_.resize(static_cast<size_t>(setup_.rank == 0 ? setup_.size : 1));
  if (setup_.rank == 0) {
    serve();
  } else {
    join();
  }
}

int64_t Rendezvous::limit() const {
  return steady_nanoseconds() + std::chrono::nanoseconds(setup_.timeout).count();
}

std::vector<int> Rendezvous::missing_ranks() const {
  std::vector<int> missing;
  for (int rank = 1; rank < setup_.size; ++rank) {
    if (!ranks_[static_cast<size_t>(rank)].open()) missing.push_back(rank);
  }
  return missing;
}

bool Rendezvous::complete() const {
  return std::all_of(ranks_.begin() + 1, ranks_.end(), [](const Socket& rank) { return rank.open(); });
}

void Rendezvous::serve() {
  if (::getrandom(secret_.data(), sizeof(secret_), 0) != static_cast<ssize_t>(sizeof(secret_))) {
    throw system_error("cannot get random bytes", errno);
  }
  Socket listener;
  try {
    listener = Socket(listening_socket(setup_.port));
  } catch (const Error& error) {
    fail({.rank = 0,
          .host = setup_.host,
          .operation = kTheRendezvous,
          .what = fmt::format("rank 0: rendezvous {}: {}", setup_.place(), error.message()),
          .next = "Does another process on this host believe to be rank 0, or another run use that port? Give every "
                  "process a rank of its own, and all the same free port."});
  }
  const int64_t end = limit();
  std::list<Arrival> arrivals;
  while (!complete()) {
    std::vector<pollfd> files = {{listener.file(), POLLIN, 0}};
    for (const Arrival& arrival : arrivals) files.push_back({arrival.socket.file(), POLLIN, 0});
    ::poll(files.data(), files.size(), 20);
    accept_all(listener.file(), arrivals);
    arrivals.remove_if([&](Arrival& arrival) { return !hear(arrival); });
    forget_the_gone();
    if (steady_nanoseconds() < end || complete()) continue;
    fail_for_missing();
  }
  for (int rank = 1; rank < setup_.size; ++rank) {
    const Socket& socket = ranks_[static_cast<size_t>(rank)];
    if (say(socket, Word::welcome, secret_.data(), sizeof(secret_), limit())) continue;
    fail_for(rank, fmt::format("rank {} left the rendezvous {}", rank, setup_.place()));
  }
}

void Rendezvous::fail_for_missing() {
  const std::vector<int> missing = missing_ranks();
  const std::string strangers =
      strangers_ == 0 ? "" : fmt::format(" ({} connections were none of this run's)", strangers_);
  fail({.rank = missing.size() == 1 ? missing.front() : -1,
        .host = {},
        .operation = kTheRendezvous,
        .what = fmt::format("{} of {} did not come to the rendezvous {} within {} s{}", ranks_text(missing),
                            setup_.size, setup_.place(), static_cast<double>(setup_.timeout.count()) / 1000, strangers),
        .next = "Were all processes started, each with a rank of its own, and can their hosts connect to that port?"});
}

void Rendezvous::accept_all(int listener, std::list<Arrival>& arrivals) const {
  while (arrivals.size() < kMostArrivals) {
    Socket socket = Socket::accepted(listener);
    if (!socket.open()) return;
    arrivals.push_back({.socket = std::move(socket), .limit = steady_nanoseconds() + kTimeToGreet});
  }
}

bool Rendezvous::hear(Arrival& arrival) {
  auto* bytes = reinterpret_cast<std::byte*>(&arrival.greeting);
  const ssize_t count = ::recv(arrival.socket.file(), bytes + arrival.heard, sizeof(Greeting) - arrival.heard, 0);
  const bool nothing_yet = count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
  if (count > 0) arrival.heard += static_cast<size_t>(count);
  const WordHeader& header = arrival.greeting.header;
  const bool has_header = arrival.heard >= sizeof(WordHeader);
  const bool is_greeting = !has_header || (is_of_this_version(header) && header.word == Word::hello &&
                                           header.bytes == sizeof(Greeting) - sizeof(WordHeader));
  if (!is_greeting && is_of_some_version(header)) {
    refuse(arrival.socket, fmt::format("rank 0 at {} runs another version of Ridgeline", setup_.place()),
           "All ranks must run the same ridgeline.");
  }
  if (!is_greeting || (count <= 0 && !nothing_yet) || steady_nanoseconds() > arrival.limit) {
    ++strangers_;
    return false;
  }
  if (arrival.heard < sizeof(Greeting)) return true;
  admit(arrival);
  return false;
}

void Rendezvous::admit(Arrival& arrival) {
  const int rank = arrival.greeting.rank, size = arrival.greeting.size;
  if (arrival.greeting.secret != digest_of(setup_.secret)) {
    ++strangers_;
    return refuse(
        arrival.socket,
        fmt::format("rank {}: its RIDGELINE_RENDEZVOUS_SECRET is not that of rank 0 at {}", rank, setup_.place()),
        "Give all processes the same, or none; or is this the rendezvous of another run?");
  }
  const auto fail_with = [&](const std::string& what, const std::string& next) {
    ranks_.push_back(std::move(arrival.socket));  // it hears what all hear
    fail({.rank = rank, .host = {}, .operation = kTheRendezvous, .what = what, .next = next});
  };
  if (size != setup_.size) {
    fail_with(fmt::format("rendezvous {}: rank {} was started as one of {} ranks, rank 0 as one of {}", setup_.place(),
                          rank, size, setup_.size),
              "Start all with the same number of ranks (RIDGELINE_WORLD_SIZE, or srun's -n).");
  }
  if (rank < 1 || rank >= size) {
    ++strangers_;
    return;
  }
  if (ranks_[static_cast<size_t>(rank)].open()) {
    fail_with(fmt::format("rendezvous {}: two processes are rank {}", setup_.place(), rank),
              "Each needs a rank of its own (RIDGELINE_RANK, or srun's); or does another run use that port?");
  }
  ranks_[static_cast<size_t>(rank)] = std::move(arrival.socket);
}

// Who has been admitted says nothing before it is welcome: what can be read is the end.
void Rendezvous::forget_the_gone() {
  for (Socket& rank : ranks_) {
    char byte = 0;
    if (!rank.open()) continue;
    const ssize_t count = ::recv(rank.file(), &byte, 1, MSG_PEEK);
    if (count >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) rank = Socket();
  }
}

// One connection to any address of the host, tried until `limit`.
Socket Rendezvous::connect_to_root(int64_t limit) {
  std::vector<std::string> tried;
  const auto note = [&](const std::string& text) {
    if (tried.size() < 6 && std::find(tried.begin(), tried.end(), text) == tried.end()) tried.push_back(text);
  };
  do {
    addrinfo wanted{};
    wanted.ai_socktype = SOCK_STREAM;
    addrinfo* list = nullptr;
    const int unknown = ::getaddrinfo(setup_.host.c_str(), std::to_string(setup_.port).c_str(), &wanted, &list);
    const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(list, ::freeaddrinfo);
    if (unknown != 0) note(fmt::format("{} ({})", setup_.host, ::gai_strerror(unknown)));
    for (const addrinfo* entry = unknown == 0 ? list : nullptr; entry != nullptr; entry = entry->ai_next) {
      Socket socket = Socket::connecting(entry->ai_addr, entry->ai_addrlen);
      const int64_t soon = std::min(steady_nanoseconds() + kOneConnection, limit);
      const int problem = socket.open() ? finish_connecting(socket, soon) : errno;
      if (problem == 0) return socket;
      ControlAddress address{};
      address_of(*entry->ai_addr, address);
      note(fmt::format("{} port {} ({})", text_of(address), setup_.port, std::strerror(problem)));
    }
    ::usleep(kNapMicroseconds);
  } while (steady_nanoseconds() < limit);
  fail({.rank = 0,
        .host = setup_.host,
        .operation = kTheRendezvous,
        .what = fmt::format("rank 0 is missing: nobody answers at the rendezvous {}; tried {} for {} s", setup_.place(),
                            fmt::join(tried, ", "), static_cast<double>(setup_.timeout.count()) / 1000),
        .next =
            "Rank 0 listens there: is that the host it runs on, did it start, may the others connect to that port?"});
}

void Rendezvous::join() {
  ranks_[0] = connect_to_root(limit());
  own_address_ = address_by(::getsockname, ranks_[0].file());
  root_address_ = address_by(::getpeername, ranks_[0].file());
  const Greeting greeting{.header = header_of(Word::hello, sizeof(Greeting) - sizeof(WordHeader)),
                          .rank = setup_.rank,
                          .size = setup_.size,
                          .secret = digest_of(setup_.secret)};
  // Rank 0 may have begun later, and knows better what is wrong.
  const int64_t end = limit() + kTimeToGreet;
  if (ranks_[0].send(&greeting, sizeof(greeting), end) &&
      hear_word(0, Word::welcome, secret_.data(), sizeof(secret_), end)) {
    return;
  }
  fail({.rank = 0,
        .host = setup_.host,
        .operation = kTheRendezvous,
        .what = fmt::format("rank 0 left the rendezvous {} before all ranks were there ({})", setup_.place(),
                            std::strerror(errno)),
        .next = "Its own message says why, if there is one; or does another program listen on that port?"});
}

// A word of `rank` and its bytes. False when the connection ends or time is up. Throws why this rank is refused.
bool Rendezvous::hear_word(int rank, Word word, void* data, size_t bytes, int64_t limit) {
  const Socket& socket = ranks_[static_cast<size_t>(rank)];
  WordHeader header{};
  if (!socket.receive(&header, sizeof(header), limit)) return false;
  const bool known = is_of_this_version(header);
  if (rank == 0 && known && header.word == Word::refused && header.bytes == sizeof(RefusedText)) {
    RefusedText text{};
    if (!socket.receive(&text, sizeof(text), limit)) return false;
    text.what[sizeof(text.what) - 1] = text.next[sizeof(text.next) - 1] = '\0';
    if (text.told == 0) throw Error(text.what, text.next);
    throw RankFailure({.host = {}, .operation = kTheRendezvous, .what = text.what, .next = text.next}, false, false);
  }
  if (!known || header.word != word || header.bytes != bytes) {
    fail({.rank = rank,
          .host = {},
          .operation = kTheRendezvous,
          .what = fmt::format("what {} at {} is no rendezvous of this version of Ridgeline",
                              rank == 0 ? "answers" : fmt::format("came as rank {}", rank), setup_.place()),
          .next = "Does another program listen on that port? All ranks must run the same ridgeline."});
  }
  return socket.receive(data, bytes, limit);
}

void Rendezvous::fail(const Failure& failure) {
  // Before the others hear of it: a launcher may end this process as soon as one of them has left.
  const bool told = tell_ && tell_(failure);
  for (const Socket& rank : ranks_) {
    if (setup_.rank == 0 && rank.open()) refuse(rank, failure.what, failure.next, told);
  }
  if (told) throw RankFailure(failure, false, false);
  throw Error(failure.what, failure.next);
}

void Rendezvous::fail_for(int rank, const std::string& what) {
  fail({.rank = rank,
        .host = {},
        .operation = kTheRendezvous,
        .what = what,
        .next = "Its own message says why, if there is one."});
}

void Rendezvous::give_up(const Failure& failure) {
  if (setup_.rank != 0) hear_word(0, Word::part, nullptr, 0, limit());
  fail(failure);
}

void Rendezvous::give(int rank, const void* data, size_t bytes) {
  if (say(ranks_[static_cast<size_t>(rank)], Word::part, data, bytes, limit())) return;
  fail_for(rank, fmt::format("rank {} left while the run began ({})", rank, std::strerror(errno)));
}

void Rendezvous::take(int rank, void* data, size_t bytes) {
  if (hear_word(rank, Word::part, data, bytes, limit())) return;
  fail_for(rank, fmt::format("rank {} left while the run began ({})", rank, std::strerror(errno)));
}

void Rendezvous::all_gather(const void* own, void* all, int64_t bytes) {
  const auto one = static_cast<size_t>(bytes), everything = one * static_cast<size_t>(setup_.size);
  if (setup_.rank != 0) {
    give(0, own, one);
    return take(0, all, everything);
  }
  std::memcpy(all, own, one);
  for (int rank = 1; rank < setup_.size; ++rank) {
    take(rank, static_cast<std::byte*>(all) + static_cast<size_t>(rank) * one, one);
  }
  for (int rank = 1; rank < setup_.size; ++rank) give(rank, all, everything);
}

void Rendezvous::broadcast(void* data, int64_t bytes, int root) {
  const auto size = static_cast<size_t>(bytes);
  if (setup_.rank == root && root != 0) return give(0, data, size);
  if (setup_.rank != 0) return take(0, data, size);
  if (root != 0) take(root, data, size);
  for (int rank = 1; rank < setup_.size; ++rank) {
    if (rank != root) give(rank, data, size);
  }
}

}  // namespace ridgeline::comm::detail

#include "ridgeline/comm/wide_communicator.h"

#include <fmt/format.h>
#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <exception>

#include "ridgeline/base/error.h"
#include "ridgeline/comm/kernels.h"

namespace ridgeline::comm::detail {
namespace {

constexpr int64_t kLargestMessage = 1 << 30;  // MPI counts in int
// Greetings and data of exchanges have tags of their own: the k-th message to a peer is its k-th, however the two ranks
// group their messages into exchanges.
constexpr int kTag = 1, kMessageGreetingTag = 2, kMessageTag = 3;

}  // namespace

struct WideCommunicator::Requests {
  MPI_Comm comm = MPI_COMM_NULL;
  std::vector<MPI_Request> all;
  std::vector<int> peers;  // of each request, -1 - peer for sends
  size_t open = 0;
};

WideCommunicator::WideCommunicator(RankWorld& world, std::span<const int> ranks, std::string_view name, uint64_t key)
    : world_(world),
      ranks_(ranks.begin(), ranks.end()),
      name_(name),
      n_(static_cast<int>(ranks.size())),
      requests_(std::make_unique<Requests>()) {
  for (int member = 0; member < n_; ++member) {
    if (ranks_[static_cast<size_t>(member)] == world.rank()) me_ = member;
  }
  const int run = std::max(1, world.options().sum_group);
  for (int first = 0; first < n_; first += run) sum_groups_.push_back(std::min(run, n_ - first));
  board_offset_ = world.host().find_board(key, sizeof(BoardStart));
  reinterpret_cast<BoardStart*>(world.host().at(board_offset_))->name.store(name);
  operations_.resize(kOutstanding);
  ends_.resize(kOutstanding * 4);
  greetings_.resize(static_cast<size_t>(std::max<int>(n_, 2 * kMessages)));
  scratch_.resize(kScratchBytes);
  sources_.resize(static_cast<size_t>(n_));
  // A phase has at most two messages per peer, or two per end of an exchange.
  requests_->all.resize(static_cast<size_t>(std::max(2 * n_, 2 * kMessages)) + 64);
  requests_->peers.resize(requests_->all.size());

  MPI_Group everyone = MPI_GROUP_NULL, group = MPI_GROUP_NULL;
  MPI_Comm_group(MPI_COMM_WORLD, &everyone);
  MPI_Group_incl(everyone, n_, ranks_.data(), &group);
  MPI_Comm_create_group(MPI_COMM_WORLD, group, static_cast<int>(key >> 8 & 0x3fff), &requests_->comm);
  MPI_Comm_set_errhandler(requests_->comm, MPI_ERRORS_RETURN);
  MPI_Group_free(&group);
  MPI_Group_free(&everyone);
  world_.add(this);
}

WideCommunicator::~WideCommunicator() {
  if (outstanding() && std::uncaught_exceptions() == 0 && !world_.host().failed()) {
    world_.fail(fmt::format("destroyed communicator '{}' before waiting for {}", name_, waiting_in()));
  }
  world_.remove(this);
  if (outstanding()) withdraw();
  // After a failure MPI is left as it is: its requests refer to ranks that may be gone.
  if (!outstanding() && !world_.host().failed()) MPI_Comm_free(&requests_->comm);
}

Ticket WideCommunicator::start(const Request& request) {
  world_.check_failed();
  if (started_ - completed_ == kOutstanding) {
    const uint64_t oldest = completed_ + 1;
    world_.wait_until(*this, [&] { return completed_ >= oldest; });
  }
  const uint64_t needed = request.sends.size() + request.receives.size();
  const auto room = [&] {
    return !outstanding() || ends_count_ + needed - operation(completed_ + 1).ends_begin <= ends_.size();
  };
  if (!room()) world_.wait_until(*this, room);
  world_.record_operation(board_offset_, request.kind, request.label);
  Operation& entry = operation(started_ + 1);
  entry.ends_begin = ends_count_;
  take_ends(request);
  entry.ends_end = ends_count_;
  entry.greeting = terms_of(request);
  entry.first = request.buffer;
  entry.second = request.received;
  ++started_;
  // The oldest says at once that it is there: the others then know whom they wait for.
  if (phase_ == Phase::idle) enter_greet();
  return {started_};
}

void WideCommunicator::take_ends(const Request& request) {
  const auto add = [&](std::byte* data, DType dtype, int64_t count, int peer, bool sending) {
    End& end = ends_[ends_count_++ % ends_.size()];
    end = {data, {}, peer, sending};
    end.greeting.kind = RequestKind::exchange;
    end.greeting.dtype = dtype;
    end.greeting.count = count;
    std::strncpy(end.greeting.label, request.label.what, sizeof(end.greeting.label) - 1);
  };
  for (const Send& send : request.sends)
    add(static_cast<std::byte*>(const_cast<void*>(send.data.data)), send.data.dtype, send.count, send.peer, true);
  for (const Receive& receive : request.receives)
    add(receive.data.as<std::byte>(), receive.data.dtype, receive.count, receive.peer, false);
}

void WideCommunicator::wait(Ticket ticket) {
  RL_REQUIRE(ticket.number <= started_, "ticket {} was never given out, only {}", ticket.number, started_);
  world_.check_failed();
  if (completed_ >= ticket.number) return;
  world_.wait_until(*this, [&] { return completed_ >= ticket.number; });
}

void WideCommunicator::post(bool send, void* data, int64_t bytes, int peer, int tag) {
  for (int64_t at = 0; at < bytes || at == 0; at += kLargestMessage) {
    RL_CHECK(requests_->open, <, requests_->all.size());
    const auto length = static_cast<int>(std::min(bytes - at, kLargestMessage));
    MPI_Request* request = &requests_->all[requests_->open];
    requests_->peers[requests_->open++] = send ? -1 - peer : peer;
    std::byte* begin = static_cast<std::byte*>(data) + at;
    const int code = send ? MPI_Isend(begin, length, MPI_BYTE, peer, tag, requests_->comm, request)
                          : MPI_Irecv(begin, length, MPI_BYTE, peer, tag, requests_->comm, request);
    if (code != MPI_SUCCESS) undeliverable(code);
  }
}

// MPI often knows of a dead peer before its host has told who it was: that is the better answer.
void WideCommunicator::undeliverable(int code) {
  constexpr int kPatience = 1000;  // milliseconds
  for (int nap = 0; nap < kPatience && !world_.host().failed(); ++nap) ::usleep(1000);
  world_.check_failed();
  world_.fail_and_throw({.rank = -1,
                         .host = world_.host().host_name(),
                         .operation = waiting_in(),
                         .what = fmt::format("{}: MPI could not deliver (error {})", waiting_in(), code),
                         .next = "Look at the network and at the other hosts."});
}

void WideCommunicator::post_send(void* data, int64_t bytes, int peer) {
  post(true, data, bytes, peer, kTag);
}
void WideCommunicator::post_receive(void* data, int64_t bytes, int peer) {
  post(false, data, bytes, peer, kTag);
}

// Open receives name memory that goes with this object and its user's buffers, and the next call of MPI, for whatever
// purpose, would still deliver into it. A receive that no message has met yet can be cancelled without its sender; one
// that is just being filled gets a moment, since its sender may be gone.
void WideCommunicator::withdraw() {
  constexpr int kPatience = 200;  // naps of a millisecond, for all together
  int naps = 0;
  for (size_t i = 0; i < requests_->open; ++i) {
    if (requests_->peers[i] < 0 || requests_->all[i] == MPI_REQUEST_NULL) continue;
    MPI_Cancel(&requests_->all[i]);
    int done = 0;
    for (;;) {
      MPI_Test(&requests_->all[i], &done, MPI_STATUS_IGNORE);
      if (done != 0 || ++naps > kPatience) break;
      ::usleep(1000);
    }
  }
  requests_->open = 0;
}

bool WideCommunicator::all_there() {
  int done = 0;
  const int code = MPI_Testall(static_cast<int>(requests_->open), requests_->all.data(), &done, MPI_STATUSES_IGNORE);
  if (code != MPI_SUCCESS) {
    check_greetings();  // a message longer than expected is an error of MPI first
    undeliverable(code);
  }
  if (done == 0) return false;
  requests_->open = 0;
  return true;
}

bool WideCommunicator::progress() {
  bool moved = false;
  while (outstanding()) {
    if (phase_ == Phase::idle) enter_greet();
    if (!all_there()) return moved;
    moved = true;
    advance();
  }
  return moved;
}

void WideCommunicator::enter_greet() {
  phase_ = Phase::greet;
  Operation& oldest = operation(completed_ + 1);
  if (oldest.greeting.kind == RequestKind::exchange) return post_ends();
  for (int peer = 0; peer < n_; ++peer) {
    if (peer == me_) continue;
    post_receive(&greetings_[static_cast<size_t>(peer)], sizeof(Terms), peer);
    post_send(&oldest.greeting, sizeof(Terms), peer);
  }
}

void WideCommunicator::post_ends() {
  const Operation& oldest = operation(completed_ + 1);
  for (uint64_t i = oldest.ends_begin; i != oldest.ends_end; ++i) {
    End& end = ends_[i % ends_.size()];
    Terms& greeting = end.sends ? end.greeting : greetings_[i - oldest.ends_begin];
    post(end.sends, &greeting, sizeof(Terms), end.peer, kMessageGreetingTag);
    post(end.sends, end.data, end.greeting.count * size_of(end.greeting.dtype), end.peer, kMessageTag);
  }
}

void WideCommunicator::check_greetings() {
  const Operation& oldest = operation(completed_ + 1);
  const auto differ = [&](int other, const std::string& what) {
    world_.disagree(ranks_[static_cast<size_t>(other)], name_, waiting_in(), what);
  };
  if (oldest.greeting.kind == RequestKind::exchange) {
    for (uint64_t i = oldest.ends_begin; i != oldest.ends_end; ++i) {
      const End& end = ends_[i % ends_.size()];
      const Terms& theirs = greetings_[i - oldest.ends_begin];
      if (end.sends || (theirs.kind == RequestKind::exchange && theirs.count == end.greeting.count &&
                        theirs.dtype == end.greeting.dtype))
        continue;
      differ(end.peer, fmt::format("rank {} sends {} {} in {} '{}', rank {} receives {} {} in exchange '{}'",
                                   ranks_[static_cast<size_t>(end.peer)], theirs.count, name_of(theirs.dtype),
                                   name_of(theirs.kind), theirs.label, world_.rank(), end.greeting.count,
                                   name_of(end.greeting.dtype), end.greeting.label));
    }
    return;
  }
  greetings_[static_cast<size_t>(me_)] = oldest.greeting;
  const Terms& first = greetings_[0];
  for (int member = 1; member < n_; ++member) {
    const Terms& other = greetings_[static_cast<size_t>(member)];
    if (same_operation(first, other)) continue;
    differ(member, fmt::format("rank {} starts {}, rank {} starts {}", ranks_[0], describe(first),
                               ranks_[static_cast<size_t>(member)], describe(other)));
  }
}

void WideCommunicator::advance() {
  const RequestKind kind = operation(completed_ + 1).greeting.kind;
  switch (phase_) {
    case Phase::idle:
      return;
    case Phase::greet:
      check_greetings();
      round_ = 0;
      if (kind == RequestKind::exchange) return finish();
      return next_round();
    case Phase::gather:
      reduce_round();
      if (kind == RequestKind::all_reduce) return enter_spread();
      ++round_;
      return next_round();
    case Phase::spread:
      ++round_;
      return next_round();
  }
}

// A round handles `length_` elements from `begin_` of every part; an all_reduce takes n parts of them from the buffer.
void WideCommunicator::next_round() {
  const Terms& greeting = operation(completed_ + 1).greeting;
  const int64_t size = size_of(greeting.dtype);
  const int64_t parts = greeting.kind == RequestKind::all_reduce ? n_ : 1;
  const int64_t most = std::max<int64_t>(kScratchBytes / (n_ * size) / 64 * 64, 1);
  begin_ = round_ * most * parts;
  if (begin_ >= greeting.count) return finish();
  const int64_t left = greeting.count - begin_;
  length_ = std::min(most, (left + parts - 1) / parts);
  if (reduces(greeting.kind)) return enter_gather();
  enter_spread();
}

void WideCommunicator::enter_gather() {
  phase_ = Phase::gather;
  const Operation& oldest = operation(completed_ + 1);
  const int64_t size = size_of(oldest.greeting.dtype);
  auto* data = oldest.first.as<std::byte>();
  const bool whole = oldest.greeting.kind == RequestKind::all_reduce;
  const auto part_of = [&](int member, int64_t& length) {
    const int64_t at = whole ? begin_ + member * length_ : member * oldest.greeting.count + begin_;
    const int64_t end = whole ? oldest.greeting.count : (member + 1) * oldest.greeting.count;
    length = std::clamp<int64_t>(end - at, 0, length_);
    return data + at * size;
  };
  int64_t mine = 0;
  std::byte* own = part_of(me_, mine);
  for (int peer = 0; peer < n_; ++peer) {
    const auto slot = static_cast<size_t>(peer);
    sources_[slot] = peer == me_ ? own : scratch_.data() + peer * length_ * size;
    if (peer == me_) continue;
    int64_t theirs = 0;
    std::byte* part = part_of(peer, theirs);
    if (mine > 0) post_receive(const_cast<void*>(sources_[slot]), mine * size, peer);
    if (theirs > 0) post_send(part, theirs * size, peer);
  }
}

void WideCommunicator::reduce_round() {
  const Operation& oldest = operation(completed_ + 1);
  const bool whole = oldest.greeting.kind == RequestKind::all_reduce;
  const int64_t at = whole ? begin_ + me_ * length_ : begin_;
  void* own = const_cast<void*>(sources_[static_cast<size_t>(me_)]);
  reduce({.input = oldest.greeting.dtype,
          .output = oldest.greeting.dtype,
          .op = oldest.greeting.op,
          .group_sizes = sum_groups_,
          .sources = sources_,
          .outputs = {&own, 1},
          .count = std::clamp<int64_t>(oldest.greeting.count - at, 0, length_)});
}

void WideCommunicator::enter_spread() {
  phase_ = Phase::spread;
  const Operation& oldest = operation(completed_ + 1);
  const Terms& greeting = oldest.greeting;
  const int64_t size = size_of(greeting.dtype);
  auto* data = oldest.first.as<std::byte>();
  const bool whole = greeting.kind == RequestKind::all_reduce;
  for (int peer = 0; peer < n_; ++peer) {
    if (greeting.kind == RequestKind::all_to_all) {
      std::byte* from = data + (peer * greeting.count + begin_) * size;
      std::byte* to = oldest.second.as<std::byte>() + (peer * greeting.count + begin_) * size;
      if (peer == me_) {
        std::memcpy(to, from, static_cast<size_t>(length_ * size));
      } else {
        post_receive(to, length_ * size, peer);
        post_send(from, length_ * size, peer);
      }
      continue;
    }
    if (peer == me_) continue;
    if (greeting.kind == RequestKind::broadcast) {
      if (me_ == greeting.root) post_send(data + begin_ * size, length_ * size, peer);
      if (peer == greeting.root) post_receive(data + begin_ * size, length_ * size, peer);
      continue;
    }
    const auto at = [&](int member) { return whole ? begin_ + member * length_ : member * greeting.count + begin_; };
    const auto length = [&](int member) {
      return whole ? std::clamp<int64_t>(greeting.count - at(member), 0, length_) : length_;
    };
    if (length(peer) > 0) post_receive(data + at(peer) * size, length(peer) * size, peer);
    if (length(me_) > 0) post_send(data + at(me_) * size, length(me_) * size, peer);
  }
}

void WideCommunicator::finish() {
  ++completed_;
  phase_ = Phase::idle;
  if (outstanding()) enter_greet();
}

int WideCommunicator::missing(std::span<int> ranks) const {
  size_t count = 0;
  for (size_t i = 0; i < requests_->open; ++i) {
    MPI_Request& request = requests_->all[i];
    int done = 1;
    if (request != MPI_REQUEST_NULL) MPI_Request_get_status(request, &done, MPI_STATUS_IGNORE);
    const int peer = requests_->peers[i] < 0 ? -1 - requests_->peers[i] : requests_->peers[i];
    const int rank = ranks_[static_cast<size_t>(peer)];
    const auto end = ranks.begin() + static_cast<int64_t>(count);
    if (done == 0 && count < ranks.size() && std::find(ranks.begin(), end, rank) == end) ranks[count++] = rank;
  }
  return static_cast<int>(count);
}

std::string WideCommunicator::waiting_in() const {
  const Terms& oldest = operation(outstanding() ? completed_ + 1 : std::max<uint64_t>(started_, 1)).greeting;
  return fmt::format("{} on communicator '{}'", describe(oldest.kind, oldest.label, oldest.segment, oldest.step),
                     name_);
}

}  // namespace ridgeline::comm::detail

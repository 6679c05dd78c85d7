#include "ridgeline/comm/wide_communicator.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <exception>

#include "ridgeline/base/error.h"

namespace ridgeline::comm::detail {
namespace {

constexpr int64_t kBoardStart = 64;  // BoardStart, and then the neighbours
static_assert(sizeof(BoardStart) <= kBoardStart);
constexpr int64_t kNotThere = -1;  // as a count: a greeting that has not arrived
// Greetings and data of exchanges have tags of their own: the k-th message to a peer is its k-th, however the two ranks
// group their messages into exchanges.
constexpr int kTag = 1, kMessageGreetingTag = 2, kMessageTag = 3, kGreetingTag = 4;

}  // namespace

WideCommunicator::WideCommunicator(RankWorld& world, std::unique_ptr<Channel> channel, std::span<const int> ranks,
                                   std::span<const int> hosts, std::string_view name, uint64_t key)
    : world_(world),
      channel_(std::move(channel)),
      ranks_(ranks.begin(), ranks.end()),
      layout_(hosts, world.options().sum_group),
      name_(name),
      n_(static_cast<int>(ranks.size())) {
  me_ = static_cast<int>(std::find(ranks_.begin(), ranks_.end(), world.rank()) - ranks_.begin());
  host_ = layout_.host_of(me_);
  make_board(key);
  operations_.resize(kOutstanding);
  ends_.resize(kOutstanding * 4);
  greetings_.resize(static_cast<size_t>(std::max<int>(n_, 2 * kMessages)));
  scratch_ = std::make_unique_for_overwrite<std::byte[]>(kScratchBytes);
  sources_.reserve(static_cast<size_t>(n_));
  parts_.reserve(static_cast<size_t>(n_));
  world_.add(this);
}

void WideCommunicator::make_board(uint64_t key) {
  const auto neighbours = static_cast<int64_t>(layout_.members(host_).size());
  const int64_t stages = neighbours > 1 ? neighbours * kStageBytes : 0;
  board_offset_ = world_.host().find_board(key, kBoardStart + neighbours * int64_t{sizeof(Neighbour)} + stages);
  reinterpret_cast<BoardStart*>(world_.host().at(board_offset_))->name.store(name_);
}

WideCommunicator::~WideCommunicator() {
  if (outstanding() && std::uncaught_exceptions() == 0 && !world_.host().failed()) {
    world_.fail(fmt::format("destroyed communicator '{}' before waiting for {}", name_, waiting_in()));
  }
  world_.remove(this);
  // What is posted names memory that goes with this object and its user's buffers.
  if (outstanding() || world_.host().failed()) channel_->withdraw();
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
  try {
    if (send) {
      channel_->send(data, bytes, peer, tag);
    } else {
      channel_->receive(data, bytes, peer, tag);
    }
  } catch (const Undeliverable& error) {
    undeliverable(error);
  }
  const bool data_of_user = tag == kTag || tag == kMessageTag;
  if (send && data_of_user && layout_.host_of(peer) != host_) sent_ += bytes;
}

// The wire often knows of a dead peer before its host has told who it was: that is the better answer. What does not fit
// was announced by a greeting, which says more.
void WideCommunicator::undeliverable(const Undeliverable& error) {
  if (phase_ == Phase::greet) check_greetings();
  constexpr int kPatience = 1000;  // milliseconds
  for (int nap = 0; nap < kPatience && !world_.host().failed(); ++nap) {
    if (world_.host().watcher_is_gone()) world_.host().fail_unwatched();
    ::usleep(1000);
  }
  world_.check_failed();
  world_.fail_and_throw({.rank = -1,
                         .host = world_.host().host_name(),
                         .operation = waiting_in(),
                         .what = fmt::format("{}: {}", waiting_in(), error.message()),
                         .next = "Look at the network and at the other hosts."});
}

void WideCommunicator::post_send(void* data, int64_t bytes, int peer) {
  post(true, data, bytes, peer, kTag);
}
void WideCommunicator::post_receive(void* data, int64_t bytes, int peer) {
  post(false, data, bytes, peer, kTag);
}

Channel::Progress WideCommunicator::progress_of_messages() {
  try {
    return channel_->progress();
  } catch (const Undeliverable& error) {
    undeliverable(error);
  }
}

bool WideCommunicator::all_there(bool& moved) {
  const Channel::Progress messages = progress_of_messages();
  moved = moved || messages.moved;
  return messages.done && neighbours_there();
}

bool WideCommunicator::progress() {
  bool moved = false;
  while (outstanding()) {
    if (phase_ == Phase::idle) enter_greet();
    if (!all_there(moved)) return moved;
    moved = true;
    advance();
  }
  return moved;
}

void WideCommunicator::enter_greet() {
  phase_ = Phase::greet;
  for (Terms& greeting : greetings_) greeting.count = kNotThere;
  Operation& first = operation(completed_ + 1);
  if (first.greeting.kind == RequestKind::exchange) return post_ends();
  for (int peer = 0; peer < n_; ++peer) {
    if (peer == me_) continue;
    post(false, &greetings_[static_cast<size_t>(peer)], sizeof(Terms), peer, kGreetingTag);
    post(true, &first.greeting, sizeof(Terms), peer, kGreetingTag);
  }
}

void WideCommunicator::post_ends() {
  const Operation& exchange = oldest();
  for (uint64_t i = exchange.ends_begin; i != exchange.ends_end; ++i) {
    End& end = ends_[i % ends_.size()];
    Terms& greeting = end.sends ? end.greeting : greetings_[i - exchange.ends_begin];
    post(end.sends, &greeting, sizeof(Terms), end.peer, kMessageGreetingTag);
    post(end.sends, end.data, end.greeting.count * size_of(end.greeting.dtype), end.peer, kMessageTag);
  }
}

void WideCommunicator::check_greetings() {
  if (oldest().greeting.kind == RequestKind::exchange) return check_messages();
  greetings_[static_cast<size_t>(me_)] = oldest().greeting;
  const auto is_there = [](const Terms& greeting) { return greeting.count != kNotThere; };
  const auto found = std::find_if(greetings_.begin(), greetings_.begin() + n_, is_there);
  const Terms& first = *found;
  const int first_rank = ranks_[static_cast<size_t>(found - greetings_.begin())];
  for (int member = 1; member < n_; ++member) {
    const Terms& other = greetings_[static_cast<size_t>(member)];
    if (!is_there(other) || same_operation(first, other)) continue;
    const int rank = ranks_[static_cast<size_t>(member)];
    world_.disagree(
        rank, name_, waiting_in(),
        fmt::format("rank {} starts {}, rank {} starts {}", first_rank, describe(first), rank, describe(other)));
  }
}

void WideCommunicator::check_messages() {
  const Operation& exchange = oldest();
  for (uint64_t i = exchange.ends_begin; i != exchange.ends_end; ++i) {
    const End& end = ends_[i % ends_.size()];
    const Terms& theirs = greetings_[i - exchange.ends_begin];
    if (end.sends || theirs.count == kNotThere ||
        (theirs.kind == RequestKind::exchange && theirs.count == end.greeting.count &&
         theirs.dtype == end.greeting.dtype))
      continue;
    const int rank = ranks_[static_cast<size_t>(end.peer)];
    world_.disagree(rank, name_, waiting_in(),
                    fmt::format("rank {} sends {} {} in {} '{}', rank {} receives {} {} in exchange '{}'", rank,
                                theirs.count, name_of(theirs.dtype), name_of(theirs.kind), theirs.label, world_.rank(),
                                end.greeting.count, name_of(end.greeting.dtype), end.greeting.label));
  }
}

void WideCommunicator::advance() {
  if (phase_ != Phase::greet) return advance_round();
  check_greetings();
  if (oldest().greeting.kind == RequestKind::exchange) return finish();
  begin_rounds();
}

WideCommunicator::Neighbour& WideCommunicator::neighbour(int member) const {
  auto* first = reinterpret_cast<Neighbour*>(world_.host().at(board_offset_) + kBoardStart);
  return first[layout_.place_of(member)];
}

std::byte* WideCommunicator::stage(int member, int owner) const {
  const auto neighbours = static_cast<int64_t>(layout_.members(host_).size());
  std::byte* stages = world_.host().at(board_offset_) + kBoardStart + neighbours * int64_t{sizeof(Neighbour)};
  return stages + layout_.place_of(member) * kStageBytes + owner * length_ * element_bytes();
}

void WideCommunicator::arrive() {
  neighbour(me_).step.store(++step_, std::memory_order_seq_cst);
  if (!neighbours_there()) return;
  for (const int member : layout_.members(host_)) {
    if (member != me_) world_.host().ring(world_.host().local_rank(ranks_[static_cast<size_t>(member)]));
  }
}

bool WideCommunicator::neighbours_there() const {
  const std::span<const int> members = layout_.members(host_);
  return std::all_of(members.begin(), members.end(),
                     [&](int member) { return neighbour(member).step.load(std::memory_order_seq_cst) >= step_; });
}

void WideCommunicator::finish() {
  ++completed_;
  phase_ = Phase::idle;
  if (outstanding()) enter_greet();
}

int WideCommunicator::missing(std::span<int> ranks) const {
  auto count = static_cast<size_t>(channel_->missing(ranks));
  for (int& one : ranks.first(count)) one = ranks_[static_cast<size_t>(one)];
  for (const int member : layout_.members(host_)) {
    if (neighbour(member).step.load(std::memory_order_acquire) < step_) {
      add_once(ranks, count, ranks_[static_cast<size_t>(member)]);
    }
  }
  return static_cast<int>(count);
}

std::string WideCommunicator::waiting_in() const {
  const Terms& latest = operation(outstanding() ? completed_ + 1 : std::max<uint64_t>(started_, 1)).greeting;
  return fmt::format("{} on communicator '{}'", describe(latest.kind, latest.label, latest.segment, latest.step),
                     name_);
}

}  // namespace ridgeline::comm::detail

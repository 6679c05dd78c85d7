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
  greetings_.resize(kAhead * ranks.size());
  message_greetings_.resize(ends_.size());
  scratch_ = std::make_unique_for_overwrite<std::byte[]>(kPieces * kPieceBytes);
  for (Piece& piece : pieces_) piece.sources.reserve(ranks.size());
  parts_.reserve(static_cast<size_t>(n_));
  world_.add(this);
}

void WideCommunicator::make_board(uint64_t key) {
  const auto neighbours = static_cast<int64_t>(layout_.members(host_).size());
  const int64_t stages = neighbours > 1 ? neighbours * int64_t{kPieces} * kPieceBytes : 0;
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
  entry.pieces_end = 0;
  entry.ends_begin = ends_count_;
  take_ends(request);
  entry.ends_end = ends_count_;
  entry.greeting = terms_of(request);
  entry.first = request.buffer;
  entry.second = request.received;
  ++started_;
  // It says at once that it is there, so that the others know whom they wait for; and what is on its way gets on.
  progress();
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

void WideCommunicator::post(bool send, void* data, int64_t bytes, int peer, Tag tag, Batch& batch) {
  try {
    if (send) {
      channel_->send(data, bytes, peer, tag, batch);
    } else {
      channel_->receive(data, bytes, peer, tag, batch);
    }
  } catch (const Undeliverable& error) {
    undeliverable(error);
  }
}

void WideCommunicator::post_send(Piece& piece, void* data, int64_t bytes, int peer, Tag tag) {
  post(true, data, bytes, peer, tag, piece.messages);
  if (layout_.host_of(peer) != host_) sent_ += bytes;
}

void WideCommunicator::post_receive(Piece& piece, void* data, int64_t bytes, int peer, Tag tag) {
  post(false, data, bytes, peer, tag, piece.messages);
}

// The wire often knows of a dead peer before its host has told who it was: that is the better answer. What does not fit
// was announced by a greeting, which says more.
void WideCommunicator::undeliverable(const Undeliverable& error) {
  if (begun_ > completed_ && is_exchange(begun_)) check_messages();
  for (uint64_t ticket = begun_ + 1; ticket <= announced_; ++ticket) check_greetings(ticket);
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

bool WideCommunicator::progress() {
  bool moved = false;
  try {
    moved = channel_->progress();
  } catch (const Undeliverable& error) {
    undeliverable(error);
  }
  // What is furthest goes first: it makes room.
  while (outstanding() &&
         (finish() || share() || complete_spread() || spread() || gather() || enter() || begin() || announce())) {
    moved = true;
  }
  return moved;
}

std::span<Terms> WideCommunicator::greetings(uint64_t ticket) {
  const auto n = static_cast<size_t>(n_);
  return {greetings_.data() + ticket % kAhead * n, n};
}

bool WideCommunicator::announce() {
  if (announced_ == started_ || announced_ >= completed_ + kAhead) return false;
  const uint64_t ticket = ++announced_;
  if (is_exchange(ticket)) return true;  // each message announces itself
  Operation& next = operation(ticket);
  for (Terms& greeting : greetings(ticket)) greeting.count = kNotThere;
  for (int peer = 0; peer < n_; ++peer) {
    if (peer == me_) continue;
    post(false, &greetings(ticket)[static_cast<size_t>(peer)], sizeof(Terms), peer, kGreetingTag, next.messages);
    post(true, &next.greeting, sizeof(Terms), peer, kGreetingTag, next.messages);
  }
  return true;
}

// Of this rank's buffers: two operations that use one memory go one after the other, as their tickets say.
bool WideCommunicator::overlaps_outstanding(const Operation& later) const {
  const auto end_of = [&](const Operation& one, const Ref& buffer) {
    const Terms& terms = one.greeting;
    return buffer.as<std::byte>() + terms.count * size_of(terms.dtype) * (by_parts(terms.kind) ? n_ : 1);
  };
  for (uint64_t ticket = completed_ + 1; ticket <= begun_; ++ticket) {
    const Operation& earlier = operation(ticket);
    for (const Ref& one : {earlier.first, earlier.second}) {
      for (const Ref& other : {later.first, later.second}) {
        if (one.data != nullptr && other.data != nullptr && one.as<std::byte>() < end_of(later, other) &&
            other.as<std::byte>() < end_of(earlier, one))
          return true;
      }
    }
  }
  return false;
}

bool WideCommunicator::begin() {
  if (begun_ == announced_ || (begun_ > completed_ && is_exchange(begun_))) return false;
  const uint64_t ticket = begun_ + 1;
  Operation& next = operation(ticket);
  if (is_exchange(ticket)) {
    if (completed_ != begun_) return false;
    begun_ = ticket;
    post_ends();
    return true;
  }
  if (next.messages.open > 0) return false;
  check_greetings(ticket);
  if (overlaps_outstanding(next)) return false;
  begun_ = ticket;
  cut_ += piece_count(next.greeting);
  next.pieces_end = cut_;
  return true;
}

bool WideCommunicator::finish() {
  if (completed_ == begun_) return false;
  const Operation& oldest = operation(completed_ + 1);
  if (oldest.messages.open > 0 || !finished(oldest)) return false;
  if (is_exchange(completed_ + 1)) check_messages();
  ++completed_;
  return true;
}

void WideCommunicator::post_ends() {
  Operation& exchange = operation(begun_);
  for (uint64_t i = exchange.ends_begin; i != exchange.ends_end; ++i) {
    End& end = ends_[i % ends_.size()];
    const int64_t bytes = end.greeting.count * size_of(end.greeting.dtype);
    Terms& greeting = end.sends ? end.greeting : message_greetings_[i % ends_.size()];
    if (!end.sends) greeting.count = kNotThere;
    post(end.sends, &greeting, sizeof(Terms), end.peer, kMessageTag, exchange.messages);
    post(end.sends, end.data, bytes, end.peer, kMessageTag, exchange.messages);
    if (end.sends && layout_.host_of(end.peer) != host_) sent_ += bytes;
  }
}

void WideCommunicator::check_greetings(uint64_t ticket) {
  if (is_exchange(ticket)) return;
  const std::span<Terms> all = greetings(ticket);
  all[static_cast<size_t>(me_)] = operation(ticket).greeting;
  const auto is_there = [](const Terms& greeting) { return greeting.count != kNotThere; };
  const auto found = std::find_if(all.begin(), all.end(), is_there);
  const Terms& first = *found;
  const int first_rank = ranks_[static_cast<size_t>(found - all.begin())];
  for (int member = 1; member < n_; ++member) {
    const Terms& other = all[static_cast<size_t>(member)];
    if (!is_there(other) || same_operation(first, other)) continue;
    const int rank = ranks_[static_cast<size_t>(member)];
    world_.disagree(
        rank, name_, text_of(ticket),
        fmt::format("rank {} starts {}, rank {} starts {}", first_rank, describe(first), rank, describe(other)));
  }
}

void WideCommunicator::check_messages() {
  const Operation& exchange = operation(begun_);
  for (uint64_t i = exchange.ends_begin; i != exchange.ends_end; ++i) {
    const End& end = ends_[i % ends_.size()];
    const Terms& theirs = message_greetings_[i % ends_.size()];
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

WideCommunicator::Neighbour& WideCommunicator::neighbour(int member) const {
  auto* first = reinterpret_cast<Neighbour*>(world_.host().at(board_offset_) + kBoardStart);
  return first[layout_.place_of(member)];
}

void WideCommunicator::arrive(Step step) {
  const uint64_t end = ++steps_[step];
  neighbour(me_).steps[step].store(end, std::memory_order_seq_cst);
  // The last to come wakes the others.
  if (!all_past(step, end)) return;
  for (const int member : layout_.members(host_)) {
    if (member != me_) world_.host().ring(world_.host().local_rank(ranks_[static_cast<size_t>(member)]));
  }
}

bool WideCommunicator::all_past(Step step, uint64_t end) const {
  const std::span<const int> members = layout_.members(host_);
  return std::all_of(members.begin(), members.end(),
                     [&](int member) { return neighbour(member).steps[step].load(std::memory_order_seq_cst) >= end; });
}

// Whom the oldest operation waits for, in its messages and on its host: others may not have come to later ones.
int WideCommunicator::missing(std::span<int> ranks) const {
  const Operation& oldest = operation(completed_ + 1);
  size_t count = 0;
  const auto add_members_of = [&](const Batch& batch) {
    const auto found = static_cast<size_t>(channel_->missing(batch, ranks.subspan(count)));
    const auto begin = count;
    for (size_t i = begin; i < begin + found; ++i) add_once(ranks, count, ranks_[static_cast<size_t>(ranks[i])]);
  };
  add_members_of(oldest.messages);
  for (uint64_t number = steps_[left]; number < std::min(steps_[entered], oldest.pieces_end); ++number)
    add_members_of(pieces_[number % kPieces].messages);
  for (const int member : layout_.members(host_)) {
    for (const Step step : {entered, complete, left}) {
      if (neighbour(member).steps[step].load(std::memory_order_acquire) < std::min(steps_[step], oldest.pieces_end))
        add_once(ranks, count, ranks_[static_cast<size_t>(member)]);
    }
  }
  return static_cast<int>(count);
}

std::string WideCommunicator::text_of(uint64_t ticket) const {
  const Terms& terms = operation(ticket).greeting;
  return fmt::format("{} on communicator '{}'", describe(terms.kind, terms.label, terms.segment, terms.step), name_);
}

std::string WideCommunicator::waiting_in() const {
  return text_of(outstanding() ? completed_ + 1 : std::max<uint64_t>(started_, 1));
}

}  // namespace ridgeline::comm::detail

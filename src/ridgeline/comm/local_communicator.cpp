#include "ridgeline/comm/local_communicator.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>

namespace ridgeline::comm::detail {

LocalCommunicator::LocalCommunicator(RankWorld& world, std::span<const int> ranks, std::string_view name, uint64_t key)
    : world_(world), ranks_(ranks.begin(), ranks.end()), name_(name), n_(static_cast<int>(ranks.size())) {
  const Host& host = world.host();
  for (int member = 0; member < n_; ++member) {
    locals_.push_back(host.local_rank(ranks_[static_cast<size_t>(member)]));
    if (ranks_[static_cast<size_t>(member)] == world.rank()) me_ = member;
  }
  const int run = std::max(1, world.options().sum_group);
  for (int first = 0; first < n_; first += run) sum_groups_.push_back(std::min(run, n_ - first));
  board_offset_ = world.host().find_board(key, Board::bytes(n_, host.stage_bytes()));
  board_ = Board(host.at(board_offset_), n_, host.stage_bytes());
  board_.start().name.store(name);
  tickets_.resize(kTickets);
  collectives_.resize(kSlots);
  sent_.resize(static_cast<size_t>(n_));
  received_.resize(static_cast<size_t>(n_));
  incoming_.resize(kMessages);
  outgoing_.resize(kMessages);
  sources_.resize(static_cast<size_t>(n_));
  outputs_.resize(static_cast<size_t>(n_));
  world_.add(this);
}

LocalCommunicator::~LocalCommunicator() {
  const Host& host = world_.host();
  if (outstanding()) {
    // The caller's buffers may be gone after this: make the peers keep off them first.
    if (std::uncaught_exceptions() == 0 && !host.failed()) {
      world_.fail(fmt::format("destroyed communicator '{}' before waiting for {}", name_, waiting_in()));
    }
    host.board().stopping.store(1, std::memory_order_seq_cst);
    host.quiesce(world_.local());
  }
  world_.remove(this);
}

std::string LocalCommunicator::on_this() const {
  return fmt::format(" on communicator '{}'", name_);
}

Ticket LocalCommunicator::start(const Request& request) {
  world_.check_failed();
  return request.kind == RequestKind::exchange ? start_exchange(request) : start_collective(request);
}

void LocalCommunicator::wait(Ticket ticket) {
  RL_REQUIRE(ticket.number <= started_, "ticket {} was never given out, only {}", ticket.number, started_);
  world_.check_failed();
  if (completed_ >= ticket.number) return;
  world_.wait_until(*this, [&] { return completed_ >= ticket.number; });
}

bool LocalCommunicator::progress() {
  bool moved = false;
  while (progress_collective()) moved = true;
  if (incoming_begin_ != incoming_end_ || board_.member(me_).messages_begin.load(std::memory_order_relaxed) !=
                                              board_.member(me_).messages_end.load(std::memory_order_relaxed)) {
    moved = progress_messages() || moved;
  }
  return moved;
}

uint64_t LocalCommunicator::new_ticket(RequestKind kind, int32_t remaining, const Label& label) {
  if (started_ - completed_ == kTickets) {
    const uint64_t oldest = completed_ + 1;
    world_.wait_until(*this, [&] { return completed_ >= oldest; });
  }
  world_.record_operation(board_offset_, kind, label);
  Outstanding& entry = outstanding_at(++started_);
  entry.kind = kind;
  entry.remaining = remaining;
  entry.segment = label.segment;
  entry.step = label.step;
  std::strncpy(entry.label, label.what, sizeof(entry.label) - 1);
  entry.label[sizeof(entry.label) - 1] = 0;
  if (remaining == 0) {
    ++entry.remaining;
    finish(started_);
  }
  return started_;
}

void LocalCommunicator::finish(uint64_t ticket) {
  --outstanding_at(ticket).remaining;
  while (completed_ < started_ && outstanding_at(completed_ + 1).remaining == 0) ++completed_;
}

void LocalCommunicator::ring_members() const {
  for (int step = 1; step < n_; ++step) ring((me_ + step) % n_);
}

std::string LocalCommunicator::waiting_in() const {
  const Outstanding& oldest = outstanding_at(outstanding() ? completed_ + 1 : std::max<uint64_t>(started_, 1));
  return describe(oldest.kind, oldest.label, oldest.segment, oldest.step) + on_this();
}

int LocalCommunicator::missing(std::span<int> ranks) const {
  size_t count = 0;
  const auto add = [&](int member) {
    const int rank = ranks_[static_cast<size_t>(member)];
    const auto end = ranks.begin() + static_cast<int64_t>(count);
    if (count < ranks.size() && std::find(ranks.begin(), end, rank) == end) ranks[count++] = rank;
  };
  const uint64_t oldest = completed_ + 1;
  if (collectives_begin_ != collectives_end_ && collectives_[collectives_begin_ % kSlots].ticket == oldest) {
    const Collective& collective = collectives_[collectives_begin_ % kSlots];
    const Meeting& meeting = board_.meeting(collectives_begin_);
    const bool open = meeting.opened.load(std::memory_order_acquire) == collectives_begin_ + 1;
    for (int member = 0; member < n_; ++member) {
      if (member == me_) continue;
      const MemberState& state = board_.member(member);
      if (!open) {
        if (state.published.load(std::memory_order_acquire) <= collectives_begin_) add(member);
      } else if (collective.plan.staged) {
        const uint64_t mine = board_.member(me_).readied.load(std::memory_order_relaxed);
        if (state.readied.load(std::memory_order_acquire) < mine) add(member);
      }
    }
    if (open && count == 0) {  // all arrived: someone is inside a chunk
      for (int member = 0; member < n_; ++member) {
        const int local = locals_[static_cast<size_t>(member)];
        if (member != me_ && world_.host().state(local).busy.load(std::memory_order_relaxed) != 0) add(member);
      }
    }
  } else {
    for (uint64_t i = incoming_begin_; i != incoming_end_; ++i) {
      const Incoming& incoming = incoming_[i % kMessages];
      if (!incoming.done && incoming.ticket == oldest) add(incoming.peer);
    }
    const MemberState& mine = board_.member(me_);
    for (uint64_t i = mine.messages_begin.load(std::memory_order_relaxed);
         i != mine.messages_end.load(std::memory_order_relaxed); ++i) {
      const Outgoing& outgoing = outgoing_[i % kMessages];
      if (outgoing.ticket == oldest && board_.message(me_, i).finished.load(std::memory_order_relaxed) == 0)
        add(outgoing.peer);
    }
  }
  return static_cast<int>(count);
}

}  // namespace ridgeline::comm::detail

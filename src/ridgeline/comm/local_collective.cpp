#include <fmt/format.h>

#include <algorithm>

#include "ridgeline/base/error.h"
#include "ridgeline/comm/kernels.h"
#include "ridgeline/comm/local_communicator.h"

namespace ridgeline::comm::detail {
namespace {

constexpr int64_t kSmallestChunk = 64 << 10;  // bytes of one rank's buffer
constexpr int64_t kLargestChunk = 1 << 20;
constexpr int64_t kStreamingBytes = 8 << 20;  // all ranks' buffers together: more than stays in the caches

int64_t ceil_div(int64_t value, int64_t unit) {
  return (value + unit - 1) / unit;
}

}  // namespace

Ticket LocalCommunicator::start_collective(const Request& request) {
  const uint64_t number = collectives_end_;
  if (number - collectives_begin_ == kSlots || !everyone_retired(number)) {
    world_.wait_until(*this, [&] { return number - collectives_begin_ < kSlots && everyone_retired(number); });
  }
  Collective& collective = collectives_[number % kSlots];
  collective.header = {terms_of(request), {}, {}};
  Header& header = collective.header;
  const int64_t bytes = request.count * size_of(header.dtype) * (by_parts(request.kind) ? n_ : 1);
  if (bytes > 0) {
    header.first = world_.host().place_of(world_.local(), request.buffer.data, bytes);
    if (request.received) header.second = world_.host().place_of(world_.local(), request.received.data, bytes);
  }
  collective.first = request.buffer;
  collective.second = request.received;
  collective.planned = false;
  collective.round = 0;
  collective.ticket = new_ticket(request.kind, 1, request.label);
  board_.header(number, me_) = header;
  ++collectives_end_;

  board_.member(me_).published.store(number + 1, std::memory_order_seq_cst);
  Meeting& meeting = board_.meeting(number);
  if (meeting.arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<uint32_t>(n_)) {
    meeting.arrived.store(0, std::memory_order_relaxed);
    meeting.claimed.store(0, std::memory_order_relaxed);
    meeting.done.store(0, std::memory_order_relaxed);
    meeting.ready.store(0, std::memory_order_relaxed);
    meeting.opened.store(number + 1, std::memory_order_seq_cst);
    // A short operation needs one more rank at most: it wakes the others when the result is there. Those not asleep yet
    // are told, so that they do not fall asleep over it. Where data is staged everybody has something to do.
    bool staged = false;
    for (int member = 0; member < n_; ++member) {
      const Header& theirs = board_.header(number, member);
      staged = staged || theirs.first.place == BufferPlace::kStaged || theirs.second.place == BufferPlace::kStaged;
    }
    int wake = bytes > 0 && bytes <= kSmallestChunk && !staged ? 1 : n_;
    for (int step = 1; step < n_ && wake > 0; ++step) {
      const int member = (me_ + step) % n_;
      const Bell& bell = world_.host().state(locals_[static_cast<size_t>(member)]).bell;
      if (bell.sleeping.load(std::memory_order_seq_cst) != 0) --wake;
      ring(member);
    }
  }
  return {collective.ticket};
}

// The slot of collective `number` may be written again: nobody looks at the one that had it before.
bool LocalCommunicator::everyone_retired(uint64_t number) const {
  if (number < kSlots) return true;
  for (int member = 0; member < n_; ++member) {
    if (board_.member(member).retired.load(std::memory_order_seq_cst) + kSlots <= number) return false;
  }
  return true;
}

void LocalCommunicator::retire(uint64_t number) {
  board_.member(me_).retired.store(number + 1, std::memory_order_seq_cst);
  for (int member = 0; member < n_; ++member) {
    if (member != me_ && board_.member(member).published.load(std::memory_order_seq_cst) >= number + kSlots)
      ring(member);
  }
}

bool LocalCommunicator::progress_collective() {
  if (collectives_begin_ == collectives_end_) return false;
  const uint64_t number = collectives_begin_;
  Meeting& meeting = board_.meeting(number);
  if (meeting.opened.load(std::memory_order_acquire) != number + 1) return false;
  Collective& collective = collectives_[number % kSlots];
  bool moved = false;
  if (!collective.planned) {
    verify(collective);
    collective.plan = make_plan(collective);
    collective.planned = true;
    moved = true;
    if (collective.plan.staged) make_ready(collective, meeting);
  }
  const Plan& plan = collective.plan;
  for (;;) {
    moved = do_chunks(collective, meeting) || moved;
    const uint64_t needed = std::min(plan.chunks, static_cast<uint64_t>(collective.round + 1) * plan.chunks_per_round);
    if (meeting.done.load(std::memory_order_acquire) < needed) return moved;
    moved = true;
    if (plan.staged) copy_staged(collective, collective.round, false);
    if (++collective.round >= plan.rounds) break;
    make_ready(collective, meeting);
  }
  ++collectives_begin_;
  retire(number);
  finish(collective.ticket);
  return true;
}

void LocalCommunicator::verify(const Collective& collective) {
  const Header& first = board_.header(collectives_begin_, 0);
  for (int member = 1; member < n_; ++member) {
    const Header& other = board_.header(collectives_begin_, member);
    if (same_operation(first, other)) continue;
    const int theirs = ranks_[static_cast<size_t>(member)];
    world_.disagree(
        theirs, name_, describe(collective.header) + on_this(),
        fmt::format("rank {} starts {}, rank {} starts {}", ranks_[0], describe(first), theirs, describe(other)));
  }
}

LocalCommunicator::Plan LocalCommunicator::make_plan(const Collective& collective) const {
  const Header& header = collective.header;
  const int64_t size = size_of(header.dtype);
  const int64_t parts = by_parts(header.kind) ? n_ : 1;
  Plan plan;
  plan.length = header.count;
  if (header.count == 0 || (n_ == 1 && header.kind != RequestKind::all_to_all)) return plan;
  for (int member = 0; member < n_; ++member) {
    const Header& theirs = board_.header(collectives_begin_, member);
    plan.staged =
        plan.staged || theirs.first.place == BufferPlace::kStaged || theirs.second.place == BufferPlace::kStaged;
  }
  plan.round_length = plan.length;
  if (plan.staged) {
    const int64_t halves = header.kind == RequestKind::all_to_all ? 2 : 1;
    int64_t fits = board_.stage_bytes() / (halves * parts * size);
    if (fits >= 64) fits = fits / 64 * 64;
    RL_REQUIRE(fits > 0, "stage of {} bytes for {} ranks", board_.stage_bytes(), n_);
    plan.round_length = std::min(plan.length, fits);
  }
  plan.rounds = ceil_div(plan.length, plan.round_length);
  plan.blocks = header.kind == RequestKind::all_to_all ? int64_t{n_} * n_ : parts;
  // Some chunks per rank, so that nobody waits long for the last one; multiples of a cache line.
  const int64_t total = plan.round_length * size * plan.blocks;
  const int64_t bytes = std::clamp(total / (4 * n_), kSmallestChunk, kLargestChunk);
  plan.chunk_length = std::min(plan.round_length, std::max<int64_t>(bytes / size / 64 * 64, 64));
  plan.chunks_per_round = static_cast<uint64_t>(plan.blocks * ceil_div(plan.round_length, plan.chunk_length));
  plan.chunks = plan.chunks_per_round * static_cast<uint64_t>(plan.rounds);
  plan.streaming = !plan.staged && plan.length * size * parts * n_ >= kStreamingBytes;
  return plan;
}

void LocalCommunicator::make_ready(Collective& collective, Meeting& meeting) {
  copy_staged(collective, collective.round, true);
  board_.member(me_).readied.store(collectives_begin_ << 24 | static_cast<uint64_t>(collective.round + 1),
                                   std::memory_order_relaxed);
  const uint64_t everyone = static_cast<uint64_t>(n_) * static_cast<uint64_t>(collective.round + 1);
  if (meeting.ready.fetch_add(1, std::memory_order_acq_rel) + 1 == everyone) ring_members();
}

bool LocalCommunicator::do_chunks(Collective& collective, Meeting& meeting) {
  const Plan& plan = collective.plan;
  const Host& host = world_.host();
  std::atomic<uint32_t>& busy = host.state(world_.local()).busy;
  bool moved = false;
  for (;;) {
    uint64_t chunk = meeting.claimed.load(std::memory_order_relaxed);
    if (chunk >= plan.chunks) return moved;
    if (plan.staged) {
      const uint64_t round = chunk / plan.chunks_per_round;
      if (meeting.ready.load(std::memory_order_acquire) < static_cast<uint64_t>(n_) * (round + 1)) return moved;
    }
    // Against quiesce(): either it sees this rank busy, or this rank sees that it must keep off.
    busy.store(1, std::memory_order_seq_cst);
    if (host.failed() || host.board().stopping.load(std::memory_order_seq_cst) != 0) {
      busy.store(0, std::memory_order_release);
      return moved;
    }
    if (meeting.claimed.compare_exchange_strong(chunk, chunk + 1, std::memory_order_relaxed)) {
      do_chunk(collective, chunk);
      moved = true;
      const uint64_t done = meeting.done.fetch_add(1, std::memory_order_acq_rel) + 1;
      if (done == plan.chunks || done % plan.chunks_per_round == 0) ring_members();
    }
    busy.store(0, std::memory_order_release);
  }
}

LocalCommunicator::View LocalCommunicator::view(const Collective& collective, int member, bool second,
                                                int64_t round) const {
  const Header& header = board_.header(collectives_begin_, member);
  const Plan& plan = collective.plan;
  const int64_t size = size_of(header.dtype);
  const BufferPlace& place = second ? header.second : header.first;
  if (place.place == BufferPlace::kStaged) {
    return {board_.stage(member) + (second ? board_.stage_bytes() / 2 : 0), plan.round_length * size,
            round * plan.round_length, size};
  }
  return {world_.host().address_of(locals_[static_cast<size_t>(member)], place), plan.length * size, 0, size};
}

void LocalCommunicator::do_chunk(const Collective& collective, uint64_t chunk) {
  const Plan& plan = collective.plan;
  const auto round = static_cast<int64_t>(chunk / plan.chunks_per_round);
  const auto within = static_cast<int64_t>(chunk % plan.chunks_per_round);
  const int64_t pieces = ceil_div(plan.round_length, plan.chunk_length);
  const int64_t block = within / pieces;
  const int64_t begin = round * plan.round_length + within % pieces * plan.chunk_length;
  const int64_t end = std::min({begin + plan.chunk_length, (round + 1) * plan.round_length, plan.length});
  if (begin >= end) return;
  const RequestKind kind = collective.header.kind;
  if (kind == RequestKind::all_reduce || kind == RequestKind::reduce_scatter) {
    do_reduce(collective, round, block, begin, end - begin);
  } else {
    do_copy(collective, round, block, begin, end - begin);
  }
}

void LocalCommunicator::do_reduce(const Collective& collective, int64_t round, int64_t part, int64_t begin,
                                  int64_t count) {
  const Header& header = collective.header;
  const bool scatter = header.kind == RequestKind::reduce_scatter;
  size_t outputs = 0;
  for (int member = 0; member < n_; ++member) {
    std::byte* address = view(collective, member, false, round).at(part, begin);
    sources_[static_cast<size_t>(member)] = address;
    if (!scatter || member == part) outputs_[outputs++] = address;
  }
  reduce({.input = header.dtype,
          .output = header.dtype,
          .op = header.op,
          .group_sizes = sum_groups_,
          .sources = sources_,
          .outputs = {outputs_.data(), outputs},
          .count = count});
}

void LocalCommunicator::do_copy(const Collective& collective, int64_t round, int64_t block, int64_t begin,
                                int64_t count) {
  const Header& header = collective.header;
  const int64_t bytes = count * size_of(header.dtype);
  if (header.kind == RequestKind::all_to_all) {
    const auto from = static_cast<int>(block / n_), to = static_cast<int>(block % n_);
    outputs_[0] = view(collective, to, true, round).at(from, begin);
    copy(view(collective, from, false, round).at(to, begin), {outputs_.data(), 1}, bytes, collective.plan.streaming);
    return;
  }
  const int owner = header.kind == RequestKind::broadcast ? header.root : static_cast<int>(block);
  size_t outputs = 0;
  for (int member = 0; member < n_; ++member) {
    if (member != owner) outputs_[outputs++] = view(collective, member, false, round).at(block, begin);
  }
  copy(view(collective, owner, false, round).at(block, begin), {outputs_.data(), outputs}, bytes,
       collective.plan.streaming);
}

// Passes this rank's round of data into (or out of) its stage, as far as the operation needs it.
void LocalCommunicator::copy_staged(const Collective& collective, int64_t round, bool in) {
  const Header& header = collective.header;
  const bool exchange_parts = header.kind == RequestKind::all_to_all;
  const BufferPlace& place = exchange_parts && !in ? header.second : header.first;
  if (place.place != BufferPlace::kStaged) return;
  const Plan& plan = collective.plan;
  const int64_t size = size_of(header.dtype);
  const int64_t begin = round * plan.round_length;
  const auto bytes = static_cast<size_t>((std::min(begin + plan.round_length, plan.length) - begin) * size);
  const View staged = view(collective, me_, exchange_parts && !in, round);
  auto* own = (exchange_parts && !in ? collective.second : collective.first).as<std::byte>();
  for (int64_t part = 0; part < (by_parts(header.kind) ? n_ : 1); ++part) {
    bool wanted = true;
    if (header.kind == RequestKind::reduce_scatter) wanted = in || part == me_;
    if (header.kind == RequestKind::all_gather) wanted = in == (part == me_);
    if (header.kind == RequestKind::broadcast) wanted = in == (header.root == me_);
    if (!wanted) continue;
    std::byte* mine = own + (part * plan.length + begin) * size;
    std::byte* theirs = staged.at(part, begin);
    std::memcpy(in ? theirs : mine, in ? mine : theirs, bytes);
  }
}

}  // namespace ridgeline::comm::detail

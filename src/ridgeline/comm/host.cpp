#include "ridgeline/comm/host.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>

#include "ridgeline/base/error.h"
#include "ridgeline/comm/control_messages.h"
#include "ridgeline/comm/failure_log.h"
#include "ridgeline/comm/start_limit.h"

namespace ridgeline::comm::detail {
namespace {

constexpr uint64_t round_up(uint64_t value, uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}
constexpr uint64_t kRanksOffset = round_up(sizeof(HostBoard), 64);

}  // namespace

const char* name_of(RequestKind kind) {
  switch (kind) {
    case RequestKind::all_reduce:
      return "all_reduce";
    case RequestKind::reduce_scatter:
      return "reduce_scatter";
    case RequestKind::all_gather:
      return "all_gather";
    case RequestKind::broadcast:
      return "broadcast";
    case RequestKind::all_to_all:
      return "all_to_all";
    case RequestKind::barrier:
      return "barrier";
    case RequestKind::exchange:
      return "exchange";
  }
  return "?";
}

const char* name_of(ReduceOp op) {
  switch (op) {
    case ReduceOp::sum:
      return "sum";
    case ReduceOp::max:
      return "max";
    case ReduceOp::min:
      return "min";
  }
  return "?";
}

std::string describe(RequestKind kind, std::string_view label, int32_t segment, int64_t step) {
  std::string text = fmt::format("{} '{}'", name_of(kind), label);
  if (segment >= 0 && step >= 0) return text + fmt::format(" (segment {}, step {})", segment, step);
  if (segment >= 0) return text + fmt::format(" (segment {})", segment);
  if (step >= 0) return text + fmt::format(" (step {})", step);
  return text;
}

Terms terms_of(const Request& request) {
  Terms terms{};
  terms.kind = request.kind;
  terms.dtype = request.kind == RequestKind::barrier ? DType::u8 : request.buffer.dtype;
  terms.op = request.op;
  terms.root = request.root;
  terms.count = request.count;
  terms.segment = request.label.segment;
  terms.step = request.label.step;
  std::strncpy(terms.label, request.label.what, sizeof(terms.label) - 1);
  return terms;
}

bool same_operation(const Terms& left, const Terms& right) {
  return left.kind == right.kind && left.dtype == right.dtype && left.op == right.op && left.root == right.root &&
         left.count == right.count;
}

std::string describe(const Terms& terms) {
  std::string text = describe(terms.kind, terms.label, terms.segment, terms.step);
  if (terms.kind == RequestKind::barrier) return text;
  text += fmt::format(" of {} {}", terms.count, name_of(terms.dtype));
  if (reduces(terms.kind)) text += fmt::format(" ({})", name_of(terms.op));
  if (terms.kind == RequestKind::broadcast) text += fmt::format(" from {}", terms.root);
  return text;
}

void futex_wait(std::atomic<uint32_t>& word, uint32_t expected, int64_t microseconds, bool shared) {
  const timespec limit{microseconds / 1'000'000, microseconds % 1'000'000 * 1000};
  ::syscall(SYS_futex, &word, shared ? FUTEX_WAIT : FUTEX_WAIT_PRIVATE, expected, &limit, nullptr, 0);
}

void futex_wake(std::atomic<uint32_t>& word, bool shared) {
  ::syscall(SYS_futex, &word, shared ? FUTEX_WAKE : FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

int64_t steady_nanoseconds() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

Host::Host(HostSetup setup) : setup_(std::move(setup)), began_(::time(nullptr)) {
  states_ = reinterpret_cast<RankState*>(setup_.memory + kRanksOffset);
  regions_.resize(static_cast<size_t>(ranks()) * kRegions);
}

int64_t Host::memory_bytes(int ranks, bool staged) {
  const auto fixed = static_cast<int64_t>(kRanksOffset + static_cast<size_t>(ranks) * sizeof(RankState));
  return fixed + (int64_t{32} << 20) + ranks * (int64_t{staged ? 512 : 32} << 20);
}

int Host::local_rank(int world_rank) const {
  const auto found = std::lower_bound(setup_.world_ranks.begin(), setup_.world_ranks.end(), world_rank);
  if (found == setup_.world_ranks.end() || *found != world_rank) return -1;
  return static_cast<int>(found - setup_.world_ranks.begin());
}

void Host::ring(int local) const {
  Bell& bell = state(local).bell;
  // Against the sleeper's "sleeping = 1, then look once more": one of the two sees the other.
  bell.value.fetch_add(1, std::memory_order_seq_cst);
  if (bell.sleeping.load(std::memory_order_seq_cst) != 0) futex_wake(bell.value, processes());
}

void Host::ring_all() const {
  for (int local = 0; local < ranks(); ++local) ring(local);
}

void Host::barrier(const char* what) {
  // Arrivals are counted over all barriers, so the target follows from the count at arrival.
  const auto everyone = static_cast<uint64_t>(ranks());
  const uint64_t arrival = board().host_barrier.fetch_add(1, std::memory_order_acq_rel);
  const uint64_t target = (arrival / everyone + 1) * everyone;
  if (arrival + 1 == target) {
    board().host_bell.value.fetch_add(1, std::memory_order_seq_cst);
    futex_wake(board().host_bell.value, processes());
    return;
  }
  const auto timeout = std::max(options().timeout, kLeastStart);
  const int64_t limit = steady_nanoseconds() + std::chrono::nanoseconds(timeout).count();
  for (;;) {
    const uint32_t bell = board().host_bell.value.load(std::memory_order_seq_cst);
    if (board().host_barrier.load(std::memory_order_acquire) >= target) return;
    if (failed()) throw_failure();
    if (steady_nanoseconds() > limit) {
      fail({.rank = -1,
            .host = host_name(),
            .operation = what,
            .what = fmt::format("{}: not every rank of host {} came within {} ms", what, host_name(), timeout.count()),
            .next = {}});
      throw_failure();
    }
    futex_wait(board().host_bell.value, bell, 20'000, processes());
  }
}

uint64_t Host::find_board(uint64_t key, int64_t bytes) {
  while (board().directory_lock.exchange(1, std::memory_order_acquire) != 0) ::sched_yield();
  uint64_t offset = 0;
  bool full = true;
  for (DirectoryEntry& entry : board().directory) {
    const uint64_t there = entry.key.load(std::memory_order_relaxed);
    if (there == key) {
      offset = entry.offset.load(std::memory_order_relaxed);
      full = false;
      break;
    }
    if (there != 0) continue;
    uint64_t used = board().used.load(std::memory_order_relaxed);
    if (used == 0) used = kRanksOffset + static_cast<uint64_t>(ranks()) * sizeof(RankState);
    offset = round_up(used, 4096);
    if (offset + static_cast<uint64_t>(bytes) > static_cast<uint64_t>(setup_.bytes)) break;
    board().used.store(offset + static_cast<uint64_t>(bytes), std::memory_order_relaxed);
    entry.offset.store(offset, std::memory_order_relaxed);
    entry.key.store(key, std::memory_order_relaxed);
    full = false;
    break;
  }
  board().directory_lock.store(0, std::memory_order_release);
  if (full) throw Error("too many communicators on this host", "Make communicators once, at start-up.");
  return offset;
}

void Host::add_region(int local, int region, std::byte* base, int64_t bytes) {
  regions_[static_cast<size_t>(local) * kRegions + static_cast<size_t>(region)] = {base, bytes};
}

BufferPlace Host::place_of(int local, const void* data, int64_t bytes) const {
  if (!processes()) return {BufferPlace::kAddress, reinterpret_cast<uint64_t>(data)};
  const auto* begin = static_cast<const std::byte*>(data);
  for (int region = 0; region < next_region_; ++region) {
    const Region& mapped = regions_[static_cast<size_t>(local) * kRegions + static_cast<size_t>(region)];
    if (mapped.base != nullptr && begin >= mapped.base && begin + bytes <= mapped.base + mapped.bytes) {
      return {BufferPlace::kRegion + static_cast<uint32_t>(region), static_cast<uint64_t>(begin - mapped.base)};
    }
  }
  return {BufferPlace::kStaged, 0};
}

std::byte* Host::address_of(int local, const BufferPlace& place) const {
  if (place.place == BufferPlace::kAddress) return reinterpret_cast<std::byte*>(place.offset);
  const size_t region = place.place - BufferPlace::kRegion;
  return regions_[static_cast<size_t>(local) * kRegions + region].base + place.offset;
}

Failure Host::fail(const Failure& failure) const noexcept {
  try {
    FailureRecord& record = board().failure;
    uint32_t none = 0;
    if (!record.state.compare_exchange_strong(none, 1, std::memory_order_acq_rel)) return this->failure();
    record.rank = failure.rank;
    record.refusal = failure.refusal ? 1 : 0;
    record.death = failure.death ? 1 : 0;
    put_text(record.host, failure.host);
    put_text(record.operation, failure.operation);
    put_text(record.what, failure.what);
    put_text(record.next, failure.next);
    record.state.store(2, std::memory_order_release);
    if (!processes()) announce();
    ring_watcher();
    ring_all();
    board().host_bell.value.fetch_add(1, std::memory_order_seq_cst);
    futex_wake(board().host_bell.value, processes());
    return failure;
  } catch (...) {
    return failure;  // out of memory while failing: the caller still throws what it has
  }
}

void Host::announce() const noexcept {
  try {
    FailureRecord& record = board().failure;
    if (record.announced.exchange(1, std::memory_order_acq_rel) != 0) return;
    Failure first = failure();
    if (!first.refusal && !options().log_folder.empty())
      first.log = rank_log_path(options().log_folder, std::max(first.rank, 0));
    if (options().on_failure) {
      record.reported.store(1, std::memory_order_relaxed);
      options().on_failure(first);
    }
    if (!first.refusal && !options().failure_file.empty()) write_failure_file(options().failure_file, first, began_);
    write_failure_logs(*this, first);
    record.settled.store(1, std::memory_order_release);
  } catch (...) {
    // Out of memory: it is still thrown.
  }
}

void Host::keep_quiet() const noexcept {
  FailureRecord& record = board().failure;
  if (record.announced.exchange(1, std::memory_order_acq_rel) != 0) return;
  record.reported.store(1, std::memory_order_relaxed);
  try {
    write_failure_logs(*this, failure());
  } catch (...) {
    // Out of memory: the failure is told without them.
  }
  record.settled.store(1, std::memory_order_release);
}

void Host::await_settled() const noexcept {
  constexpr int kNaps = 2500;  // a watcher that has lost its neighbours looks for others first
  const auto settled = [&] { return board().failure.settled.load(std::memory_order_acquire) != 0; };
  // Without one, the rank that found out (fail_unwatched) leaves the word to the neighbours, in half a second.
  const int naps_unwatched = setup_.hosts > 1 ? 1000 : 0;
  for (int nap = 0; nap < (watcher_is_gone() ? naps_unwatched : kNaps) && !settled(); ++nap) ::usleep(1000);
  announce();
}

void Host::ring_watcher() const {
  if (watcher_ < 0 || watcher_is_gone()) return;
  // It may leave at any moment; a program that does not ignore SIGPIPE is not to end by that.
  sigset_t broken_pipe, before;
  ::sigemptyset(&broken_pipe);
  ::sigaddset(&broken_pipe, SIGPIPE);
  ::pthread_sigmask(SIG_BLOCK, &broken_pipe, &before);
  const char byte = 0;
  // When the pipe is full, it has enough to look at.
  if (::write(watcher_, &byte, 1) < 0 && errno == EPIPE) {
    constexpr timespec kAtOnce{};
    ::sigtimedwait(&broken_pipe, nullptr, &kAtOnce);
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

bool Host::watcher_is_gone() const {
  pollfd end{watcher_, 0, 0};
  return watcher_ >= 0 && ::poll(&end, 1, 0) == 1 && (end.revents & POLLERR) != 0;
}

void Host::fail_unwatched() const {
  fail({.rank = -1,
        .host = host_name(),
        .operation = {},
        .what = fmt::format("the process on host {} that watches over its ranks has ended", host_name()),
        .next = "Do not end processes named ridgeline-watch; resume from the last checkpoint."});
  if (setup_.hosts > 1) {
    // What follows when this rank leaves should not be seen before the neighbours have named this host.
    constexpr int kMicroseconds = 500'000;
    ::usleep(kMicroseconds);
    keep_quiet();
  }
  throw_failure();
}

Failure Host::failure() const {
  const FailureRecord& record = board().failure;
  // The writer is between two stores; should it die there, half a message is better than none.
  for (int i = 0; i < 500 && record.state.load(std::memory_order_acquire) == 1; ++i) ::usleep(1000);
  return {.rank = record.rank,
          .host = record.host,
          .operation = record.operation,
          .what = record.what,
          .next = record.next,
          .refusal = record.refusal != 0,
          .death = record.death != 0};
}

void Host::throw_to_program(bool leave_at_once) const {
  if (processes()) await_settled();
  const Failure first = failure();
  const bool report = board().failure.reported.exchange(1, std::memory_order_acq_rel) == 0;
  throw RankFailure(first, report, leave_at_once);
}

void Host::quiesce(int local) const {
  const int64_t limit = steady_nanoseconds() + std::chrono::nanoseconds(options().grace).count();
  for (int other = 0; other < ranks(); ++other) {
    if (other == local) continue;
    while (state(other).busy.load(std::memory_order_seq_cst) != 0 && steady_nanoseconds() < limit) ::usleep(200);
  }
}

std::string Host::operation_text(const OperationRecord& operation) const {
  const auto* board = reinterpret_cast<const BoardStart*>(at(operation.board.load(std::memory_order_relaxed)));
  return fmt::format(
      "{} on communicator '{}'",
      describe(static_cast<RequestKind>(operation.kind.load(std::memory_order_relaxed)), operation.label.load(),
               operation.segment.load(std::memory_order_relaxed), operation.step.load(std::memory_order_relaxed)),
      board->name.load());
}

std::string Host::position(int local) const {
  const RankState& rank = state(local);
  const uint64_t started = rank.started.load(std::memory_order_relaxed);
  return started == 0 ? "" : operation_text(rank.recent[(started - 1) % kRecent]);
}

std::vector<Host::StartedOperation> Host::last_operations(int local) const {
  const RankState& rank = state(local);
  const uint64_t started = rank.started.load(std::memory_order_relaxed);
  std::vector<StartedOperation> operations;
  for (uint64_t number = started - std::min<uint64_t>(started, kRecent); number < started; ++number) {
    const OperationRecord& operation = rank.recent[number % kRecent];
    operations.push_back({operation.time.load(std::memory_order_relaxed), operation_text(operation)});
  }
  return operations;
}

}  // namespace ridgeline::comm::detail

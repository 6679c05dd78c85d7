#include "ridgeline/comm/rank_world.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "ridgeline/base/error.h"
#include "ridgeline/comm/local_communicator.h"

namespace ridgeline::comm {

std::unique_ptr<Communicator> World::communicator(std::string_view name) {
  std::vector<int> everyone(static_cast<size_t>(size()));
  for (int rank = 0; rank < size(); ++rank) everyone[static_cast<size_t>(rank)] = rank;
  return communicator(everyone, name);
}

namespace detail {
namespace {

constexpr int64_t kNapMilliseconds = 100;
constexpr int64_t kPollMicroseconds = 200;
constexpr int64_t kSpinNanoseconds = 20'000;
constexpr int kMaxMissing = 64;

uint64_t mix(uint64_t hash, uint64_t value) {
  return (hash ^ value) * 0x100000001b3ULL;
}

uint64_t key_of(std::span<const int> ranks, std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325ULL;
  for (const char c : name) hash = mix(hash, static_cast<unsigned char>(c));
  for (const int rank : ranks) hash = mix(hash, static_cast<uint64_t>(rank) + 0x1000);
  return hash;
}

std::string listed(std::span<const int> ranks) {
  return fmt::format("{} {}", ranks.size() == 1 ? "rank" : "ranks", fmt::join(ranks, ", "));
}

}  // namespace

std::unique_ptr<Communicator> RankWorld::communicator(std::span<const int> ranks, std::string_view name) {
  check_failed();
  bool mine = false;
  bool everyone_here = true;
  for (size_t i = 0; i < ranks.size(); ++i) {
    if (ranks[i] < 0 || ranks[i] >= size() || (i > 0 && ranks[i] <= ranks[i - 1])) {
      throw Error(fmt::format("communicator '{}': ranks [{}] are not ascending ranks of 0 … {}", name,
                              fmt::join(ranks, ", "), size() - 1));
    }
    mine = mine || ranks[i] == rank();
    everyone_here = everyone_here && host_.local_rank(ranks[i]) >= 0;
  }
  if (!mine)
    throw Error(fmt::format("communicator '{}': rank {} is not in [{}]", name, rank(), fmt::join(ranks, ", ")));
  uint64_t key = key_of(ranks, name);
  key = mix(key, ++made_[key]) | 1;
  std::unique_ptr<Communicator> made = everyone_here ? std::make_unique<LocalCommunicator>(*this, ranks, name, key)
                                                     : wide_communicator(ranks, name, key);
  if (ranks.size() == 1 || !options().link.throttles()) return made;
  return std::make_unique<ThrottledCommunicator>(*this, link_, std::move(made));
}

std::unique_ptr<Communicator> RankWorld::wide_communicator(std::span<const int> /*ranks*/, std::string_view name,
                                                           uint64_t /*key*/) {
  throw Error(fmt::format("communicator '{}' has ranks on other hosts", name));
}

Failure RankWorld::fail(std::string_view what, std::string_view next) noexcept {
  try {
    if (host_.failed()) return host_.failure();
    const std::string position = host_.position(local_);
    std::string text = fmt::format("rank {}: {}", rank(), what);
    return host_.fail(
        {.rank = rank(), .host = host_.host_name(), .operation = position, .what = text, .next = std::string(next)});
  } catch (...) {
    return {};
  }
}

Failure RankWorld::refuse(const Error& error) noexcept {
  try {
    return host_.fail({.host = host_.host_name(),
                       .operation = {},
                       .what = error.message(),
                       .next = error.next_step(),
                       .refusal = true});
  } catch (...) {
    return {};
  }
}

void RankWorld::disagree(int culprit, std::string_view communicator, const std::string& operation,
                         std::string_view what) const {
  fail_and_throw(
      {.rank = culprit,
       .host = host_.host_name(),
       .operation = operation,
       .what = fmt::format("ranks do not agree on communicator '{}': {}", communicator, what),
       .next = "Ranks of a communicator must start the same operations, and two ranks the same messages, in the same "
               "order and with the same sizes."});
}

void RankWorld::record_operation(uint64_t board, RequestKind kind, const Label& label) {
  RankState& state = host_.state(local_);
  const uint64_t number = state.started.load(std::memory_order_relaxed);
  OperationRecord& record = state.recent[number % kRecent];
  record.label.store(label.what);
  record.kind.store(static_cast<uint32_t>(kind), std::memory_order_relaxed);
  record.segment.store(label.segment, std::memory_order_relaxed);
  record.step.store(label.step, std::memory_order_relaxed);
  record.board.store(board, std::memory_order_relaxed);
  const int64_t now = steady_nanoseconds();
  record.time.store(now, std::memory_order_relaxed);
  state.started.store(number + 1, std::memory_order_relaxed);
  state.moved.store(now, std::memory_order_relaxed);
}

bool RankWorld::progress_all() {
  bool moved = false;
  for (Engine* engine : engines_) {
    if (engine->outstanding()) moved = engine->progress() || moved;
  }
  return moved;
}

void RankWorld::wait_until(const Engine& engine, bool (*done)(const void*), const void* context) {
  check_failed();
  RankState& state = host_.state(local_);
  Bell& bell = state.bell;
  // Spinning pays only where another rank can run meanwhile.
  const int64_t spin = host_.ranks() <= host_.processors() ? kSpinNanoseconds : 0;
  int64_t since = 0;       // when this rank last got on
  int64_t idle_since = 0;  // when it last found nothing to do, 0 while it gets on
  for (;;) {
    const uint32_t heard = bell.value.load(std::memory_order_seq_cst);
    const bool moved = progress_all();
    if (done(context)) break;
    if (moved) {
      idle_since = 0;
      since = 0;
      continue;
    }
    const int64_t now = steady_nanoseconds();
    if (idle_since == 0) idle_since = now;
    if (since == 0) since = now;
    if (now - idle_since < spin) {
      for (int i = 0; i < 8; ++i) __builtin_ia32_pause();
      continue;
    }
    // Announce the sleep, look once more, sleep: see Host::ring.
    bell.sleeping.store(1, std::memory_order_seq_cst);
    if (bell.value.load(std::memory_order_seq_cst) == heard) {
      on_nap(engine, since);
      futex_wait(bell.value, heard, must_poll() ? kPollMicroseconds : kNapMilliseconds * 1000, host_.processes());
    }
    bell.sleeping.store(0, std::memory_order_relaxed);
    check_failed();
  }
  state.moved.store(steady_nanoseconds(), std::memory_order_relaxed);
  state.blocked.store(0, std::memory_order_relaxed);
}

// Before each sleep: leave word for the others, and look for reasons never to wake.
void RankWorld::on_nap(const Engine& engine, int64_t since) {
  RankState& state = host_.state(local_);
  std::array<int, kMaxMissing> missing;
  const int count = engine.missing(missing);
  const int told = std::min(count, kBlockedOn);
  for (int i = 0; i < told; ++i) state.blocked_on[i].store(missing[static_cast<size_t>(i)], std::memory_order_relaxed);
  state.blocked.store(told, std::memory_order_relaxed);
  const int64_t now = steady_nanoseconds();
  state.heartbeat.store(now, std::memory_order_relaxed);
  if (host_.watcher_is_gone()) host_.fail_unwatched();
  if (now - since > std::chrono::nanoseconds(options().timeout).count()) {
    state.bell.sleeping.store(0, std::memory_order_relaxed);
    time_out(engine);
  }
  for (int i = 0; i < count; ++i) {
    const int local = host_.local_rank(missing[static_cast<size_t>(i)]);
    if (local < 0 || host_.state(local).departed.load(std::memory_order_acquire) == 0 ||
        engine.missing(missing) != count)
      continue;
    const int gone = host_.world_rank(local);
    fail_and_throw(
        {.rank = gone,
         .host = host_.host_name(),
         .operation = engine.waiting_in(),
         .what = fmt::format("rank {} has ended while rank {} waits for it in {}", gone, rank(), engine.waiting_in()),
         .next = "Every rank of a communicator must start the same operations."});
  }
}

// Asks all hosts who does not wait. Throws their verdict; returns when none comes.
void RankWorld::await_verdict(const Engine& engine) {
  constexpr int64_t kPatience = 3'000'000'000;
  std::array<int, kMaxMissing> missing;
  const int count = engine.missing(missing);
  RankState& state = host_.state(local_);
  const std::string operation = engine.waiting_in();
  state.stalled_in.store(operation);
  state.stalled_what.store(fmt::format("{}: {} did not arrive within {} ms", operation,
                                       listed({missing.data(), static_cast<size_t>(std::min(count, kBlockedOn))}),
                                       options().timeout.count()));
  state.stalled.store(1, std::memory_order_release);
  host_.ring_watcher();
  const int64_t limit = steady_nanoseconds() + kPatience;
  for (int64_t now = 0; now < limit && !host_.watcher_is_gone();) {
    now = steady_nanoseconds();
    state.heartbeat.store(now, std::memory_order_relaxed);
    const uint32_t heard = state.bell.value.load(std::memory_order_seq_cst);
    check_failed();
    state.bell.sleeping.store(1, std::memory_order_seq_cst);
    futex_wait(state.bell.value, heard, 50'000, host_.processes());
    state.bell.sleeping.store(0, std::memory_order_relaxed);
  }
  check_failed();
}

// Names the ranks that did not arrive, and follows who waits for whom to the rank that waits for nobody.
void RankWorld::time_out(const Engine& engine) {
  if (host_.watched()) await_verdict(engine);
  std::array<int, kMaxMissing> missing;
  const int count = engine.missing(missing);
  const std::span<const int> absent(missing.data(), static_cast<size_t>(count));
  const int64_t stale =
      std::max<int64_t>(std::chrono::nanoseconds(options().timeout).count() / 2, 3 * kNapMilliseconds * 1'000'000);
  const int64_t now = steady_nanoseconds();
  // Who waits for nobody (it computes, or hangs), or says that it waits but has not looked for long (it was stopped).
  int culprit = -1;
  bool silent = false;
  std::vector<int> to_visit(absent.rbegin(), absent.rend());
  std::vector<bool> visited(static_cast<size_t>(size()));
  visited[static_cast<size_t>(rank())] = true;
  while (culprit < 0 && !to_visit.empty()) {
    const int suspect = to_visit.back();
    to_visit.pop_back();
    if (visited[static_cast<size_t>(suspect)]) continue;
    visited[static_cast<size_t>(suspect)] = true;
    const int local = host_.local_rank(suspect);
    const int32_t waits = local < 0 ? 0 : host_.state(local).blocked.load(std::memory_order_relaxed);
    silent = waits > 0 && now - host_.state(local).heartbeat.load(std::memory_order_relaxed) > stale;
    if (waits == 0 || silent) culprit = suspect;
    for (int i = 0; i < waits; ++i) {
      to_visit.push_back(host_.state(local).blocked_on[i].load(std::memory_order_relaxed));
    }
  }
  std::string text =
      fmt::format("{}: {} did not arrive within {} ms", engine.waiting_in(), listed(absent), options().timeout.count());
  std::string seen;
  if (culprit >= 0 && host_.local_rank(culprit) < 0) {
    text += fmt::format("; rank {} is on another host", culprit);
  } else if (culprit >= 0) {
    seen = host_.position(host_.local_rank(culprit));
    const char* doing = silent ? "does not run (stopped, or its machine is overloaded)" : "is still busy elsewhere";
    text += fmt::format("; rank {} {}, last seen in {}", culprit, doing, seen.empty() ? "no operation yet" : seen);
  } else {
    text += "; every rank waits for another: they do not start the same operations in the same order";
  }
  fail_and_throw({.rank = culprit,
                  .host = host_.host_name(),
                  .operation = seen.empty() ? engine.waiting_in() : seen,
                  .what = text,
                  .next = "Look at that rank's process or machine; raise the timeout if its work may take this long."});
}

}  // namespace detail
}  // namespace ridgeline::comm

#include "ridgeline/device/cpu/worker_team.h"

#include <fmt/format.h>

#include <atomic>
#include <optional>
#include <span>
#include <system_error>
#include <thread>

#include "ridgeline/base/error.h"
#include "ridgeline/device/cpu/bound_thread.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ridgeline::device {
namespace {

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// Long enough to bridge the gap between two ops of a step, short against a scheduler tick. When there are more threads
// than CPUs, spinning only takes time from whoever is waited for.
constexpr int kSpins = 4000;
constexpr int kCrowdedSpins = 50;

}  // namespace

struct WorkerTeam::Shared {
  explicit Shared(int members) : size(members) {}

  const int size;
  void (*body)(void*, int) = nullptr;
  void* context = nullptr;
  int spins = kSpins;
  alignas(64) std::atomic<uint32_t> round{0};
  alignas(64) std::atomic<uint32_t> running{0};
  std::atomic<bool> stop{false};
  std::vector<int> places;  // empty: none is bound
  std::optional<BoundThread> caller;
  std::vector<std::thread> threads;

  void work(int member, std::span<const int> processor) {
    const BoundThread bound(processor);
    uint32_t seen = 0;
    for (;;) {
      wait_while(round, seen);
      seen = round.load(std::memory_order_acquire);
      if (stop.load(std::memory_order_relaxed)) return;
      body(context, member);
      if (running.fetch_sub(1, std::memory_order_acq_rel) == 1) running.notify_one();
    }
  }

  void end() {
    stop = true;
    round.fetch_add(1);
    round.notify_all();
    for (std::thread& thread : threads) thread.join();
    threads.clear();
  }

  // Returns when `value` is no longer `old`.
  void wait_while(std::atomic<uint32_t>& value, uint32_t old) const {
    for (int i = 0; i < spins; ++i) {
      if (value.load(std::memory_order_acquire) != old) return;
      pause();
    }
    value.wait(old, std::memory_order_acquire);
  }
};

WorkerTeam::WorkerTeam(int size, Place place) : shared_(std::make_unique<Shared>(size)) {
  RL_CHECK(size, >=, 1);
  const size_t members = static_cast<size_t>(size);
  RL_REQUIRE(place.processors.empty() || place.processors.size() == members, "{} processors for a team of {}",
             place.processors.size(), size);
  if (place.crowded) shared_->spins = kCrowdedSpins;
  shared_->places = std::move(place.processors);
  const auto place_of = [&](size_t member) {
    const std::span<const int> all = shared_->places;
    return all.empty() ? all : all.subspan(member, 1);
  };
  try {
    shared_->threads.reserve(members - 1);
    for (size_t member = 1; member < members; ++member) {
      shared_->threads.emplace_back([shared = shared_.get(), member, processor = place_of(member)] {
        shared->work(static_cast<int>(member), processor);
      });
    }
  } catch (const std::system_error& error) {
    const size_t started = shared_->threads.size() + 1;
    shared_->end();
    throw Error(
        system_error(fmt::format("cannot start thread {} of {} of a rank", started + 1, size), error.code().value())
            .message(),
        "Use fewer threads or ranks (train.threads, --threads, --ranks), or raise the limit on processes "
        "(ulimit -u, the job's limit on tasks).");
  }
  shared_->caller.emplace(place_of(0));
}

WorkerTeam::~WorkerTeam() {
  shared_->end();
}

int WorkerTeam::size() const {
  return shared_->size;
}

void WorkerTeam::run(void (*body)(void*, int), void* context) {
  Shared& shared = *shared_;
  if (shared.size == 1) return body(context, 0);
  shared.body = body;
  shared.context = context;
  shared.running.store(static_cast<uint32_t>(shared.size - 1), std::memory_order_relaxed);
  shared.round.fetch_add(1, std::memory_order_release);
  shared.round.notify_all();
  body(context, 0);
  for (uint32_t left = 0; (left = shared.running.load(std::memory_order_acquire)) != 0;)
    shared.wait_while(shared.running, left);
}

}  // namespace ridgeline::device

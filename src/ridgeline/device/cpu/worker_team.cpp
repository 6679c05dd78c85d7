#include "ridgeline/device/cpu/worker_team.h"

#include <atomic>
#include <thread>

#include "ridgeline/base/error.h"
#include "ridgeline/device/cpu/features.h"

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
  std::vector<std::thread> threads;

  void work(int member, int core) {
    if (core >= 0) pin_thread(core);
    uint32_t seen = 0;
    for (;;) {
      wait_while(round, seen);
      seen = round.load(std::memory_order_acquire);
      if (stop.load(std::memory_order_relaxed)) return;
      body(context, member);
      if (running.fetch_sub(1, std::memory_order_acq_rel) == 1) running.notify_one();
    }
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

WorkerTeam::WorkerTeam(int size, std::vector<int> cores) : shared_(std::make_unique<Shared>(size)) {
  RL_CHECK(size, >=, 1);
  if (size > cpu_count()) shared_->spins = 50;
  if (!cores.empty()) pin_thread(cores.front());
  for (int member = 1; member < size; ++member) {
    const int core = member < static_cast<int>(cores.size()) ? cores[member] : -1;
    shared_->threads.emplace_back([shared = shared_.get(), member, core] { shared->work(member, core); });
  }
}

WorkerTeam::~WorkerTeam() {
  shared_->stop = true;
  shared_->round.fetch_add(1);
  shared_->round.notify_all();
  for (std::thread& thread : shared_->threads) thread.join();
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

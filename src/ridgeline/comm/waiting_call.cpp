#include "ridgeline/comm/waiting_call.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <utility>

namespace ridgeline::comm::detail {

WaitingCall::WaitingCall(Host& host, int local, std::span<const int> ranks, std::string what)
    : host_(host), state_(host.state(local)), what_(std::move(what)) {
  for (const int rank : ranks) {
    if (rank == host.world_rank(local) || others_ == kBlockedOn) continue;
    state_.blocked_on[others_++].store(rank, std::memory_order_relaxed);
  }
  state_.heartbeat.store(steady_nanoseconds(), std::memory_order_relaxed);
  state_.blocked.store(others_, std::memory_order_relaxed);
  thread_ = std::thread([this] { look(); });
}

WaitingCall::~WaitingCall() {
  {
    const std::lock_guard lock(mutex_);
    back_ = true;
  }
  wake_.notify_one();
  thread_.join();
  state_.moved.store(steady_nanoseconds(), std::memory_order_relaxed);
  state_.blocked.store(0, std::memory_order_relaxed);
}

void WaitingCall::look() {
  constexpr std::chrono::milliseconds kLook{50};
  constexpr int64_t kLongest = 4 * std::chrono::nanoseconds(kLook).count();  // beyond that this process did not run
  int64_t left = std::chrono::nanoseconds(host_.options().timeout).count();
  int64_t before = steady_nanoseconds();
  bool asked = false;
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, kLook, [this] { return back_; })) {
    const int64_t now = steady_nanoseconds();
    state_.heartbeat.store(now, std::memory_order_relaxed);
    left -= std::min(now - before, kLongest);
    before = now;
    if (asked || left > 0) continue;
    asked = true;
    ask();
  }
}

void WaitingCall::ask() {
  state_.stalled_in.store(what_);
  state_.stalled_what.store(
      fmt::format("{}: not every rank came within {} ms", what_, host_.options().timeout.count()));
  state_.stalled.store(1, std::memory_order_release);
  host_.ring_watcher();
}

}  // namespace ridgeline::comm::detail

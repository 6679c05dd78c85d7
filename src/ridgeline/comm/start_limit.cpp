#include "ridgeline/comm/start_limit.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "ridgeline/comm/rendezvous_setup.h"

namespace ridgeline::comm::detail {

using Milliseconds = std::chrono::milliseconds;

StartLimit::StartLimit(const WorldOptions& options, Milliseconds limit)
    : limit_(limit), rank_(rank_in_environment()), word_(options, rank_), what_("the start"), thread_([this] {
        count();
      }) {}

StartLimit::~StartLimit() {
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

bool StartLimit::over_within(Milliseconds time) {
  // What a look takes longer than that this process did not run.
  constexpr Milliseconds kLook{100};
  using Clock = std::chrono::steady_clock;
  std::unique_lock lock(mutex_);
  for (Clock::duration left = time; left.count() > 0;) {
    const Clock::time_point before = Clock::now();
    if (wake_.wait_for(lock, std::min<Clock::duration>(left, kLook), [&] { return over_; })) return true;
    left -= std::min<Clock::duration>(Clock::now() - before, 2 * kLook);
  }
  return false;
}

void StartLimit::count() {
  if (over_within(limit_) || over_within(word_.turn(limit_))) return;
  word_.tell(failure());
  std::_Exit(1);
}

Failure StartLimit::failure() const {
  char host[64] = {};
  ::gethostname(host, sizeof(host) - 1);
  return {
      .rank = -1,
      .host = host,
      .operation = what_.load(),
      .what = fmt::format("{} on host {} has waited for {:.1f} s in {}: not every rank is there",
                          rank_ < 0 ? "a rank" : fmt::format("rank {}", rank_), host,
                          std::chrono::duration<double>(limit_).count(), what_.load()),
      .next =
          "A rank was not started, or ended at once: the launcher says which one (srun names task and node). Where a "
          "start may take that long, raise parallel.timeout."};
}

}  // namespace ridgeline::comm::detail

#include "ridgeline/comm/start_limit.h"

#include <fmt/format.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "ridgeline/comm/failure_log.h"
#include "ridgeline/comm/rendezvous_setup.h"

namespace ridgeline::comm::detail {

using Milliseconds = std::chrono::milliseconds;

StartLimit::StartLimit(const WorldOptions& options, Milliseconds limit)
    : options_(options),
      limit_(limit),
      rank_(rank_in_environment()),
      began_(::time(nullptr)),
      what_("the start"),
      thread_([this] { count(); }) {}

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
  const Milliseconds for_rank_zero = std::min(limit_, Milliseconds(1000));
  if (over_within(limit_)) return;
  bool tells = rank_ <= 0;
  if (rank_ > 0) {
    if (over_within(for_rank_zero)) return;
    tells = rank_ == 1 && !written_since(options_.failure_file, began_);
  }
  if (tells) tell();
  std::_Exit(1);
}

void StartLimit::tell() const {
  char host[64] = {};
  ::gethostname(host, sizeof(host) - 1);
  const Failure failure{
      .rank = -1,
      .host = host,
      .operation = what_.load(),
      .what = fmt::format("{} on host {} has waited for {:.1f} s in {}: not every rank is there",
                          rank_ < 0 ? "a rank" : fmt::format("rank {}", rank_), host,
                          std::chrono::duration<double>(limit_).count(), what_.load()),
      .next =
          "A rank was not started, or ended at once: the launcher says which one (srun names task and node). Where a "
          "start may take that long, raise parallel.timeout."};
  if (options_.on_failure) options_.on_failure(failure);
  if (options_.failure_file.empty()) return;
  // Nobody has made the folder of a run that has not come together yet.
  std::error_code ignored;
  std::filesystem::create_directories(std::filesystem::path(options_.failure_file).parent_path(), ignored);
  write_failure_file(options_.failure_file, failure, began_);
}

}  // namespace ridgeline::comm::detail

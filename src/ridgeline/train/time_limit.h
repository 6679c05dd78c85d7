// When a run has to end, because its job's time will be over or because --max-time says so, and whether another step
// still fits before that.
#pragma once

#include <algorithm>
#include <chrono>
#include <optional>

namespace ridgeline::train {

// Seconds until the end of the Slurm job that this process runs in, by SLURM_JOB_END_TIME (seconds since 1970, which
// Slurm sets in a job's environment). None outside a job, and where Slurm does not say. Error for any other text.
std::optional<double> seconds_to_end_of_job();

// How often Slurm has started this job again (SLURM_RESTART_COUNT); 0 for its first start, outside a job, and for what
// is no number.
int restarts_of_job();

// One rank decides by its clock; the others are asked to stop as by a signal.
class TimeLimit {
 public:
  using Clock = std::chrono::steady_clock;

  TimeLimit() = default;  // none
  // The end is `seconds` after `from`; `spare` seconds of that are to be left.
  TimeLimit(Clock::time_point from, double seconds, double spare)
      : end_(from + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds - spare))) {}

  // How long something took that may come again.
  void step_took(double seconds) { step_ = std::max(step_, seconds); }
  void save_took(double seconds) { save_ = std::max(save_, seconds); }

  // Asked before a step: if this one is not the last, the next one and a save, each as long as the longest so far, may
  // end too late.
  bool is_near(Clock::time_point now = Clock::now()) const {
    return end_ && now + std::chrono::duration<double>(2 * step_ + save_) > *end_;
  }

 private:
  std::optional<Clock::time_point> end_;
  double step_ = 0, save_ = 0;
};

// The nearer of the two ends that a run may have. `most`: seconds from `began`, 0 for no such limit.
TimeLimit time_limit(TimeLimit::Clock::time_point began, double most, double spare);

}  // namespace ridgeline::train

#include "ridgeline/train/time_limit.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <string_view>

#include "ridgeline/base/error.h"

namespace ridgeline::train {

std::optional<double> seconds_to_end_of_job() {
  const char* const given = std::getenv("SLURM_JOB_END_TIME");
  if (given == nullptr) return std::nullopt;
  const std::string_view text = given;
  int64_t end = 0;
  const auto [rest, problem] = std::from_chars(text.data(), text.data() + text.size(), end);
  if (problem != std::errc() || rest != text.data() + text.size() || end < 0) {
    throw Error(fmt::format("SLURM_JOB_END_TIME = '{}' in the environment: not a time in seconds since 1970", text),
                "Slurm sets it; unset it to run without the job's time limit.");
  }
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<double>(end) - std::chrono::duration<double>(now).count();
}

int restarts_of_job() {
  const char* const given = std::getenv("SLURM_RESTART_COUNT");
  int count = 0;
  if (given != nullptr) std::from_chars(given, given + std::string_view(given).size(), count);
  return std::max(count, 0);
}

TimeLimit time_limit(TimeLimit::Clock::time_point began, double most, double spare) {
  const std::optional<double> job = seconds_to_end_of_job();
  const TimeLimit::Clock::time_point now = TimeLimit::Clock::now();
  const double left = most - std::chrono::duration<double>(now - began).count();
  if (job && (most <= 0 || *job < left)) return {now, *job, spare};
  if (most > 0) return {began, most, 0};
  return {};
}

}  // namespace ridgeline::train

#include "ridgeline/optim/batch_ramp.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ridgeline/base/error.h"

namespace ridgeline::optim {
namespace {

void require_valid(const BatchRamp& ramp) {
  RL_CHECK(ramp.global, >=, 1);
  if (ramp.start == 0) return;
  RL_CHECK(ramp.start, >=, 1);
  RL_CHECK(ramp.start, <, ramp.global);
  RL_CHECK(ramp.increment, >=, 1);
  RL_CHECK(ramp.samples, >=, 1);
  RL_CHECK((ramp.global - ramp.start) % ramp.increment, ==, 0);
}

double samples_per_increment(const BatchRamp& ramp) {
  const int64_t parts = (ramp.global - ramp.start) / ramp.increment;
  return static_cast<double>(ramp.samples) / static_cast<double>(parts);
}

// The smallest sample count above `consumed` at which the batch is another one; only where it is not yet `global`.
int64_t next_change(const BatchRamp& ramp, int64_t consumed) {
  const int64_t batch = batch_at(ramp, consumed);
  const int64_t part = (batch - ramp.start) / ramp.increment + 1;
  // Within one of the exact boundary, on either side, by the rounding of the quotients.
  auto change =
      std::max(consumed + 1, static_cast<int64_t>(std::ceil(static_cast<double>(part) * samples_per_increment(ramp))));
  while (change - 1 > consumed && batch_at(ramp, change - 1) != batch) --change;
  while (batch_at(ramp, change) == batch) ++change;
  return change;
}

// Walks the steps of a run after `consumed` samples, all steps of one batch at once, until `steps` are done or the next
// one would bring what is consumed above `samples`.
struct Walk {
  int64_t steps = 0, samples = 0;
};
Walk walk(const BatchRamp& ramp, int64_t steps, int64_t samples, int64_t consumed) {
  Walk done{.steps = 0, .samples = consumed};
  while (done.steps < steps) {
    const int64_t batch = batch_at(ramp, done.samples);
    int64_t count = std::min(steps - done.steps, (samples - done.samples) / batch);
    if (batch != ramp.global) {
      const int64_t left = next_change(ramp, done.samples) - done.samples;
      count = std::min(count, (left + batch - 1) / batch);
    }
    if (count == 0) break;
    done.steps += count;
    done.samples += count * batch;
  }
  return done;
}

constexpr int64_t kUnlimited = int64_t{1} << 62;

}  // namespace

int64_t batch_at(const BatchRamp& ramp, int64_t consumed) {
  require_valid(ramp);
  RL_CHECK(consumed, >=, 0);
  if (ramp.start == 0 || consumed > ramp.samples) return ramp.global;
  const auto part = static_cast<int64_t>(static_cast<double>(consumed) / samples_per_increment(ramp));
  return std::min(ramp.global, ramp.start + part * ramp.increment);
}

std::vector<int64_t> batch_sizes(const BatchRamp& ramp) {
  require_valid(ramp);
  if (ramp.start == 0) return {ramp.global};
  std::vector<int64_t> sizes;
  for (int64_t size = ramp.start; size <= ramp.global; size += ramp.increment) sizes.push_back(size);
  return sizes;
}

int64_t samples_of_steps(const BatchRamp& ramp, int64_t steps, int64_t consumed) {
  RL_CHECK(steps, >=, 0);
  RL_CHECK(consumed, >=, 0);
  return walk(ramp, steps, std::numeric_limits<int64_t>::max(), consumed).samples - consumed;
}

int64_t steps_within_samples(const BatchRamp& ramp, int64_t samples) {
  RL_CHECK(samples, >=, 0);
  return walk(ramp, kUnlimited, samples, 0).steps;
}

}  // namespace ridgeline::optim

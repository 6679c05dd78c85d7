// A global batch that grows with the training samples consumed, as Megatron-LM's --rampup-batch-size START INCREMENT
// SAMPLES. Pure functions of the sample count, so that a resumed run, the data position and the planner agree.
#pragma once

#include <cstdint>
#include <vector>

namespace ridgeline::optim {

// In K = (global - start) / increment equal parts of `samples` the batch rises from `start` to `global`:
//   batch(c) = start + increment * floor(c / (samples / K))   for c <= samples consumed before the step, at most global
//   batch(c) = global                                         for c >  samples
// The quotients are Megatron's, in double, so that every step has the batch that it would have there.
struct BatchRamp {
  int64_t global = 0;     // >= 1
  int64_t start = 0;      // 0: no ramp, always `global`; else 1 … global - increment
  int64_t increment = 0;  // divides global - start
  int64_t samples = 0;    // >= 1
};

// Sequences of the step that begins after `consumed` samples, skipped steps' samples included.
int64_t batch_at(const BatchRamp& ramp, int64_t consumed);

// Every batch that a step of a run can have, ascending: start, start + increment, …, global. A run's memory is laid out
// for all of them before it begins.
std::vector<int64_t> batch_sizes(const BatchRamp& ramp);

// Samples that `steps` steps consume after `consumed` ones: at the beginning of a run, or of what remains of it.
// Whoever asks has made sure that steps * global < 2^62.
int64_t samples_of_steps(const BatchRamp& ramp, int64_t steps, int64_t consumed = 0);

// The most steps that consume no more than `samples`: what Megatron-LM makes of --train-samples (when the ramp ends
// within them), the last partial batch being dropped.
int64_t steps_within_samples(const BatchRamp& ramp, int64_t samples);

}  // namespace ridgeline::optim

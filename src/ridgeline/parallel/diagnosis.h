// What an executor's memory holds, for people who look for a fault, and for tests.
#pragma once

#include <string>
#include <vector>

#include "ridgeline/parallel/executor.h"

namespace ridgeline::parallel {

// After a run with non-finite loss or gradient: what shows it first, in the order weights, forward, gradients; the same
// text on every rank. Collective. Reruns the forward, so only meaningful before the next batch is written.
std::string first_non_finite(Executor& executor, int program, const StepInput& input);

// After a run of an evaluation program: logits [N][V] f32 of a micro-batch. Takes memory of its own.
std::vector<float> logits(Executor& executor, int program, int micro);

}  // namespace ridgeline::parallel

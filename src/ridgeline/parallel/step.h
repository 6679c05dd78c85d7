// What goes into a step and what comes out of it.
#pragma once

#include <cstdint>

#include "ridgeline/model/batch.h"
#include "ridgeline/ops/adam.h"
#include "ridgeline/parallel/program.h"

namespace ridgeline::parallel {

// The values of one step.
struct StepInput {
  int64_t step = 0;  // for labels of collectives
  model::StepRandom random;
  ops::Adam optimizer;  // weight_decay applies to the decayed tensors only
  float learning_rate = 0.0F;
  float correction1 = 1.0F, correction2 = 1.0F;
  float clip = 0.0F;            // global norm above which gradients are scaled down; 0 for never
  float loss_scale = 1.0F;      // fp16: gradients are computed times this
  uint64_t rounding_key = 0;    // of masters in bf16
  bool stop_requested = false;  // this rank was asked to stop
  // A program that generates: the `tokens` first ones of the batch are fed, behind `fed` that were fed before.
  int64_t fed = 0, tokens = 0;
  bool update = true;  // false: leave gradients in place and weights as they are (tests, gradient dumps)
};

struct StepResult {
  double loss = 0;           // mean over the valid tokens of all ranks
  double gradient_norm = 0;  // before clipping
  int64_t tokens = 0;        // valid ones of all ranks
  bool finite = true;        // false: nothing was updated
  // fp16: a gradient was not finite although the loss was; the step is skipped. The segment that showed it first, in
  // the order of the backward pass and over all ranks.
  bool overflow = false;
  int overflow_segment = -1;
  bool stop = false;  // some rank was asked to stop
  // Of offloaded state, by this rank for this step's update; 0 when nothing was updated. Writing may still go on.
  int64_t offload_read_bytes = 0, offload_written_bytes = 0;
};

// Called on the rank's thread after every operation; must not allocate if steps are to be free of allocation.
class OpObserver {
 public:
  virtual ~OpObserver() = default;
  virtual void operation(const Op& op, int64_t begin_nanoseconds, int64_t end_nanoseconds) = 0;
};

}  // namespace ridgeline::parallel

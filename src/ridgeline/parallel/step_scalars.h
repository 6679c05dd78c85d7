// The few numbers of a step on which all ranks agree: tokens, loss, norm, stop; and what follows from them for the
// update.
#pragma once

#include <cstdint>
#include <vector>

#include "ridgeline/base/exact_sum.h"
#include "ridgeline/device/stream.h"
#include "ridgeline/ops/adam.h"
#include "ridgeline/parallel/rank_groups.h"
#include "ridgeline/parallel/rank_memory.h"
#include "ridgeline/parallel/step.h"

namespace ridgeline::parallel {

// What collectives read and write: lives longer than the communicators, since peers may still read it when one rank
// fails.
struct SharedScalars {
  // All i64, so that one exact all-reduce over the world sums it.
  struct Sums {
    ExactSum squares;    // of gradients: each rank of its pieces, so that every parameter counts once
    ExactSum losses;     // of each data rank's tokens: of the last stage and one of its tensor ranks
    int64_t tokens = 0;  // likewise
    int64_t stop = 0;    // of every rank
  };
  Sums sums;
  int64_t valid_tokens = 0;    // of the data ranks
  int64_t first_overflow = 0;  // how many segments stand behind the last one that overflowed on a rank
};

class StepScalars {
 public:
  // The arguments must outlive it.
  StepScalars(const RunShape& run, const std::vector<Program>& programs, int segments, const RankMemory& memory,
              const RankGroups& groups, device::Stream& stream, SharedScalars& shared);

  void begin();
  // Operations of a program: `count` and `agree` are collective.
  void count_tokens(int program, const StepInput& input);
  void measure(int segment);
  void agree(int program, const StepInput& input);

  // Of the step so far.
  StepResult& result() { return result_; }
  // By which the gradient of every token's loss is multiplied: 1 / tokens, times what fp16 is scaled by.
  float loss_seed() const;
  // After agree().
  const ops::AdamScalars& adam() const { return adam_; }

 private:
  void judge(const StepInput& input);

  const RunShape& run_;
  const std::vector<Program>& programs_;
  const RankMemory& memory_;
  const RankGroups& groups_;
  device::Stream& stream_;
  SharedScalars& shared_;
  StepResult result_;
  ops::AdamScalars adam_;
  float seed_scale_ = 1.0F;  // of the running step's gradients
  const int64_t segments_;   // how many
};

}  // namespace ridgeline::parallel

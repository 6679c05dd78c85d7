// A step is a program: one list of operations per rank, lowered from a schedule and a sharding. The executor runs it,
// the planner prices it, the simulator proves it, a trace shows it.
#pragma once

#include <string>
#include <vector>

#include "ridgeline/model/transformer_config.h"
#include "ridgeline/parallel/schedule.h"

namespace ridgeline::parallel {

enum class OpKind {
  count,     // agree on the step's number of valid tokens                       (reduce)
  forward,   // element `index` of micro-batch `micro`: -1 embedding, 0 … L-1 blocks (compute)
  loss,      // final norm, head, cross-entropy, forward and backward            (compute)
  evaluate,  // the loss without gradients                                       (compute)
  backward,  // element `index` of `micro`                                       (compute)
  reduce,    // sum unit `index`'s gradients over the data-parallel ranks        (reduce)
  measure,   // squares of this rank's part of unit `index`'s gradient           (compute)
  agree,     // the step's scalars: norm, loss, non-finite, stop                 (reduce)
  update     // optimizer on unit `index`                                        (compute)
};

// In-order queues of a rank. On the CPU compute is the rank's thread; a reduction started on `reduce` runs when it is
// waited for or when the next one starts.
enum class StreamId { compute, reduce };

struct Op {
  OpKind kind;
  StreamId stream = StreamId::compute;
  int index = 0;
  int micro = 0;
  std::vector<int> after;  // operations of *other* streams that must have finished, by position in the program

  std::string name() const;  // "backward block 3 micro 0"
};

struct Program {
  std::string name;  // "step", "evaluate"
  std::vector<Op> ops;
  int micro_batches = 1;
};

// What lives as 1/N over the data-parallel group. Replicated parameters (DDP) are the first level; the others are added
// here.
enum class Shard { none };

// When accumulated gradients are reduced.
enum class Reduce { last };

// The training step of a rank of the only stage: backward of micro-batch m accumulates; on the last one a unit is
// reduced as soon as its last contribution is in, and the reduction is only waited for by the unit's `measure`.
Program lower(const model::TransformerConfig& config, const std::vector<ScheduleEntry>& schedule, Shard shard,
              Reduce reduce);

// Forward-only: losses of `micro_batches` micro-batches.
Program evaluation(const model::TransformerConfig& config, int micro_batches);

}  // namespace ridgeline::parallel

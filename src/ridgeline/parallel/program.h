// A step is a program: one list of operations per rank, lowered from a schedule and a sharding. The executor runs it,
// the planner prices it, the simulator proves it, a trace shows it.
#pragma once

#include <string>
#include <vector>

#include "ridgeline/model/transformer_config.h"
#include "ridgeline/parallel/schedule.h"
#include "ridgeline/parallel/sharding.h"

namespace ridgeline::parallel {

enum class OpKind {
  count,       // agree on the step's number of valid tokens                                     (reduce)
  gather,      // weights of unit `index` from all shards; the `micro`-th time in the program    (gather)
  forward,     // element `index` of micro-batch `micro`: -1 embedding, 0 … L-1 blocks           (compute)
  loss,        // final norm, head, cross-entropy, forward and backward                          (compute)
  evaluate,    // the loss without gradients                                                     (compute)
  clear,       // zero the gradient that unit `index`'s backward of `micro` adds to              (compute)
  backward,    // element `index` of `micro`                                                     (compute)
  pack,        // unit `index`'s gradient in the dtype of the wire                               (compute)
  reduce,      // sum it over the shards: each keeps its part                                    (reduce)
  replicate,   // sum that part over the replicas                                                (reduce)
  accumulate,  // add that part to the accumulated gradient                                      (compute)
  measure,     // squares of this rank's part of unit `index`'s gradient                         (compute)
  agree,       // the step's scalars: norm, loss, non-finite, stop                               (reduce)
  update       // optimizer on this rank's part of unit `index`                                  (compute)
};

// In-order queues of a rank. On the CPU compute is the rank's thread; a transfer started on another stream goes on
// while the rank computes as far as its communicator can, and is finished when it is waited for.
enum class StreamId { compute, gather, reduce };
constexpr int kStreams = 3;

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

  bool trains() const { return name == "step"; }
  // The gather that provides unit `unit` to the computation at `position`; -1 when it reads weights that always lie
  // there.
  int gather_of(int position, int unit) const;
};

// Units whose weights an operation reads, and to whose gradients it adds.
std::vector<int> units_read(const model::TransformerConfig& config, const Op& op);
std::vector<int> units_written(const model::TransformerConfig& config, const Op& op);

// The training step of a rank of the only stage. Weights that are cut are gathered `prefetch` computations before their
// use; backward of micro-batch m accumulates; a unit's gradient is reduced as soon as its last contribution is in, and
// the reduction is waited for `prefetch` computations later. Every transfer starts after the computation before it, so
// memory that was free then may be its target.
Program lower(const model::TransformerConfig& config, const std::vector<ScheduleEntry>& schedule,
              const Sharding& sharding);

// Forward-only: losses of `micro_batches` micro-batches.
Program evaluation(const model::TransformerConfig& config, int micro_batches, const Sharding& sharding);

// Whether operation `first` has finished before `second` starts, on any machine that keeps the order of each stream and
// the dependencies; `first` < `second`.
class Order {
 public:
  explicit Order(const Program& program);
  bool before(int first, int second) const;

 private:
  std::vector<StreamId> streams_;
  std::vector<std::vector<int>> latest_;  // [operation][stream]: its latest operation that has surely finished
};

}  // namespace ridgeline::parallel

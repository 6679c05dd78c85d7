// Runs programs: every operation once, in order; transfers start where they stand and are finished where they are
// waited for. Allocates nothing.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "ridgeline/comm/communicator.h"
#include "ridgeline/device/stream.h"
#include "ridgeline/parallel/bound_op.h"
#include "ridgeline/parallel/memory_guard.h"
#include "ridgeline/parallel/rank_groups.h"
#include "ridgeline/parallel/rank_memory.h"
#include "ridgeline/parallel/rank_state.h"
#include "ridgeline/parallel/slice_communicator.h"
#include "ridgeline/parallel/step_scalars.h"

namespace ridgeline::parallel {

class Runner {
 public:
  // Binds all programs. The arguments must outlive it. `overlap` false: every transfer is waited for where it starts.
  Runner(const RunShape& run, const std::vector<model::Segment>& segments, const std::vector<Program>& programs,
         const RankMemory& memory, RankState& state, const RankGroups& groups, StepScalars& scalars,
         device::Stream& stream, bool overlap);

  // `guard`, `observer`: null for none.
  StepResult run(int program, const StepInput& input, MemoryGuard* guard, OpObserver* observer);
  // Gathers and forwards alone, of the batch that is still there, with `after` behind each.
  void run_forward(int program, const StepInput& input, const std::function<void(const Op&)>& after);
  // Whole weights that only the optimizer cuts have to be gathered again.
  void weights_changed() { gathered_ = false; }
  // As the loss of a program's micro-batch reads them; null where it has none.
  const bound::Loss* loss(int program, int micro) const;
  model::SliceGroup& slices() { return slices_; }

 private:
  // The operation that is run, and with what.
  struct Now {
    int program, position;
    const StepInput& input;
  };
  // A transfer that was started and not yet waited for.
  struct InFlight {
    comm::Communicator* communicator = nullptr;
    comm::Ticket ticket;
  };

  void run_op(const Now& now);
  void start(int position, comm::Communicator& communicator, comm::Ticket ticket);
  void finish(int position);
  void execute(const bound::Count& op, const Now& now);
  void execute(const bound::Agree& op, const Now& now);
  void execute(const bound::Gather& op, const Now& now);
  void execute(const bound::Clear& op, const Now& now);
  void execute(const bound::Join& op, const Now& now);
  void execute(const bound::Pack& op, const Now& now);
  void execute(const bound::Reduce& op, const Now& now);
  void execute(const bound::Replicate& op, const Now& now);
  void execute(const bound::Accumulate& op, const Now& now);
  void execute(const bound::Tie& op, const Now& now);
  void execute(const bound::Measure& op, const Now& now);
  void execute(const bound::Update& op, const Now& now);
  void execute(const bound::EmbeddingForward& op, const Now& now);
  void execute(const bound::EmbeddingBackward& op, const Now& now);
  void execute(const bound::BlockForward& op, const Now& now);
  void execute(const bound::BlockCached& op, const Now& now);
  void execute(const bound::Predict& op, const Now& now);
  void execute(const bound::BlockBackward& op, const Now& now);
  void execute(const bound::BlockBackwardInput& op, const Now& now);
  void execute(const bound::BlockBackwardWeight& op, const Now& now);
  void execute(const bound::Exchange& op, const Now& now);
  void execute(const bound::Settle& /*op*/, const Now& /*now*/) {}  // it has waited
  void execute(const bound::Loss& op, const Now& now);

  const RunShape& run_;
  const std::vector<model::Segment>& segments_;
  const std::vector<Program>& programs_;
  const RankMemory& memory_;
  RankState& state_;
  const RankGroups& groups_;
  StepScalars& scalars_;
  device::Stream& stream_;
  SliceCommunicator slices_;
  const bool overlap_;
  std::vector<std::vector<BoundOp>> bound_;  // [program][position]
  std::vector<InFlight> transfers_;          // by position in the running program
  std::vector<int> reductions_;              // [segment] position of its latest reduction
  bool gathered_ = false;                    // whole weights that only the optimizer cuts are up to date
};

}  // namespace ridgeline::parallel

// How the stages of a pipeline spend a step: the schedule's timeline with what each stage computes. Pure.
#pragma once

#include <span>
#include <vector>

#include "ridgeline/parallel/inventory.h"
#include "ridgeline/parallel/schedule.h"

namespace ridgeline::plan {

// What a rank does per second: operations, and bytes that it sends to other slices and other stages.
struct Rates {
  double flops = 1;
  double slices = 0, stages = 0;  // 0: unlimited
};

// Seconds that a rank takes for the parts of a micro-batch in training. Products and attention count
// (model::block_flops), a block that is computed again its forward once more; element-wise operators take no time. What
// slices share is waited for.
struct PartCosts {
  parallel::Cost block, whole_block;  // one that computes again what the run says, and one that keeps everything
  double embedding_forward = 0, embedding_backward = 0;
  double loss = 0;
  double message = 0;  // to the next stage, beside computation
};
PartCosts part_costs(const parallel::RunShape& run, const Rates& rates = {});

// Of every virtual stage.
std::vector<parallel::Cost> stage_costs(const parallel::RunShape& run, const PartCosts& parts);
inline std::vector<parallel::Cost> stage_costs(const parallel::RunShape& run) {
  return stage_costs(run, part_costs(run));
}

// Shares of the time that all stages together have in a step.
struct PipelineUse {
  parallel::Timeline timeline;
  double idle_if_equal = 0;  // of equal stages, loss and messages without time: the schedule's own
  // Idle with the given costs is timeline.idle_share, and of two kinds: the stage with the most work waits, too; and
  // the others have less to do.
  double waiting = 0, imbalance = 0;

  double idle_of(int stage) const { return 1 - timeline.busy[static_cast<size_t>(stage)] / timeline.makespan; }
};
PipelineUse pipeline_use(const parallel::PipelineShape& shape, std::span<const parallel::Cost> costs);

}  // namespace ridgeline::plan

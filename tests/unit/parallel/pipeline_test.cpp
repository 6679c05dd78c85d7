// Schedules behind the lowering: the programs of all stages, and the memory that they take.
#include "ridgeline/parallel/pipeline.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "../many_cases.h"
#include "ridgeline/parallel/simulator.h"
#include "support.h"

namespace ridgeline::parallel {
namespace {

// A run of a pipeline, every stage on `data` ranks, with as few blocks as it can have.
RunShape run_of(const PipelineShape& shape, int data, Shard level, Reduce reduce) {
  RunShape run;
  run.config =
      model::with_usual_sizes({.layers = shape.virtual_stages(), .width = 8, .heads = 2, .vocab = 17, .context = 16});
  run.batch = {.batch = 1, .sequence = 2, .head_chunk = 2};
  run.evaluation_batch = run.batch;
  run.sharding = {.level = level,
                  .mesh = comm::Mesh::of_world(shape.stages * data, shape.stages, 1, 1, 0),
                  .reduce = reduce,
                  .micro_batches = shape.micro_batches};
  run.sharding.pipeline.kind = shape.kind;
  run.sharding.pipeline.chunks = shape.chunks;
  if (shape.stages > 1) run.sharding.pipeline.blocks.assign(static_cast<size_t>(shape.virtual_stages()), 1);
  return run;
}

Program step_of(const RunShape& run, const std::vector<std::vector<ScheduleEntry>>& lists, int stage,
                const std::vector<bool>& recomputed) {
  return lower(run.config, lists[static_cast<size_t>(stage)], run.sharding, stage, recomputed);
}

// What is wrong with a step, and with an evaluation, of all ranks.
std::vector<std::string> wrong_in_programs(const RunShape& run, const std::vector<bool>& recomputed) {
  const Sharding& sharding = run.sharding;
  const auto lists = schedule(sharding.pipeline.shape(sharding.micro_batches));
  std::vector<Program> steps, evaluations;
  for (int rank = 0; rank < sharding.mesh.world_size(); ++rank) {
    const int stage = comm::Placement(sharding.mesh, rank).stage();
    steps.push_back(step_of(run, lists, stage, recomputed));
    evaluations.push_back(evaluation(run.config, sharding.micro_batches, sharding, stage));
  }
  std::vector<std::string> wrong = simulate(run.config, sharding, steps);
  for (std::string& text : simulate(run.config, sharding, evaluations)) wrong.push_back(std::move(text));
  return wrong;
}

TEST(pipeline, of_every_shape_lowers_to_programs_without_fault) {
  for (const PipelineShape& shape : every_shape()) {
    const std::vector<std::string> wrong = wrong_in_programs(run_of(shape, 1, Shard::none, Reduce::last), {});
    ASSERT_TRUE(wrong.empty()) << describe(shape) << ": " << wrong.front();
  }
}

// Two ranks of every stage, at every level, with both cadences by turns; where a step reduces once, every other block
// is computed again, and then has no parts.
TEST(pipeline, lowers_at_every_level_to_programs_without_fault) {
  int turn = 0;
  ManyCases cases(5);
  for (const PipelineShape& shape : every_shape()) {
    ++turn;
    for (const Shard level : {Shard::none, Shard::optimizer, Shard::gradients, Shard::parameters}) {
      if (cases.skips()) continue;
      const Reduce reduce = (turn + static_cast<int>(level)) % 2 == 0 ? Reduce::last : Reduce::every;
      const RunShape run = run_of(shape, 2, level, reduce);
      std::vector<bool> recomputed(static_cast<size_t>(run.config.layers));
      for (size_t i = 0; i < recomputed.size(); ++i) recomputed[i] = reduce == Reduce::last && i % 2 == 0;
      const std::vector<std::string> wrong = wrong_in_programs(run, recomputed);
      ASSERT_TRUE(wrong.empty()) << describe(shape) << ": " << wrong.front();
    }
  }
}

// The most buffers of a kind whose contents matter at the same time.
int most_buffers(const Inventory& inventory, BufferKind kind) {
  std::vector<std::pair<int, int>> changes;  // position, +1 where one begins; behind its end -1
  for (const Buffer& buffer : inventory.buffers) {
    if (buffer.kind != kind) continue;
    changes.emplace_back(buffer.first, 1);
    changes.emplace_back(buffer.last + 1, -1);
  }
  std::sort(changes.begin(), changes.end());
  int now = 0, most = 0;
  for (const auto& [position, change] : changes) most = std::max(most, now += change);
  return most;
}

// One block per virtual stage: what is saved are pairs of a virtual stage and a micro-batch.
TEST(pipeline, takes_memory_for_as_many_micro_batches_as_its_schedule_keeps_alive) {
  ManyCases cases(3);
  for (const PipelineShape& shape : every_shape()) {
    if (cases.skips()) continue;
    RunShape run = run_of(shape, 1, Shard::none, Reduce::last);
    const auto lists = schedule(run.sharding.pipeline.shape(shape.micro_batches));
    for (int stage = 0; stage < shape.stages; ++stage) {
      run.rank = stage;
      const Inventory inventory = make_inventory(run, run.segments(), {step_of(run, lists, stage, {})});
      EXPECT_EQ(most_buffers(inventory, BufferKind::saved), most_alive(shape, stage))
          << describe(shape) << ", stage " << stage;
    }
  }
}

}  // namespace
}  // namespace ridgeline::parallel

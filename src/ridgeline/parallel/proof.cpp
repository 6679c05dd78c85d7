#include "ridgeline/parallel/proof.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <string>

#include "ridgeline/base/error.h"
#include "ridgeline/parallel/simulator.h"

namespace ridgeline::parallel {
namespace {

void refuse_if(const std::vector<std::string>& wrong, std::string_view what) {
  if (wrong.empty()) return;
  constexpr size_t kShown = 5;
  const size_t shown = std::min(kShown, wrong.size());
  std::string text =
      fmt::format("{}: {}", what, fmt::join(wrong.begin(), wrong.begin() + static_cast<int>(shown), "; "));
  if (wrong.size() > shown) text += fmt::format("; and {} more", wrong.size() - shown);
  throw Error(text,
              "This is a defect of Ridgeline, found before it could compute anything wrong: please report it with "
              "the configuration. Another parallel.shard, parallel.prefetch or train.global_batch may avoid it.");
}

// The same program of another stage.
Program of_stage(const RunShape& run, const Program& program, int stage) {
  if (program.generates()) return generation(run.config, run.sharding, stage);
  if (!program.trains()) return evaluation(run.config, program.micro_batches, run.sharding, stage);
  const std::vector<std::vector<ScheduleEntry>> all = schedule(run.sharding.pipeline.shape(program.micro_batches));
  return lower(run.config, all[static_cast<size_t>(stage)], run.sharding, stage, run.recomputed());
}

// With the other stages of this rank's pipeline; those that differ from it only in samples or slices do the same.
std::vector<std::string> simulate_stages(const RunShape& run, const Program& program) {
  const int stages = run.sharding.pipeline.stages(), mine = run.place().stage();
  // The ranks of a stage run the same program: one of them looks at the other stages', too.
  const bool first =
      run.place().index({comm::Axis::dp_replicate, comm::Axis::dp_shard, comm::Axis::cp, comm::Axis::tp}) == 0;
  if (stages == 1 || !first) return simulate_alone(run.config, run.sharding, program, run.rank);
  std::vector<Program> programs;
  for (int stage = 0; stage < stages; ++stage)
    programs.push_back(stage == mine ? program : of_stage(run, program, stage));
  const std::vector<int> numbers = run.place().group({comm::Axis::pp});
  std::vector<SimulatedRank> ranks;
  for (int stage = 0; stage < stages; ++stage) {
    SimulatedRank& rank = ranks.emplace_back(SimulatedRank{.program = &programs[static_cast<size_t>(stage)],
                                                           .number = numbers[static_cast<size_t>(stage)],
                                                           .stage = stage});
    rank.group.fill(stage);  // alone, but for those that stages share
    rank.group[static_cast<size_t>(Group::world)] = rank.group[static_cast<size_t>(Group::stages)] = 0;
    if (stage + 1 == stages) rank.group[static_cast<size_t>(Group::ends)] = 0;
  }
  return simulate(run.config, run.sharding, ranks);
}

}  // namespace

Proof prove(const RunShape& run, const std::vector<Program>& programs, const Inventory& inventory) {
  const auto begin = std::chrono::steady_clock::now();
  Proof proof;
  for (const Program& program : programs) {
    proof.operations += static_cast<int64_t>(program.ops.size());
    refuse_if(simulate_stages(run, program), fmt::format("the program '{}' is wrong", program.name));
  }
  proof.buffers = static_cast<int64_t>(inventory.buffers.size());
  prove_layout(programs, inventory);
  proof.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return proof;
}

void prove_layout(const std::vector<Program>& programs, const Inventory& inventory) {
  refuse_if(overlapping(inventory, programs), "buffers share memory that the programs do not keep apart");
}

}  // namespace ridgeline::parallel

#include "ridgeline/plan/step_time.h"

#include <algorithm>

#include "ridgeline/comm/communicator.h"

namespace ridgeline::plan {
namespace {

using comm::Axis;
using comm::AxisSet;
using parallel::Cost;
using parallel::Shard;

// A stage's work on one micro-batch.
struct StageWork {
  double forward = 0, backward = 0;
  double sum() const { return forward + backward; }
};
StageWork work_of(const parallel::Pipeline& pipeline, const std::vector<Cost>& costs, int stage) {
  StageWork work;
  for (int part = stage; part < pipeline.virtual_stages(); part += pipeline.stages()) {
    const Cost& cost = costs[static_cast<size_t>(part)];
    work.forward += cost.forward;
    work.backward += cost.loss + cost.backward_input + cost.backward_weight;
  }
  return work;
}
// What a stage waits for other data-parallel ranks beyond what its work hides.
double exposed(const parallel::RunShape& run, const Cluster& cluster, const StageWork& work, int stage) {
  const parallel::Sharding& sharding = run.sharding;
  if (sharding.ranks() == 1) return 0;
  const double elements = matrix_elements(run, stage);
  const auto bytes = [&](double count, DType dtype) { return static_cast<int64_t>(count) * size_of(dtype); };
  const auto seconds = [&](int64_t traffic, AxisSet axes) {
    return static_cast<double>(traffic) / link_of(cluster, sharding.mesh, axes);
  };
  const int shards = sharding.shards(), replicas = sharding.replicas();
  double reduction =
      seconds(comm::all_reduce_traffic(replicas, bytes(elements / shards, sharding.wire)), sharding.replica_axes());
  if (shards > 1)
    reduction += seconds(comm::part_traffic(shards, bytes(elements, sharding.wire)), sharding.shard_axes());
  double gather = 0;
  if (sharding.cuts(Shard::optimizer))
    gather = seconds(comm::part_traffic(shards, bytes(elements, sharding.weights)), sharding.shard_axes());
  const auto beyond = [](double traffic, double hidden) { return std::max(0.0, traffic - hidden); };
  const double all = sharding.micro_batches * work.sum();
  const double reduced =
      sharding.reduces_every() ? beyond(reduction * sharding.micro_batches, all) : beyond(reduction, work.backward);
  const bool every_use = sharding.cuts(Shard::parameters) && sharding.gather == parallel::Gather::per_use;
  const double gathered = every_use ? beyond(2 * gather * sharding.micro_batches, all) : beyond(gather, work.forward);
  return reduced + gathered;
}

double most_exposed(const parallel::RunShape& run, const Cluster& cluster, const std::vector<Cost>& costs) {
  double most = 0;
  for (int stage = 0; stage < run.sharding.pipeline.stages(); ++stage)
    most = std::max(most, exposed(run, cluster, work_of(run.sharding.pipeline, costs, stage), stage));
  return most;
}

}  // namespace

double matrix_elements(const parallel::RunShape& run, int stage) {
  const model::TransformerConfig& config = run.config;
  const int layers = static_cast<int>(config.layers);
  const auto slices = static_cast<double>(run.sharding.slices());
  const double vocabulary = static_cast<double>(config.vocab * config.width) / slices;
  const double block = model::block_flops(config, 1).products / 6 / slices;
  double count = 0;
  for (const parallel::Elements& elements : run.sharding.pipeline.of_stage(config, stage)) {
    count += block * (std::min(elements.last, layers - 1) - std::max(elements.first, 0) + 1);
    const bool last = elements.contains(layers) && (run.sharding.pipeline.stages() > 1 || !config.tied);
    count += vocabulary * ((elements.contains(-1) ? 1 : 0) + (last ? 1 : 0));
  }
  return count;
}

// The first rank's group reaches as far as any: ranks of a group lie within a stretch that begins at its multiples.
double link_of(const Cluster& cluster, const comm::Mesh& mesh, AxisSet axes) {
  int reach = 1, stretch = 1;
  for (const Axis axis : {Axis::tp, Axis::cp, Axis::dp_shard, Axis::dp_replicate, Axis::pp}) {
    stretch *= mesh.size(axis);
    if (axes.contains(axis) && mesh.size(axis) > 1) reach = stretch;
  }
  return cluster.node_size % reach == 0 ? cluster.inside : cluster.between;
}

Rates rates_of(const Cluster& cluster, const comm::Mesh& mesh) {
  return {.flops = cluster.flops * cluster.efficiency,
          .slices = link_of(cluster, mesh, {Axis::tp}),
          .stages = link_of(cluster, mesh, {Axis::pp})};
}

StepTime step_time(const parallel::RunShape& run, const Cluster& cluster, const PartCosts& parts) {
  const std::vector<Cost> costs = stage_costs(run, parts);
  const parallel::PipelineShape shape = run.sharding.pipeline.shape(run.sharding.micro_batches);
  parallel::Timeline timeline = parallel::timeline(parallel::schedule(shape), costs);
  return {.seconds = timeline.makespan + most_exposed(run, cluster, costs),
          .pipeline = timeline.makespan,
          .idle_share = timeline.idle_share,
          .alive = std::move(timeline.peak_live)};
}

// Before a stage begins the stages before it have computed its first input, and after its last gradient they compute
// theirs.
double least_seconds(const parallel::RunShape& run, const Cluster& cluster, const PartCosts& parts) {
  const std::vector<Cost> costs = stage_costs(run, parts);
  const parallel::Pipeline& pipeline = run.sharding.pipeline;
  // Weight parts may come after the last gradient.
  const bool in_parts = pipeline.kind == parallel::ScheduleKind::zero_bubble;
  double around = 0, least = 0;
  for (int stage = 0; stage < pipeline.stages(); ++stage) {
    least = std::max(least, around + run.sharding.micro_batches * work_of(pipeline, costs, stage).sum());
    const Cost& cost = costs[static_cast<size_t>(stage)];
    around += cost.forward + cost.transfer;
    if (!in_parts) around += cost.backward_input + cost.backward_weight + cost.transfer;
  }
  return least + most_exposed(run, cluster, costs);
}

}  // namespace ridgeline::plan

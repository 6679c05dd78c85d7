#include "ridgeline/plan/step_time.h"

#include <algorithm>

#include "ridgeline/comm/communicator.h"
#include "ridgeline/plan/traffic.h"

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
// Of a reduction to owners (`sums`) or a gather from them. Where several members share a node, one sum of theirs
// travels to others, if that is fewer bytes than their own values (sums are fp32), and each of them sends an equal
// part.
double part_seconds(const Cluster& cluster, const comm::Mesh& mesh, AxisSet axes, int64_t bytes, DType dtype,
                    bool sums) {
  const int ranks = mesh.size(axes), members = members_on_node(mesh, axes, cluster.node_size);
  const auto seconds = [&](int of, int64_t sent, double rate) {
    return static_cast<double>(comm::part_traffic(of, sent)) / rate;
  };
  if (members < 2) return seconds(ranks, bytes, link_of(cluster, mesh, axes));
  const int64_t wider = sums ? std::min<int64_t>(members, size_of(DType::f32) / size_of(dtype)) : 1;
  return std::max(seconds(ranks / members, bytes * wider, cluster.between * members),
                  seconds(members, bytes, cluster.inside));
}

// What a stage waits for other data-parallel ranks beyond what its work hides.
double exposed(const parallel::RunShape& run, const Cluster& cluster, const StageWork& work, int stage) {
  const parallel::Sharding& sharding = run.sharding;
  if (sharding.ranks() == 1) return 0;
  const double elements = matrix_elements(run, stage);
  const auto seconds = [&](double count, DType dtype, AxisSet axes, bool sums) {
    return part_seconds(cluster, sharding.mesh, axes, static_cast<int64_t>(count) * size_of(dtype), dtype, sums);
  };
  const int shards = sharding.shards();
  double reduction = 0;
  for (const bool sums : {true, false})  // an all-reduce
    reduction += seconds(elements / shards, sharding.wire, sharding.replica_axes(), sums);
  if (shards > 1) reduction += seconds(elements, sharding.wire, sharding.shard_axes(), true);
  double gather = 0;
  if (sharding.cuts(Shard::optimizer)) gather = seconds(elements, sharding.weights, sharding.shard_axes(), false);
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

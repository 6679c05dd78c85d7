#include "ridgeline/plan/pipeline_use.h"

#include <algorithm>

#include "ridgeline/model/declarations.h"
#include "ridgeline/model/transformer.h"
#include "ridgeline/plan/traffic.h"

namespace ridgeline::plan {
namespace {

using model::Pass;
using model::Recompute;
using parallel::Cost;

// What a rank does with one micro-batch of training.
class RankWork {
 public:
  RankWork(const parallel::RunShape& run, const Rates& rates) : run_(run), rates_(rates) {}

  Cost block(Recompute recompute) const {
    const model::Flops flops = model::block_flops(run_.config, run_.batch.sequence);
    const double products = computed(flops.products) / 3, attention = computed(flops.attention) / 3;
    const double again = recompute == Recompute::full ? products + attention : 0;
    const auto shares = [&](Pass pass) {
      return run_.sharding.slices() == 1 ? 0 : shared(model::block_traffic(local(recompute), pass));
    };
    Cost cost{.forward = products + attention + shares(Pass::forward),
              .backward_input = products + 2 * attention,
              .backward_weight = products};
    if (run_.sharding.pipeline.kind == parallel::ScheduleKind::zero_bubble && recompute != Recompute::full) {
      cost.backward_input += shares(Pass::backward_input);
      cost.backward_weight += shares(Pass::backward_weight);
      return cost;
    }
    // A backward without parts: the stage before waits for all of it.
    cost.backward_input += cost.backward_weight + again + shares(Pass::backward);
    cost.backward_weight = 0;
    return cost;
  }
  double embedding(bool backward) const { return shared(model::embedding_traffic(local(), backward)); }
  double loss() const {
    return computed(model::head_flops(run_.config).products) + shared(model::loss_traffic(local(), true));
  }
  double message() const { return seconds(message_bytes(local()), rates_.stages); }

 private:
  model::LocalShape local(Recompute recompute = Recompute::none) const {
    return run_.local({.name = "step"}, recompute);
  }
  static double seconds(int64_t bytes, double rate) { return rate == 0 ? 0 : static_cast<double>(bytes) / rate; }
  double computed(double flops_per_token) const {
    return flops_per_token * static_cast<double>(run_.batch.tokens()) / run_.sharding.slices() / rates_.flops;
  }
  double shared(const model::SliceTraffic& traffic) const {
    return seconds(slice_bytes(local(), traffic), rates_.slices);
  }

  const parallel::RunShape& run_;
  const Rates& rates_;
};

}  // namespace

PartCosts part_costs(const parallel::RunShape& run, const Rates& rates) {
  const RankWork work(run, rates);
  return {.block = work.block(run.recompute),
          .whole_block = work.block(Recompute::none),
          .embedding_forward = work.embedding(false),
          .embedding_backward = work.embedding(true),
          .loss = work.loss(),
          .message = work.message()};
}

std::vector<Cost> stage_costs(const parallel::RunShape& run, const PartCosts& parts) {
  const parallel::Pipeline& pipeline = run.sharding.pipeline;
  const int layers = static_cast<int>(run.config.layers);
  std::vector<Cost> costs;
  for (int stage = 0; stage < pipeline.virtual_stages(); ++stage) {
    Cost cost{.forward = 0, .backward_input = 0, .backward_weight = 0, .transfer = parts.message};
    const parallel::Elements elements = pipeline.elements(run.config, stage);
    for (int layer = std::max(elements.first, 0); layer <= std::min(elements.last, layers - 1); ++layer) {
      const Cost& block = run.recompute_of(layer) == run.recompute ? parts.block : parts.whole_block;
      cost.forward += block.forward;
      cost.backward_input += block.backward_input;
      cost.backward_weight += block.backward_weight;
    }
    if (elements.contains(-1)) {
      cost.forward += parts.embedding_forward;
      cost.backward_input += parts.embedding_backward;
    }
    if (elements.contains(layers)) cost.loss = parts.loss;
    costs.push_back(cost);
  }
  return costs;
}

PipelineUse pipeline_use(const parallel::PipelineShape& shape, std::span<const Cost> costs) {
  const auto lists = parallel::schedule(shape);
  PipelineUse use{.timeline = parallel::timeline(lists, costs)};
  use.idle_if_equal = parallel::timeline(lists, std::vector<Cost>(costs.size())).idle_share;
  const std::vector<double>& busy = use.timeline.busy;
  use.waiting = 1 - *std::max_element(busy.begin(), busy.end()) / use.timeline.makespan;
  use.imbalance = use.timeline.idle_share - use.waiting;
  return use;
}

}  // namespace ridgeline::plan

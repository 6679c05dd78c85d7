// Which elements of the computation lie on which stage of a pipeline. Pure.
#pragma once

#include <algorithm>
#include <vector>

#include "ridgeline/model/transformer_config.h"
#include "ridgeline/parallel/schedule.h"

namespace ridgeline::parallel {

// Elements first … last of the computation: -1 the embedding, 0 … L-1 the blocks, L the loss.
struct Elements {
  int first = -1, last = 0;
  bool contains(int element) const { return first <= element && element <= last; }
};

// The blocks of each virtual stage, at least one; the first has the embedding too, the last the loss. Empty: one stage
// computes everything.
struct Pipeline {
  ScheduleKind kind = ScheduleKind::one_f_one_b;
  int chunks = 1;
  std::vector<int> blocks = {};

  int virtual_stages() const { return std::max(1, static_cast<int>(blocks.size())); }
  int stages() const { return virtual_stages() / chunks; }
  PipelineShape shape(int micro_batches) const { return {kind, stages(), micro_batches, chunks}; }
  Elements elements(const model::TransformerConfig& config, int virtual_stage) const {
    const int layers = static_cast<int>(config.layers);
    if (blocks.empty()) return {-1, layers};
    int first = 0;
    for (int before = 0; before < virtual_stage; ++before) first += blocks[static_cast<size_t>(before)];
    const int last = first + blocks[static_cast<size_t>(virtual_stage)] - 1;
    return {virtual_stage == 0 ? -1 : first, virtual_stage + 1 == virtual_stages() ? layers : last};
  }
  // Those of each virtual stage of a stage, ascending.
  std::vector<Elements> of_stage(const model::TransformerConfig& config, int stage) const {
    std::vector<Elements> all;
    for (int virtual_stage = stage; virtual_stage < virtual_stages(); virtual_stage += stages())
      all.push_back(elements(config, virtual_stage));
    return all;
  }
};

// Cut so that the largest virtual stage computes as little as can be, FLOPs of blocks and loss counted.
Pipeline balanced_pipeline(const model::TransformerConfig& config, int64_t sequence, ScheduleKind kind, int stages,
                           int chunks = 1);

}  // namespace ridgeline::parallel

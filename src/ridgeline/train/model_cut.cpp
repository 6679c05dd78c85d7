#include "ridgeline/train/model_cut.h"

#include <fmt/format.h>

#include "ridgeline/base/count.h"
#include "ridgeline/base/error.h"
#include "ridgeline/model/slice.h"

namespace ridgeline::train {

parallel::Sharding sharding_of(const ModelCut& cut, const model::TransformerConfig& config, int ranks, DType dtype) {
  if (const std::optional<std::string> refusal = model::unsliceable(config, cut.tensor)) {
    int fewer = cut.tensor - 1;
    while (model::unsliceable(config, fewer)) --fewer;
    throw Error(fmt::format("--tensor {}: {}", cut.tensor, *refusal),
                fmt::format("The nearest smaller value is {}.", fewer));
  }
  if (cut.pipeline > config.layers) {
    throw Error(fmt::format("--pipeline {}: more stages than the model's {}", cut.pipeline,
                            format_counted(config.layers, "block")),
                fmt::format("The nearest valid value is {}.", config.layers));
  }
  if (ranks % cut.ranks() != 0) {
    throw Error(fmt::format("{}: no multiple of --tensor {} x --pipeline {}", format_counted(ranks, "rank"), cut.tensor,
                            cut.pipeline),
                fmt::format("Start {} ranks, or a multiple of that.", cut.ranks()));
  }
  parallel::Sharding sharding{
      .mesh = comm::Mesh::of_world(ranks, cut.pipeline, cut.tensor, 1, 0), .weights = dtype, .masters = dtype};
  if (cut.pipeline > 1) sharding.pipeline = parallel::balanced_pipeline(config, config.context, {}, cut.pipeline);
  return sharding;
}

}  // namespace ridgeline::train

// How a stored model is cut over ranks that evaluate it or generate with it, when one rank is not to hold all of it.
#pragma once

#include "ridgeline/base/dtype.h"
#include "ridgeline/model/transformer_config.h"
#include "ridgeline/parallel/sharding.h"

namespace ridgeline::train {

struct ModelCut {
  int tensor = 1;    // slices of each matrix
  int pipeline = 1;  // stages
  int ranks() const { return tensor * pipeline; }
};

// `ranks` ranks of which cut.ranks() hold one copy; weights and masters in `dtype`. Error that names --tensor,
// --pipeline or --ranks when the model or the ranks cannot be cut so.
parallel::Sharding sharding_of(const ModelCut& cut, const model::TransformerConfig& config, int ranks, DType dtype);

}  // namespace ridgeline::train

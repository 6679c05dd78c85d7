// What the tests of this room share.
#pragma once

#include <vector>

#include "ridgeline/parallel/inventory.h"
#include "ridgeline/parallel/program.h"

namespace ridgeline::parallel {

inline model::TransformerConfig small() {
  return model::with_usual_sizes({.layers = 3, .width = 8, .heads = 2, .vocab = 17, .context = 16});
}

// A step and an evaluation.
inline std::vector<Program> programs(const RunShape& run) {
  return {lower(run.config, schedule(1, run.sharding.micro_batches)[0], run.sharding),
          evaluation(run.config, 1, run.sharding)};
}

}  // namespace ridgeline::parallel

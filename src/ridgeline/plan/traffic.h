// What a rank sends to others in a program: the price of a layout beside its memory.
#pragma once

#include <cstdint>
#include <vector>

#include "ridgeline/model/declarations.h"
#include "ridgeline/parallel/program.h"

namespace ridgeline::plan {

// Bytes that one rank sends, by ring or directly, each value once per peer that needs it. Over S ranks and W bytes:
//   all-gather, reduce-scatter   (S - 1) / S * W
//   all-reduce                   2 (S - 1) / S * W, as a reduce-scatter and an all-gather
// Agreement on scalars is left out: some hundred bytes per step.
struct Traffic {
  int64_t gathers = 0;     // of weights
  int64_t reductions = 0;  // of gradients
};

// Pure. `units` are the model's, `program` was lowered with `sharding`.
Traffic traffic_of(const parallel::Program& program, const std::vector<model::Unit>& units,
                   const parallel::Sharding& sharding);

}  // namespace ridgeline::plan

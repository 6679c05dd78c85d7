// What a rank sends to others in a program: the price of a layout beside its memory.
#pragma once

#include <cstdint>
#include <vector>

#include "ridgeline/model/declarations.h"
#include "ridgeline/parallel/program.h"

namespace ridgeline::plan {

// Bytes that one rank sends at the least (parallel/traffic.h), by what for. Agreement on scalars is left out: some
// hundred bytes per step.
struct TrafficByPurpose {
  int64_t gathers = 0;     // of weights
  int64_t reductions = 0;  // of gradients
};

// Pure. `segments` are the model's, `program` was lowered with `sharding`.
TrafficByPurpose traffic_by_purpose(const parallel::Program& program, const std::vector<model::Segment>& segments,
                                    const parallel::Sharding& sharding);

}  // namespace ridgeline::plan

// What a rank sends to others in a program: the price of a layout beside its memory.
#pragma once

#include <cstdint>

#include "ridgeline/parallel/inventory.h"

namespace ridgeline::plan {

// Bytes that one rank sends at the least (parallel/traffic.h), by what for. Agreement on scalars is left out: some
// hundred bytes per step.
struct TrafficByPurpose {
  int64_t gathers = 0;     // of weights
  int64_t reductions = 0;  // of gradients
  int64_t slices = 0;      // between the slices of a model: what their products have in common
  int64_t stages = 0;      // between stages: outputs and their gradients, and the gradient of what two of them hold

  int64_t total() const { return gathers + reductions + slices + stages; }
};

// Pure. `program` is one of the run's rank.
TrafficByPurpose traffic_by_purpose(const parallel::Program& program, const parallel::RunShape& run);

// Bytes that a slice sends to the others in a pass over one micro-batch: all-reduces and all-gathers or reduce-scatters
// of activations.
int64_t slice_bytes(const model::LocalShape& shape, const model::SliceTraffic& traffic);
// Of a micro-batch's output, or its gradient, which a stage sends to the next.
int64_t message_bytes(const model::LocalShape& shape);

// How many members of a group along `axes`, neighbours in the mesh's order, share a node of `node_size` consecutive
// ranks; 0 where groups lie in a node, or have unequal numbers on several.
int members_on_node(const comm::Mesh& mesh, comm::AxisSet axes, int node_size);
// parallel.sum_group for such nodes: as many as share a node of a group that sums gradients, so that one sum travels
// between nodes for all of them. 0 where any other value serves as well.
int64_t best_sum_group(const parallel::Sharding& sharding, int node_size);

}  // namespace ridgeline::plan

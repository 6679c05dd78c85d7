// How long a step takes: a first model, to rank layouts by. Pure.
//
//   step = the schedule's timeline, with
//            products and attention at flops * efficiency, computed again where blocks are,
//            what slices share (model::block_traffic, …): all of it waited for, although sums can travel in part beside
//            products,
//            messages between stages, beside computation;
//        + what of the data-parallel traffic the work that it can run beside is too short for:
//            gradients, once per step: the last micro-batch's backward; every micro-batch: all of it
//            weights, once per step: the first micro-batch's forward; at every use: all of it
//
// A transfer takes the bytes that a rank sends at the least (comm::Link), at the rate of the slowest link of its group.
// Of data-parallel traffic between nodes the ranks of a node send one copy together (docs/sharding.md, "Several
// hosts"), with best_sum_group. Neither latency, nor element-wise operators, nor the update take time, and no size of a
// product is better than another.
#pragma once

#include <vector>

#include "ridgeline/parallel/inventory.h"
#include "ridgeline/plan/pipeline_use.h"

namespace ridgeline::plan {

// The defaults are the tutorial's machine, Frontier: a node has 4 MI250X, of which each is two devices.
struct Cluster {
  int node_size = 8;        // ranks
  double flops = 191.5e12;  // of a rank, per second: dense 16-bit products at their peak
  double efficiency = 0.5;  // part of it that products reach
  // Bytes per second that a rank can send, to ranks of its node and to others.
  double inside = 50e9, between = 12.5e9;
};

// What a group of ranks sends at.
double link_of(const Cluster& cluster, const comm::Mesh& mesh, comm::AxisSet axes);
Rates rates_of(const Cluster& cluster, const comm::Mesh& mesh);

// Elements of the matrices of a stage that a rank has: nearly all of its part of the model.
double matrix_elements(const parallel::RunShape& run, int stage);

struct StepTime {
  double seconds = 0;
  double pipeline = 0;     // of them: the timeline
  double idle_share = 0;   // of the timeline
  std::vector<int> alive;  // Timeline::peak_live
};
StepTime step_time(const parallel::RunShape& run, const Cluster& cluster, const PartCosts& parts);
// No more than its seconds, found without a timeline.
double least_seconds(const parallel::RunShape& run, const Cluster& cluster, const PartCosts& parts);

}  // namespace ridgeline::plan

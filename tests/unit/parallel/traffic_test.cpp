#include "ridgeline/parallel/traffic.h"

#include <gtest/gtest.h>

#include "ridgeline/parallel/inventory.h"
#include "support.h"

namespace ridgeline::parallel {
namespace {

// Bytes that a rank sends for weights and gradients.
int64_t bytes(const Sharding& sharding) {
  const Program program = lower(small(), schedule(1, sharding.micro_batches)[0], sharding);
  const std::vector<model::Segment> segments = model::declare(small());
  Traffic sum = traffic_of(program, segments, sharding);
  for (const OpKind kind : {OpKind::count, OpKind::agree}) {
    const Traffic scalars = traffic_of(Op{.kind = kind}, segments, sharding);
    EXPECT_EQ(scalars.transfers, sharding.ranks() > 1 ? 1 : 0);
    sum.bytes -= scalars.bytes;
  }
  return sum.bytes;
}

// Elements of all segments, padded.
int64_t elements(const Sharding& sharding) {
  int64_t sum = 0;
  for (const model::Segment& segment : model::declare(small())) sum += extent_of(segment, sharding).whole;
  return sum;
}

TEST(traffic, is_that_of_the_levels) {
  const auto of = [](Shard level, int ranks, int micro_batches, Reduce reduce) {
    return Sharding{
        .level = level, .mesh = comm::Mesh::of_data(ranks), .reduce = reduce, .micro_batches = micro_batches};
  };
  for (const int ranks : {2, 4}) {
    const int64_t whole = 4 * elements({.mesh = comm::Mesh::of_data(ranks)}), once = whole / ranks * (ranks - 1);
    for (const int micro_batches : {1, 3}) {
      EXPECT_EQ(bytes(of(Shard::none, ranks, micro_batches, Reduce::last)), 2 * once);
      EXPECT_EQ(bytes(of(Shard::none, ranks, micro_batches, Reduce::every)), 2 * once * micro_batches);
      EXPECT_EQ(bytes(of(Shard::optimizer, ranks, micro_batches, Reduce::last)), 2 * once);
      EXPECT_EQ(bytes(of(Shard::gradients, ranks, micro_batches, Reduce::every)), once * (1 + micro_batches));
    }
  }
  EXPECT_EQ(bytes({.level = Shard::parameters}), 0);
}

TEST(traffic, of_parameters_gathers_again_for_the_backward_unless_they_stay) {
  Sharding sharding{.level = Shard::parameters, .mesh = comm::Mesh::of_data(2), .gather = Gather::per_step};
  const int64_t once = 4 * elements(sharding) / 2;
  EXPECT_EQ(bytes(sharding), 2 * once);
  sharding.gather = Gather::per_use;
  EXPECT_GT(bytes(sharding), 2 * once);
  EXPECT_LT(bytes(sharding), 3 * once);  // what the loss and the last block read is not dropped between
  sharding.wire = DType::bf16;
  sharding.weights = DType::bf16;
  EXPECT_LT(bytes(sharding), 3 * once / 2);
}

TEST(traffic, of_hybrid_groups_adds_the_replicas) {
  const Sharding sharding{.level = Shard::gradients, .mesh = comm::Mesh::of_data(4, 2)};
  // Gather and reduce half of it inside the group; sum halves over two replicas.
  EXPECT_EQ(bytes(sharding), 4 * elements(sharding) * 3 / 2);
}

}  // namespace
}  // namespace ridgeline::parallel

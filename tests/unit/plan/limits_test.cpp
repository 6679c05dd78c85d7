// What a layout sends.
#include <gtest/gtest.h>

#include "ridgeline/parallel/schedule.h"
#include "ridgeline/plan/memory_report.h"
#include "ridgeline/plan/traffic.h"

namespace ridgeline::plan {
namespace {

// P elements, N ranks, m micro-batches: what each level sends by its definition.
TEST(TrafficOf, IsWhatTheLevelsAreKnownFor) {
  model::TransformerConfig config = model::preset("gpt2");
  config.layers = 3;
  constexpr int kRanks = 4, kMicro = 3;
  const auto traffic = [&](parallel::Shard level, parallel::Reduce reduce, int group = 0) {
    const parallel::Sharding sharding{
        .level = level, .mesh = comm::Mesh::of_data(kRanks, group), .reduce = reduce, .micro_batches = kMicro};
    return traffic_by_purpose(parallel::lower(config, parallel::schedule(1, kMicro)[0], sharding),
                              {.config = config, .sharding = sharding});
  };
  int64_t bytes = 0;
  for (const model::Segment& segment : model::declare(config)) bytes += segment.padded(kRanks) * 4;
  const int64_t once = bytes / kRanks * (kRanks - 1);
  using parallel::Reduce;
  using parallel::Shard;
  EXPECT_EQ(traffic(Shard::none, Reduce::last).gathers, 0);
  EXPECT_EQ(traffic(Shard::none, Reduce::last).reductions, 2 * once);
  EXPECT_EQ(traffic(Shard::optimizer, Reduce::last).gathers, once);
  EXPECT_EQ(traffic(Shard::optimizer, Reduce::last).reductions, once);
  EXPECT_EQ(traffic(Shard::gradients, Reduce::last).reductions, once);
  EXPECT_EQ(traffic(Shard::gradients, Reduce::every).reductions, kMicro * once);
  EXPECT_GT(traffic(Shard::parameters, Reduce::last).gathers, kMicro * once);
  EXPECT_LE(traffic(Shard::parameters, Reduce::last).gathers, 2 * kMicro * once);
  // Two groups of two: half as far around, and the parts once more around the replicas.
  EXPECT_EQ(traffic(Shard::optimizer, Reduce::last, 2).gathers, bytes / 2);
  EXPECT_EQ(traffic(Shard::optimizer, Reduce::last, 2).reductions, bytes / 2 + 2 * (bytes / 2 / 2));
}

}  // namespace
}  // namespace ridgeline::plan

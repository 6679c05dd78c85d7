// What a plan is held against: the limits of cgroups, and what a layout sends.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <string>

#include "ridgeline/parallel/schedule.h"
#include "ridgeline/plan/memory_report.h"
#include "ridgeline/plan/traffic.h"

namespace ridgeline::plan {
namespace {

namespace fs = std::filesystem;
constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

class Cgroups : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(root_); }
  void TearDown() override { fs::remove_all(root_); }
  void write(const std::string& file, const std::string& text) const {
    fs::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text << "\n";
  }
  const fs::path root_ = fs::temp_directory_path() / ("ridgeline_cgroups_" + std::to_string(::getpid()));
};

TEST_F(Cgroups, TheTightestLimitOnTheWayUpCountsInBothVersions) {
  EXPECT_EQ(cgroup_headroom(root_, "0::/\n"), kNoLimit);
  write("jobs/memory.max", "1000");
  write("jobs/memory.current", "300");
  write("jobs/7/memory.max", "max");
  write("jobs/7/memory.current", "200");
  EXPECT_EQ(cgroup_headroom(root_, "0::/jobs/7\n"), 700);
  EXPECT_EQ(cgroup_headroom(root_, "0::/elsewhere\n"), kNoLimit);
  write("memory/a/memory.limit_in_bytes", "500");
  write("memory/a/memory.usage_in_bytes", "100");
  EXPECT_EQ(cgroup_headroom(root_, "7:blkio:/a\n4:hugetlb,memory:/a/b\n0::/jobs/7\n"), 400);
  EXPECT_EQ(cgroup_headroom(root_, "7:blkio:/a\n0::/\n"), kNoLimit);
  // Inside a container the path of version 1 may not exist here; the root's limit still holds.
  write("memory/memory.limit_in_bytes", "450");
  write("memory/memory.usage_in_bytes", "500");
  EXPECT_EQ(cgroup_headroom(root_, "4:memory:/somewhere/outside\n"), 0);
  // Cached files make way.
  write("memory/memory.stat", "cache 1\ninactive_file 100\ntotal_inactive_file 200\nunevictable 0");
  EXPECT_EQ(cgroup_headroom(root_, "4:memory:/somewhere/outside\n"), 150);
}

// P elements, N ranks, m micro-batches: what each level sends by its definition.
TEST(TrafficOf, IsWhatTheLevelsAreKnownFor) {
  model::TransformerConfig config = model::preset("gpt2");
  config.layers = 3;
  const std::vector<model::Unit> units = model::declare(config);
  constexpr int kRanks = 4, kMicro = 3;
  const auto traffic = [&](parallel::Shard level, parallel::Reduce reduce, int group = 0) {
    const parallel::Sharding sharding{
        .level = level, .ranks = kRanks, .group = group, .reduce = reduce, .micro_batches = kMicro};
    return traffic_by_purpose(parallel::lower(config, parallel::schedule(1, kMicro)[0], sharding), units, sharding);
  };
  int64_t bytes = 0;
  for (const model::Unit& unit : units) bytes += unit.padded(kRanks) * 4;
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

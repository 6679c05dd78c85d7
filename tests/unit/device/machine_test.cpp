#include "ridgeline/device/machine.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "ridgeline/base/error.h"
#include "ridgeline/device/cpu/bound_thread.h"

namespace ridgeline::device {
namespace {

namespace fs = std::filesystem;

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
  EXPECT_EQ(cgroup_headroom(root_, "0::/\n"), Machine::kUnlimited);
  write("jobs/memory.max", "1000");
  write("jobs/memory.current", "300");
  write("jobs/7/memory.max", "max");
  write("jobs/7/memory.current", "200");
  EXPECT_EQ(cgroup_headroom(root_, "0::/jobs/7\n"), 700);
  EXPECT_EQ(cgroup_headroom(root_, "0::/elsewhere\n"), Machine::kUnlimited);
  write("memory/a/memory.limit_in_bytes", "500");
  write("memory/a/memory.usage_in_bytes", "100");
  EXPECT_EQ(cgroup_headroom(root_, "7:blkio:/a\n4:hugetlb,memory:/a/b\n0::/jobs/7\n"), 400);
  EXPECT_EQ(cgroup_headroom(root_, "7:blkio:/a\n0::/\n"), Machine::kUnlimited);
  // Inside a container the path of version 1 may not exist here; the root's limit still holds.
  write("memory/memory.limit_in_bytes", "450");
  write("memory/memory.usage_in_bytes", "500");
  EXPECT_EQ(cgroup_headroom(root_, "4:memory:/somewhere/outside\n"), 0);
  // Cached files make way.
  write("memory/memory.stat", "cache 1\ninactive_file 100\ntotal_inactive_file 200\nunevictable 0");
  EXPECT_EQ(cgroup_headroom(root_, "4:memory:/somewhere/outside\n"), 150);
}

// With RIDGELINE_PROCESSORS as given; unset where null.
Machine read_with(const char* processors) {
  if (processors == nullptr) {
    ::unsetenv("RIDGELINE_PROCESSORS");
  } else {
    ::setenv("RIDGELINE_PROCESSORS", processors, 1);
  }
  Machine machine = Machine::read();
  ::unsetenv("RIDGELINE_PROCESSORS");
  return machine;
}

TEST(Machine, PretendsProcessorsByGoingRoundThoseThereAre) {
  const std::vector<int> real = read_with(nullptr).processors;
  ASSERT_GE(real.size(), 1U);
  for (const int count : {1, 4, 8}) {
    const Machine machine = read_with(std::to_string(count).c_str());
    ASSERT_EQ(machine.count(), count);
    for (size_t i = 0; i < machine.processors.size(); ++i) EXPECT_EQ(machine.processors[i], real[i % real.size()]);
  }
}

TEST(Machine, RefusesNumbersOfProcessorsThatMakeNone) {
  for (const char* const wrong : {"", "0", "-1", "two", "2x", " 2", "4097", "99999999999999999999"}) {
    try {
      read_with(wrong);
      ADD_FAILURE() << "accepted '" << wrong << "'";
    } catch (const Error& error) {
      EXPECT_NE(error.message().find(std::string("RIDGELINE_PROCESSORS=") + wrong), std::string::npos);
      EXPECT_NE(error.message().find("4096"), std::string::npos);
    }
  }
  ::unsetenv("RIDGELINE_PROCESSORS");
}

TEST(Machine, SharesItsProcessorsOut) {
  Machine machine;
  machine.processors = {3, 5, 7, 9};
  EXPECT_EQ(machine.threads_per_rank(1), 4);
  EXPECT_EQ(machine.threads_per_rank(2), 2);
  EXPECT_EQ(machine.threads_per_rank(3), 1);
  EXPECT_EQ(machine.threads_per_rank(9), 1);
  EXPECT_EQ(machine.place_of_rank(1, 2, 2).processors, (std::vector<int>{7, 9}));
  EXPECT_FALSE(machine.place_of_rank(1, 2, 2).crowded);
  EXPECT_TRUE(machine.place_of_rank(0, 3, 1).processors.empty());  // the scheduler knows better
  EXPECT_TRUE(machine.place_of_rank(0, 3, 2).processors.empty());
  EXPECT_TRUE(machine.place_of_rank(0, 3, 2).crowded);
  machine.processors = {3, 5, 3, 5};  // pretended
  EXPECT_EQ(machine.place_of_rank(1, 2, 2).processors, (std::vector<int>{3, 5}));
  EXPECT_TRUE(machine.place_of_rank(1, 2, 2).crowded);
}

TEST(BoundThread, IsFreeAgainAfterwards) {
  const std::vector<int> real = read_with(nullptr).processors;
  {
    const WorkerTeam team(2, {.processors = {real.front(), real.back()}});
    EXPECT_GE(BoundThread::count(), 1);
  }
  EXPECT_EQ(BoundThread::count(), 0);
  EXPECT_EQ(read_with(nullptr).processors, real);
}

// What made runs compute NaN: the processors of a bound thread are those that it is bound to.
TEST(MachineDeathTest, IsNotReadWhileAThreadIsBound) {
  const Machine machine = read_with(nullptr);
  EXPECT_DEATH(
      {
        const BoundThread bound(std::vector<int>{machine.processors.front()});
        Machine::read();
      },
      "read while 1 threads are bound");
}

}  // namespace
}  // namespace ridgeline::device

#include "ridgeline/device/cpu/worker_team.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <numeric>
#include <thread>
#include <vector>

#include "ridgeline/base/error.h"

namespace ridgeline::device {
namespace {

class WorkerTeamTest : public testing::TestWithParam<int> {};

TEST_P(WorkerTeamTest, CallsEveryMemberOnceInEveryRound) {
  WorkerTeam team(GetParam());
  ASSERT_EQ(team.size(), GetParam());
  std::vector<int64_t> sums(static_cast<size_t>(GetParam()));  // not atomic: what run() orders is what is tested
  for (int round = 1; round <= 500; ++round) {
    team.run([&](int member) { sums[member] += round; });
    for (const int64_t sum : sums) ASSERT_EQ(sum, int64_t{round} * (round + 1) / 2);
  }
}

TEST_P(WorkerTeamTest, MemberZeroIsTheCaller) {
  WorkerTeam team(GetParam());
  std::vector<std::thread::id> ids(static_cast<size_t>(GetParam()));
  team.run([&](int member) { ids[member] = std::this_thread::get_id(); });
  EXPECT_EQ(ids[0], std::this_thread::get_id());
  for (size_t i = 1; i < ids.size(); ++i) EXPECT_NE(ids[i], ids[0]);
}

TEST_P(WorkerTeamTest, WakesWorkersThatFellAsleep) {
  WorkerTeam team(GetParam());
  std::atomic<int> calls{0};
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    team.run([&](int) { ++calls; });
  }
  EXPECT_EQ(calls, 5 * GetParam());
}

TEST_P(WorkerTeamTest, WaitsForTheSlowestMember) {
  WorkerTeam team(GetParam());
  std::atomic<int> done{0};
  team.run([&](int member) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2 * member));
    ++done;
  });
  EXPECT_EQ(done, GetParam());
}

TEST_P(WorkerTeamTest, ParallelForCoversEveryIndexOnceInWholeGrains) {
  WorkerTeam team(GetParam());
  for (const int64_t count : {int64_t{0}, int64_t{1}, int64_t{63}, int64_t{64}, int64_t{65}, int64_t{1000}}) {
    for (const int64_t grain : {int64_t{1}, int64_t{16}, int64_t{64}}) {
      std::vector<int> seen(static_cast<size_t>(count));
      std::atomic<int> bad{0}, parts{0};
      team.parallel_for(count, grain, [&](int64_t first, int64_t last) {
        ++parts;
        if (first % grain != 0 || (last % grain != 0 && last != count) || first >= last) ++bad;
        for (int64_t i = first; i < last; ++i) ++seen[i];
      });
      EXPECT_EQ(bad, 0);
      EXPECT_LE(parts, GetParam());
      for (const int times : seen) ASSERT_EQ(times, 1) << count << " by " << grain;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, WorkerTeamTest, testing::Values(1, 2, 3, 4));

// Ranks as threads: several teams at once, with more threads than the machine has CPUs.
TEST(WorkerTeams, WorkSideBySideWhenOversubscribed) {
  constexpr int kRanks = 4, kMembers = 4, kRounds = 200;
  std::vector<int64_t> totals(kRanks);
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < kRanks; ++rank) {
    ranks.emplace_back([&totals, rank] {
      WorkerTeam team(kMembers);
      std::vector<int64_t> sums(kMembers);
      for (int round = 0; round < kRounds; ++round) team.run([&](int member) { sums[member] += member + rank; });
      totals[rank] = std::accumulate(sums.begin(), sums.end(), int64_t{0});
    });
  }
  for (std::thread& rank : ranks) rank.join();
  for (int rank = 0; rank < kRanks; ++rank) EXPECT_EQ(totals[rank], kRounds * (6 + kMembers * rank));
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
// Addresses for some more stacks, not for a thousand.
void leave_little_room() {
  std::ifstream file("/proc/self/statm");
  rlim_t pages = 0;
  file >> pages;
  const rlimit limit{.rlim_cur = pages * 4096 + (rlim_t{256} << 20), .rlim_max = RLIM_INFINITY};
  ::setrlimit(RLIMIT_AS, &limit);
}

TEST(WorkerTeamDeathTest, AThreadThatCannotStartIsAnError) {
  EXPECT_EXIT(
      {
        leave_little_room();
        try {
          const WorkerTeam team(1000);
        } catch (const Error& error) {
          std::fprintf(stderr, "%s\n", error.what());
          std::_Exit(3);
        }
        std::_Exit(0);
      },
      testing::ExitedWithCode(3), "cannot start thread [0-9]+ of 1000 of a rank: .*\n  Use fewer threads or ranks");
}
#endif

}  // namespace
}  // namespace ridgeline::device

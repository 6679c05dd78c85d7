#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "conformance.h"
#include "ridgeline/base/error.h"
#include "ridgeline/comm/failure.h"

namespace ridgeline::comm {
namespace {

using testing::HasSubstr;

WorldOptions quick() {
  WorldOptions options;
  options.timeout = std::chrono::seconds(60);
  options.sum_group = 3;
  return options;
}

class ThreadsConformance : public testing::TestWithParam<int> {};

TEST_P(ThreadsConformance, EveryCase) {
  for (const auto& item : conformance::cases()) {
    SCOPED_TRACE(item.name);
    EXPECT_NO_THROW(run_threads(GetParam(), quick(), item.run));
  }
}
INSTANTIATE_TEST_SUITE_P(Ranks, ThreadsConformance, testing::Values(1, 2, 5));

TEST(ThreadsFailure, EveryCaseIsThrownOnceAndWrittenToTheFile) {
  const auto file = std::filesystem::temp_directory_path() / ("comm_failure_" + std::to_string(::getpid()));
  for (const auto& item : conformance::failure_cases()) {
    SCOPED_TRACE(item.name);
    std::filesystem::remove(file);
    WorldOptions options = quick();
    options.timeout = std::chrono::milliseconds(item.timeout_milliseconds);
    options.failure_file = file;
    std::atomic<int> thrown = 0;
    try {
      run_threads(3, options, [&](World& world) {
        try {
          item.run(world);
        } catch (...) {
          ++thrown;
          throw;
        }
      });
      ADD_FAILURE() << "nothing was thrown";
    } catch (const RankFailure& failure) {
      for (const std::string& piece : item.expected) EXPECT_THAT(failure.what(), HasSubstr(piece));
      EXPECT_TRUE(failure.report());
      std::stringstream written;
      written << std::ifstream(file).rdbuf();
      EXPECT_THAT(written.str(), HasSubstr(failure.message()));
    }
    EXPECT_GE(thrown, item.name == "ended_rank" ? 2 : 3);
  }
  std::filesystem::remove(file);
}

TEST(ThreadsFailure, ALoneRankThrowsItsOwnException) {
  EXPECT_THROW(run_threads(1, quick(), [](World&) { throw std::out_of_range("mine"); }), std::out_of_range);
}

TEST(ThreadsFailure, IsHandedToTheProgramOnce) {
  WorldOptions options = quick();
  std::atomic<int> calls = 0;
  options.on_failure = [&](const Failure& failure) {
    ++calls;
    EXPECT_EQ(failure.rank, 2);
  };
  try {
    run_threads(4, options, [](World& world) {
      if (world.rank() == 2) throw Error("no");
      auto comm = world.communicator("all");
      comm->wait(comm->barrier({"never"}));
    });
    ADD_FAILURE();
  } catch (const RankFailure& failure) {
    EXPECT_FALSE(failure.report());
  }
  EXPECT_EQ(calls, 1);
}

// The rank that stalls never comes back: the others name it within the timeout and run_threads returns without it.
TEST(ThreadsFailure, AStalledRankIsNamedAndLeftBehind) {
  WorldOptions options = quick();
  options.timeout = std::chrono::milliseconds(500);
  options.grace = std::chrono::milliseconds(200);
  const auto stop = std::make_shared<std::atomic<bool>>(false);
  const auto gone = std::make_shared<std::atomic<bool>>(false);
  const auto start = std::chrono::steady_clock::now();
  try {
    run_threads(3, options, [stop, gone](World& world) {
      auto comm = world.communicator("all");
      comm->wait(comm->barrier({"before", -1, 6}));
      if (world.rank() == 1) {
        while (!*stop) std::this_thread::sleep_for(std::chrono::milliseconds(5));
        *gone = true;
        return;
      }
      // Rank 2 waits for rank 1, rank 0 for rank 2: the culprit is 1 for both.
      if (world.rank() == 0) {
        float x = 0;
        const Receive receive{2, &x, 1};
        comm->wait(comm->exchange({}, {&receive, 1}, {"activations"}));
      }
      comm->wait(comm->barrier({"after", -1, 7}));
    });
    ADD_FAILURE();
  } catch (const RankFailure& failure) {
    EXPECT_TRUE(failure.leave_at_once());
    EXPECT_EQ(failure.failure().rank, 1) << failure.what();
    EXPECT_THAT(failure.what(), HasSubstr("rank 1 is still busy elsewhere, last seen in barrier 'before' (step 6)"));
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(3));
  *stop = true;  // a test must not leave a thread behind
  while (!*gone) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
}

// The same bits for any grouping, also the trivial ones.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
// Exits with 3, and says why, when the ranks end with a failure.
[[noreturn]] void run_more_ranks_than_fit() {
  std::ifstream file("/proc/self/statm");
  rlim_t pages = 0;
  file >> pages;
  // Addresses for what ranks share (32 MiB each), and for some of their stacks.
  const rlim_t room = (rlim_t{40 + 1} * 32 + 128) << 20;
  const rlimit limit{.rlim_cur = pages * 4096 + room, .rlim_max = RLIM_INFINITY};
  ::setrlimit(RLIMIT_AS, &limit);
  try {
    run_threads(40, {}, [](World& world) {
      const auto all = world.communicator("all");
      all->wait(all->barrier({"test", -1, -1}));
    });
  } catch (const RankFailure& error) {
    std::fprintf(stderr, "%s\n", error.what());
    std::_Exit(3);
  }
  std::_Exit(0);
}

TEST(ThreadsFailureDeathTest, ARankWhoseThreadCannotStartEndsAllOfThem) {
  EXPECT_EXIT(run_more_ranks_than_fit(), testing::ExitedWithCode(3), "cannot start thread [0-9]+ of 40 ranks: ");
}
#endif

TEST(ThreadsOrder, FollowsSumGroup) {
  for (const int group : {1, 2, 5, 8}) {
    WorldOptions options = quick();
    options.sum_group = group;
    for (const auto& item : conformance::cases()) {
      if (item.name != "reduce_bf16_visible" && item.name != "reduce_f32_visible") continue;
      EXPECT_NO_THROW(run_threads(6, options, item.run)) << group;
    }
  }
}

}  // namespace
}  // namespace ridgeline::comm

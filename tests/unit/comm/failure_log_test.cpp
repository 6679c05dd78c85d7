#include "ridgeline/comm/failure_log.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "ridgeline/base/file.h"
#include "ridgeline/comm/failure.h"

namespace ridgeline::comm::detail {
namespace {

using testing::AllOf;
using testing::ContainsRegex;
using testing::HasSubstr;
using testing::Not;

TEST(FailureLog, IsOfTheCulpritAndOfThoseNearIt) {
  for (const int ranks : {1, 2, 15, 16, 17, 100, 10'000}) {
    for (const int culprit : {0, 1, 7, 8, 9, ranks / 2, ranks - 1}) {
      if (culprit >= ranks) continue;
      int logged = 0;
      for (int rank = 0; rank < ranks; ++rank) logged += is_logged(rank, culprit, ranks) ? 1 : 0;
      EXPECT_TRUE(is_logged(culprit, culprit, ranks)) << culprit << " of " << ranks;
      EXPECT_EQ(logged, std::min(ranks, kLogsOfFailure)) << culprit << " of " << ranks;
    }
  }
  EXPECT_TRUE(is_logged(0, -1, 100));
  EXPECT_TRUE(is_logged(42, 50, 100));
  EXPECT_FALSE(is_logged(41, 50, 100));
}

class FailureLogs : public testing::Test {
 protected:
  void SetUp() override {
    parent_ = std::filesystem::temp_directory_path() / ("ridgeline_logs_" + std::to_string(::getpid()));
    std::filesystem::create_directories(parent_);
  }
  void TearDown() override { std::filesystem::remove_all(parent_); }

  // Rank 1 throws while the others wait for it.
  template <typename Exception>
  void fail(int ranks, bool log_every_rank) {
    const auto throwing = [&] {
      run_threads(ranks,
                  {.log_folder = folder(),
                   .log_every_rank = log_every_rank,
                   .on_failure = [&](const Failure& failure) { log_ = failure.log; }},
                  [](World& world) {
                    auto comm = world.communicator("data");
                    float x = 0;
                    for (int step = 0; step < 40; ++step)
                      comm->wait(comm->all_reduce(&x, 1, ReduceOp::sum, {"gradient", 3, step}));
                    // Long enough for the others to say for whom they wait.
                    if (world.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(300));
                    if (world.rank() == 1) throw Exception("it throws");
                    comm->wait(comm->barrier({"end", -1, 40}));
                  });
    };
    EXPECT_THROW(throwing(), RankFailure);
  }
  std::string folder() const { return (parent_ / "logs").string(); }
  int64_t files() const {
    if (!std::filesystem::exists(folder())) return 0;
    return std::distance(std::filesystem::directory_iterator(folder()), {});
  }

  std::filesystem::path parent_;
  std::string log_;
};

TEST_F(FailureLogs, SayWhatRanksDidLast) {
  fail<Error>(3, false);
  EXPECT_EQ(log_, folder() + "/rank-0001.log");
  EXPECT_EQ(files(), 3);
  EXPECT_THAT(read_text(log_), AllOf(HasSubstr("Z rank 1 of 3 on host "), HasSubstr("\n  failure: rank 1: it throws\n"),
                                     HasSubstr("\n  this rank is busy, last seen to run 0."),
                                     HasSubstr("all_reduce 'gradient' (segment 3, step 8) on communicator 'data'\n"),
                                     HasSubstr("(segment 3, step 39)"), Not(HasSubstr("(segment 3, step 7)"))));
  EXPECT_THAT(read_text(rank_log_path(folder(), 2)),
              AllOf(HasSubstr("this rank waits for rank 1, last"), Not(HasSubstr("step 8)")),
                    ContainsRegex("step 39.*\n +[0-9.]+  barrier 'end' .step 40. on communicator 'data'\n$")));
  fail<Error>(3, false);
  const std::string twice = read_text(log_);
  EXPECT_NE(twice.find("it throws"), twice.rfind("it throws")) << "the log of an earlier failure is gone";
}

TEST_F(FailureLogs, AreFew) {
  fail<Error>(20, false);
  EXPECT_EQ(files(), kLogsOfFailure);
}

TEST_F(FailureLogs, AreOfAllOnRequest) {
  fail<Error>(20, true);
  EXPECT_EQ(files(), 20);
}

TEST_F(FailureLogs, ARefusalLeavesNone) {
  fail<Refusal>(2, true);
  EXPECT_EQ(files(), 0);
  EXPECT_EQ(log_, "");
}

}  // namespace
}  // namespace ridgeline::comm::detail

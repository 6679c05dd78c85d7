// A start that does not come together ends, and says so once.
#include "ridgeline/comm/start_limit.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "../environment.h"
#include "ridgeline/base/file.h"

namespace ridgeline::comm::detail {
namespace {

using testing::AllOf;
using testing::ExitedWithCode;
using testing::HasSubstr;
using Milliseconds = std::chrono::milliseconds;

class StartLimits : public testing::Test {
 protected:
  void SetUp() override {
    file_ = std::filesystem::temp_directory_path() / ("ridgeline_start_" + std::to_string(::getpid()));
    options_.failure_file = file_.string();
    options_.on_failure = [](const Failure& failure) { std::fprintf(stderr, "%s\n", failure.what.c_str()); };
  }
  void TearDown() override { std::filesystem::remove(file_); }

  // A process of that rank whose start takes `start`.
  void begin(const char* rank, Milliseconds start) {
    environment_.set({{"RIDGELINE_RANK", rank}, {"RIDGELINE_WORLD_SIZE", "3"}});
    {
      StartLimit limit(options_, Milliseconds(200));
      limit.waits_in("MPI_Init");
      std::this_thread::sleep_for(start);
    }
    std::_Exit(7);
  }

  static constexpr Milliseconds kForEver{20'000};
  WorldOptions options_;
  std::filesystem::path file_;
  Environment environment_{"RIDGELINE_RANK", "RIDGELINE_WORLD_SIZE"};
};

TEST_F(StartLimits, LeaveAStartAloneThatComesTogether) {
  EXPECT_EXIT(begin("0", Milliseconds(1)), ExitedWithCode(7), "^$");
  EXPECT_FALSE(std::filesystem::exists(file_));
}

TEST_F(StartLimits, RankZeroTells) {
  EXPECT_EXIT(begin("0", kForEver), ExitedWithCode(1),
              "^rank 0 on host .* has waited for 0.2 s in MPI_Init: not every rank is there.$");
  EXPECT_THAT(read_text(file_), AllOf(HasSubstr("rank: -1\n"), HasSubstr("operation: MPI_Init\n"),
                                      HasSubstr("failure: rank 0"), HasSubstr("raise parallel.timeout")));
}

TEST_F(StartLimits, RankOneTellsWhereRankZeroDoesNot) {
  EXPECT_EXIT(begin("1", kForEver), ExitedWithCode(1), "^rank 1 on host .* MPI_Init");
  std::filesystem::last_write_time(file_, std::filesystem::file_time_type::clock::now() + std::chrono::seconds(60));
  EXPECT_EXIT(begin("1", kForEver), ExitedWithCode(1), "^$");
}

// Rank 0 may be missing, and those behind it.
TEST_F(StartLimits, OtherRanksTellWhereNobodyDoes) {
  EXPECT_EXIT(begin("2", kForEver), ExitedWithCode(1), "^rank 2 on host .* MPI_Init");
  std::filesystem::last_write_time(file_, std::filesystem::file_time_type::clock::now() + std::chrono::seconds(60));
  EXPECT_EXIT(begin("2", kForEver), ExitedWithCode(1), "^$");
}

TEST_F(StartLimits, WithoutAFileTheFirstTwoRanksTell) {
  options_.failure_file.clear();
  EXPECT_EXIT(begin("1", kForEver), ExitedWithCode(1), "^rank 1 on host .* MPI_Init");
  EXPECT_EXIT(begin("2", kForEver), ExitedWithCode(1), "^$");
}

TEST(StartWords, ComeInTheOrderOfRanks) {
  const auto turn = [](int rank) { return StartWord({}, rank).turn(Milliseconds(5000)); };
  EXPECT_EQ(turn(-1), Milliseconds(0));
  EXPECT_EQ(turn(0), Milliseconds(0));
  EXPECT_EQ(turn(1), Milliseconds(1000));
  EXPECT_LT(turn(1), turn(2));
  EXPECT_EQ(turn(41), turn(100'000));
  EXPECT_LE(turn(100'000), Milliseconds(2000));
}

}  // namespace
}  // namespace ridgeline::comm::detail

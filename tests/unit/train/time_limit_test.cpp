#include "ridgeline/train/time_limit.h"

#include <gmock/gmock.h>

#include "../environment.h"
#include "ridgeline/base/error.h"
#include "small_run.h"

namespace ridgeline::train {
namespace {

using testing::AllOf;
using testing::DoubleNear;
using testing::HasSubstr;
using testing::Optional;

class TimeLimits : public SmallRun {
 protected:
  void job_ends_in(double seconds) {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    const auto end = static_cast<int64_t>(std::chrono::duration<double>(now).count() + seconds);
    environment_.set("SLURM_JOB_END_TIME", std::to_string(end));
  }

  Environment environment_{"SLURM_JOB_END_TIME", "SLURM_RESTART_COUNT"};
};

TEST_F(TimeLimits, LeaveRoomForAnotherStepASaveAndTheSpareTime) {
  const TimeLimit::Clock::time_point from = TimeLimit::Clock::now();
  TimeLimit limit(from, 100, 10);
  const auto near_after = [&](int seconds) { return limit.is_near(from + std::chrono::seconds(seconds)); };
  EXPECT_FALSE(near_after(89));
  EXPECT_TRUE(near_after(91));
  limit.step_took(3);
  limit.step_took(2);  // the longest counts
  EXPECT_FALSE(near_after(83));
  EXPECT_TRUE(near_after(85));
  limit.save_took(20);
  EXPECT_FALSE(near_after(63));
  EXPECT_TRUE(near_after(65));
  EXPECT_FALSE(TimeLimit().is_near(from + std::chrono::hours(10'000)));
}

TEST_F(TimeLimits, AreTheNearerOfTheJobsAndTheCommands) {
  const TimeLimit::Clock::time_point now = TimeLimit::Clock::now();
  EXPECT_FALSE(seconds_to_end_of_job());
  EXPECT_FALSE(time_limit(now, 0, 60).is_near(now + std::chrono::hours(1000)));
  EXPECT_TRUE(time_limit(now, 100, 60).is_near(now + std::chrono::seconds(101)));
  EXPECT_FALSE(time_limit(now, 100, 60).is_near(now + std::chrono::seconds(99)));  // the spare time is the job's
  job_ends_in(1000);
  EXPECT_THAT(seconds_to_end_of_job(), Optional(DoubleNear(1000, 5)));
  EXPECT_TRUE(time_limit(now, 0, 60).is_near(now + std::chrono::seconds(945)));
  EXPECT_FALSE(time_limit(now, 0, 60).is_near(now + std::chrono::seconds(930)));
  EXPECT_TRUE(time_limit(now, 100, 60).is_near(now + std::chrono::seconds(101)));
  EXPECT_TRUE(time_limit(now, 5000, 60).is_near(now + std::chrono::seconds(945)));
  for (const char* wrong : {"", "soon", "12x", "-1", "99999999999999999999"}) {
    environment_.set("SLURM_JOB_END_TIME", wrong);
    EXPECT_THROW(seconds_to_end_of_job(), Error) << wrong;
  }
}

TEST_F(TimeLimits, StopARunThatGoesOnWithTheSameBits) {
  run(config(), 2, "whole");
  job_ends_in(30);  // less than the spare time
  const Config limited = config({"train.stop_before_limit=60"});
  TrainingResult result = run(limited, 2, "limited");
  EXPECT_TRUE(result.stopped);
  EXPECT_EQ(result.step, 1);
  // Queued again, and no further: the step is saved, and the job is told.
  environment_.set("SLURM_RESTART_COUNT", "1");
  try {
    run(limited, 2, "limited", true);
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_THAT(error.message(), AllOf(HasSubstr("one step in a start"), HasSubstr("keeps 1 min 00 s")));
    EXPECT_THAT(error.next_step(), HasSubstr("Step 2 is saved"));
  }
  environment_.unset("SLURM_JOB_END_TIME");
  result = run(limited, 2, "limited", true);
  EXPECT_FALSE(result.stopped);
  EXPECT_EQ(losses("limited"), losses("whole"));
  EXPECT_EQ(state("limited", 8), state("whole", 8));
}

}  // namespace
}  // namespace ridgeline::train

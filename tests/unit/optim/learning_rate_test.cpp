#include "ridgeline/optim/learning_rate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "ridgeline/base/error.h"

namespace ridgeline::optim {
namespace {

using testing::HasSubstr;

constexpr Schedule kCosine{
    .decay = Decay::cosine, .learning_rate = 8e-4, .min_learning_rate = 2e-4, .warmup_steps = 10, .steps = 110};

Schedule with(Decay decay) {
  Schedule schedule = kCosine;
  schedule.decay = decay;
  return schedule;
}

TEST(LearningRate, RisesLinearlyToThePeakAtTheLastWarmUpStep) {
  for (const Decay decay : {Decay::constant, Decay::linear, Decay::cosine}) {
    EXPECT_DOUBLE_EQ(learning_rate(with(decay), 1), 0.8e-4);
    EXPECT_DOUBLE_EQ(learning_rate(with(decay), 5), 4e-4);
    EXPECT_EQ(learning_rate(with(decay), 10), 8e-4);
  }
}

TEST(LearningRate, CosineIsHalfWayAtHalfWayAndOnSchedulesOwnPoints) {
  EXPECT_DOUBLE_EQ(learning_rate(kCosine, 60), 5e-4);
  // p = 1/4 and 3/4: (1 +- sqrt(1/2)) / 2 of the range.
  EXPECT_NEAR(learning_rate(kCosine, 35), 2e-4 + 6e-4 * 0.85355339059327373, 1e-18);
  EXPECT_NEAR(learning_rate(kCosine, 85), 2e-4 + 6e-4 * 0.14644660940672627, 1e-18);
}

TEST(LearningRate, LinearLosesTheSameEveryStep) {
  const Schedule linear = with(Decay::linear);
  EXPECT_DOUBLE_EQ(learning_rate(linear, 60), 5e-4);
  for (int64_t step = 11; step <= 110; ++step) {
    EXPECT_NEAR(learning_rate(linear, step - 1) - learning_rate(linear, step), 6e-6, 1e-18) << step;
  }
}

TEST(LearningRate, EndsExactlyAtTheMinimumAndStaysThere) {
  for (const Decay decay : {Decay::linear, Decay::cosine}) {
    EXPECT_EQ(learning_rate(with(decay), 110), 2e-4);
    EXPECT_EQ(learning_rate(with(decay), 1000), 2e-4);
    EXPECT_GT(learning_rate(with(decay), 109), 2e-4);
  }
}

TEST(LearningRate, ConstantIgnoresTheMinimum) {
  EXPECT_EQ(learning_rate(with(Decay::constant), 11), 8e-4);
  EXPECT_EQ(learning_rate(with(Decay::constant), 110), 8e-4);
}

TEST(LearningRate, NeverRisesAfterTheWarmUpNorLeavesItsBounds) {
  for (const Decay decay : {Decay::constant, Decay::linear, Decay::cosine}) {
    for (int64_t step = 11; step <= 120; ++step) {
      const double rate = learning_rate(with(decay), step);
      EXPECT_LE(rate, learning_rate(with(decay), step - 1)) << step;
      EXPECT_GE(rate, 2e-4) << step;
    }
  }
}

TEST(LearningRate, WithoutWarmUpTheFirstStepHasAlreadyDecayedByOne) {
  const Schedule schedule{.decay = Decay::linear, .learning_rate = 1.0, .steps = 4};
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 1), 0.75);
  EXPECT_EQ(learning_rate(schedule, 4), 0.0);
}

TEST(LearningRate, ASingleStepRunEndsAtOnce) {
  const Schedule schedule{.decay = Decay::cosine, .learning_rate = 1.0, .min_learning_rate = 0.5, .steps = 1};
  EXPECT_EQ(learning_rate(schedule, 1), 0.5);
}

TEST(LearningRate, NamesReadBack) {
  for (const Decay decay : {Decay::constant, Decay::linear, Decay::cosine})
    EXPECT_EQ(decay_of_name(name_of(decay)), decay);
  EXPECT_EQ(decay_names().size(), 3U);
}

TEST(LearningRate, UnknownNameListsTheNearestAndAll) {
  try {
    decay_of_name("cosin");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("optimizer.schedule = \"cosin\""));
    EXPECT_THAT(error.what(), HasSubstr("Did you mean cosine?"));
    EXPECT_THAT(error.what(), HasSubstr("constant, linear, cosine"));
  }
}

TEST(LearningRateDeathTest, StepZeroIsABrokenInvariant) {
  EXPECT_DEATH(learning_rate(kCosine, 0), "step >= 1");
}

}  // namespace
}  // namespace ridgeline::optim

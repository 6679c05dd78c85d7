#include "ridgeline/optim/batch_ramp.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace ridgeline::optim {
namespace {

using testing::ElementsAre;

// The tutorial's 175-billion and 1-trillion-parameter examples: --rampup-batch-size 2 2 1000.
constexpr BatchRamp k175B{.global = 12, .start = 2, .increment = 2, .samples = 1000};
constexpr BatchRamp k1T{.global = 8, .start = 2, .increment = 2, .samples = 1000};
constexpr BatchRamp kNone{.global = 20};

TEST(BatchRamp, RisesByOneIncrementPerPartOfTheSamples) {
  EXPECT_EQ(batch_at(k175B, 0), 2);
  EXPECT_EQ(batch_at(k175B, 199), 2);
  EXPECT_EQ(batch_at(k175B, 200), 4);
  EXPECT_EQ(batch_at(k175B, 400), 6);
  EXPECT_EQ(batch_at(k175B, 799), 8);
  EXPECT_EQ(batch_at(k175B, 999), 10);
  EXPECT_EQ(batch_at(k175B, 1000), 12);
  EXPECT_EQ(batch_at(k175B, 1'000'000), 12);
  // A third of 1000 samples each.
  EXPECT_EQ(batch_at(k1T, 333), 2);
  EXPECT_EQ(batch_at(k1T, 334), 4);
  EXPECT_EQ(batch_at(k1T, 666), 4);
  EXPECT_EQ(batch_at(k1T, 667), 6);
  EXPECT_EQ(batch_at(k1T, 1000), 8);
}

TEST(BatchRamp, QuotientsAreRoundedAsInMegatron) {
  // 2998 / (2998 / 43) is 42.99999999999999 in double, so the last increment comes one sample later.
  constexpr BatchRamp kOdd{.global = 44, .start = 1, .increment = 1, .samples = 2998};
  EXPECT_EQ(batch_at(kOdd, 2998), 43);
  EXPECT_EQ(batch_at(kOdd, 2999), 44);
}

TEST(BatchRamp, WithoutARampTheBatchIsAlwaysTheSame) {
  EXPECT_EQ(batch_at(kNone, 0), 20);
  EXPECT_EQ(batch_at(kNone, 123456), 20);
  EXPECT_THAT(batch_sizes(kNone), ElementsAre(20));
  EXPECT_EQ(samples_of_steps(kNone, 7), 140);
}

TEST(BatchRamp, ListsEveryBatchOfARun) {
  EXPECT_THAT(batch_sizes(k175B), ElementsAre(2, 4, 6, 8, 10, 12));
  EXPECT_THAT(batch_sizes(k1T), ElementsAre(2, 4, 6, 8));
}

TEST(BatchRamp, StepsForASampleBudgetAreTheTutorialsIterations) {
  EXPECT_EQ(steps_within_samples(kNone, 100'000), 5000);
  EXPECT_EQ(steps_within_samples(k175B, 100'000), 8478);
  EXPECT_EQ(steps_within_samples(k1T, 100'000), 12681);
  // By hand: 100 steps of 2, 50 of 4, 34 of 6, 25 of 8 and 20 of 10 consume 1004.
  EXPECT_EQ(samples_of_steps(k175B, 229), 1004);
  EXPECT_EQ(steps_within_samples(k175B, 1004), 229);
  EXPECT_EQ(steps_within_samples(k175B, 1003), 228);
}

TEST(BatchRamp, ABudgetWithinTheRampStopsThere) {
  EXPECT_EQ(steps_within_samples(k175B, 0), 0);
  EXPECT_EQ(steps_within_samples(k175B, 1), 0);
  EXPECT_EQ(steps_within_samples(k175B, 2), 1);
  EXPECT_EQ(steps_within_samples(k175B, 203), 100) << "100 steps of 2; the next takes 4";
  EXPECT_EQ(steps_within_samples(k175B, 204), 101);
}

TEST(BatchRamp, AVeryLongRunIsCountedAtOnce) {
  constexpr BatchRamp kLong{.global = 4096, .start = 32, .increment = 32, .samples = 4'000'000'000};
  const int64_t steps = steps_within_samples(kLong, 1'000'000'000'000);
  EXPECT_LE(samples_of_steps(kLong, steps), 1'000'000'000'000);
  EXPECT_GT(samples_of_steps(kLong, steps + 1), 1'000'000'000'000);
}

// Against one step after the other, on ramps whose parts are no whole numbers, shorter than a batch, or longer.
TEST(BatchRamp, CountsAreThoseOfTakingEachStep) {
  std::mt19937 random(7);
  const auto draw = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  for (int trial = 0; trial < 300; ++trial) {
    BatchRamp ramp{.start = draw(1, 9), .increment = draw(1, 7), .samples = draw(1, 3000)};
    ramp.global = ramp.start + ramp.increment * draw(1, 60);
    const std::vector<int64_t> sizes = batch_sizes(ramp);
    int64_t consumed = 0, before = 0;
    std::vector<int64_t> history;
    for (int64_t step = 0; step < 400; ++step) {
      ASSERT_EQ(samples_of_steps(ramp, step), consumed) << "trial " << trial << ", step " << step;
      ASSERT_EQ(steps_within_samples(ramp, consumed), step);
      if (step >= 50) {
        ASSERT_EQ(samples_of_steps(ramp, 50, history[static_cast<size_t>(step - 50)]),
                  consumed - history[static_cast<size_t>(step - 50)]);
      }
      history.push_back(consumed);
      const int64_t batch = batch_at(ramp, consumed);
      ASSERT_EQ(steps_within_samples(ramp, consumed + batch - 1), step);
      ASSERT_GE(batch, before);
      ASSERT_TRUE(std::binary_search(sizes.begin(), sizes.end(), batch)) << batch;
      before = batch;
      consumed += batch;
    }
    ASSERT_EQ(sizes.back(), ramp.global);
  }
}

TEST(BatchRampDeathTest, AnIncrementThatDoesNotReachTheBatchIsABrokenInvariant) {
  EXPECT_DEATH(batch_at({.global = 9, .start = 2, .increment = 2, .samples = 10}, 0), "increment == 0");
}

}  // namespace
}  // namespace ridgeline::optim

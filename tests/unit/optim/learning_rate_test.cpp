#include "ridgeline/optim/learning_rate.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "ridgeline/base/words.h"

namespace ridgeline::optim {
namespace {

double learning_rate(const Schedule& schedule, int64_t step) {
  return optim::learning_rate(schedule, {.step = step});
}

constexpr Schedule kCosine{.kind = LearningRateKind::cosine,
                           .learning_rate = 8e-4,
                           .min_learning_rate = 2e-4,
                           .warmup_steps = 10,
                           .steps = 110};

Schedule with(LearningRateKind kind) {
  Schedule schedule = kCosine;
  schedule.kind = kind;
  return schedule;
}

TEST(LearningRate, RisesLinearlyToThePeakAtTheLastWarmUpStep) {
  for (const LearningRateKind kind : {LearningRateKind::constant, LearningRateKind::linear, LearningRateKind::cosine}) {
    EXPECT_DOUBLE_EQ(learning_rate(with(kind), 1), 0.8e-4);
    EXPECT_DOUBLE_EQ(learning_rate(with(kind), 5), 4e-4);
    EXPECT_EQ(learning_rate(with(kind), 10), 8e-4);
  }
}

TEST(LearningRate, CosineIsHalfWayAtHalfWayAndOnSchedulesOwnPoints) {
  EXPECT_DOUBLE_EQ(learning_rate(kCosine, 60), 5e-4);
  // p = 1/4 and 3/4: (1 +- sqrt(1/2)) / 2 of the range.
  EXPECT_NEAR(learning_rate(kCosine, 35), 2e-4 + 6e-4 * 0.85355339059327373, 1e-18);
  EXPECT_NEAR(learning_rate(kCosine, 85), 2e-4 + 6e-4 * 0.14644660940672627, 1e-18);
}

TEST(LearningRate, LinearLosesTheSameEveryStep) {
  const Schedule linear = with(LearningRateKind::linear);
  EXPECT_DOUBLE_EQ(learning_rate(linear, 60), 5e-4);
  for (int64_t step = 11; step <= 110; ++step) {
    EXPECT_NEAR(learning_rate(linear, step - 1) - learning_rate(linear, step), 6e-6, 1e-18) << step;
  }
}

TEST(LearningRate, EndsExactlyAtTheMinimumAndStaysThere) {
  for (const LearningRateKind kind : {LearningRateKind::linear, LearningRateKind::cosine}) {
    EXPECT_EQ(learning_rate(with(kind), 110), 2e-4);
    EXPECT_EQ(learning_rate(with(kind), 1000), 2e-4);
    EXPECT_GT(learning_rate(with(kind), 109), 2e-4);
  }
}

TEST(LearningRate, ConstantIgnoresTheMinimum) {
  EXPECT_EQ(learning_rate(with(LearningRateKind::constant), 11), 8e-4);
  EXPECT_EQ(learning_rate(with(LearningRateKind::constant), 110), 8e-4);
}

TEST(LearningRate, NeverRisesAfterTheWarmUpNorLeavesItsBounds) {
  for (const LearningRateKind kind : {LearningRateKind::constant, LearningRateKind::linear, LearningRateKind::cosine}) {
    for (int64_t step = 11; step <= 120; ++step) {
      const double rate = learning_rate(with(kind), step);
      EXPECT_LE(rate, learning_rate(with(kind), step - 1)) << step;
      EXPECT_GE(rate, 2e-4) << step;
    }
  }
}

TEST(LearningRate, WithoutWarmUpTheFirstStepHasAlreadyDecayedByOne) {
  const Schedule schedule{.kind = LearningRateKind::linear, .learning_rate = 1.0, .steps = 4};
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 1), 0.75);
  EXPECT_EQ(learning_rate(schedule, 4), 0.0);
}

TEST(LearningRate, ASingleStepRunEndsAtOnce) {
  const Schedule schedule{.kind = LearningRateKind::cosine, .learning_rate = 1.0, .min_learning_rate = 0.5, .steps = 1};
  EXPECT_EQ(learning_rate(schedule, 1), 0.5);
}

TEST(LearningRate, OwnSchedulesCountSkippedStepsToo) {
  for (const LearningRateKind kind : {LearningRateKind::constant, LearningRateKind::linear, LearningRateKind::cosine}) {
    EXPECT_EQ(optim::learning_rate(with(kind), {.step = 60, .successful_steps = 3, .successful_samples = 5}),
              learning_rate(with(kind), 60));
  }
}

// ------------------------------------------------------------------------------------------------ Megatron, by samples

// The 22-billion-parameter example: --lr 6e-5 --min-lr 6e-6 --lr-warmup-samples 100 --lr-decay-samples 10000.
constexpr Schedule kMegatron{.kind = LearningRateKind::megatron_cosine,
                             .learning_rate = 6e-5,
                             .min_learning_rate = 6e-6,
                             .warmup_samples = 100,
                             .decay_samples = 10000};

double megatron(LearningRateKind kind, int64_t samples) {
  Schedule schedule = kMegatron;
  schedule.kind = kind;
  // The counts of steps must not matter.
  return optim::learning_rate(schedule, {.step = 77, .successful_steps = 5, .successful_samples = samples});
}

TEST(MegatronLearningRate, CosineHasTheGoldenValues) {
  const auto at = [](int64_t samples) { return megatron(LearningRateKind::megatron_cosine, samples); };
  EXPECT_EQ(at(0), 0.0);
  // Written with seven digits: half a unit of the last one.
  for (const auto& [samples, rate] : std::vector<std::pair<int64_t, double>>{
           {20, 1.2e-5}, {100, 6e-5}, {120, 5.999946e-5}, {1000, 5.890631e-5}, {5000, 3.342838e-5}, {10000, 6e-6}}) {
    EXPECT_NEAR(at(samples), rate, 5e-12) << samples;
  }
  EXPECT_EQ(at(10020), 6e-6);
  EXPECT_EQ(at(1'000'000), 6e-6);
}

TEST(MegatronLearningRate, LinearIsHalfWayAtHalfWay) {
  const auto at = [](int64_t samples) { return megatron(LearningRateKind::megatron_linear, samples); };
  EXPECT_DOUBLE_EQ(at(50), 3e-5);
  EXPECT_DOUBLE_EQ(at(100), 6e-5);
  EXPECT_DOUBLE_EQ(at(5050), 3.3e-5);
  EXPECT_DOUBLE_EQ(at(10000), 6e-6);
  EXPECT_EQ(at(10001), 6e-6);
}

TEST(MegatronLearningRate, InverseSquareRootHalvesAtFourTimesTheWarmUpAndKeepsTheMinimum) {
  const auto at = [](int64_t samples) { return megatron(LearningRateKind::megatron_inverse_sqrt, samples); };
  EXPECT_DOUBLE_EQ(at(50), 3e-5);
  EXPECT_DOUBLE_EQ(at(100), 6e-5);
  EXPECT_DOUBLE_EQ(at(400), 3e-5);
  EXPECT_DOUBLE_EQ(at(2500), 1.2e-5);
  EXPECT_DOUBLE_EQ(at(10000), 6e-6);
  EXPECT_EQ(at(10001), 6e-6);
  Schedule without = kMegatron;
  without.kind = LearningRateKind::megatron_inverse_sqrt;
  without.warmup_samples = 0;
  without.min_learning_rate = 1e-5;
  EXPECT_EQ(optim::learning_rate(without, {}), 6e-5);
  EXPECT_DOUBLE_EQ(optim::learning_rate(without, {.successful_samples = 9}), 2e-5);
  EXPECT_EQ(optim::learning_rate(without, {.successful_samples = 100}), 1e-5);
}

TEST(MegatronLearningRate, ConstantWarmsUpAndStays) {
  const auto at = [](int64_t samples) { return megatron(LearningRateKind::megatron_constant, samples); };
  EXPECT_EQ(at(0), 0.0);
  EXPECT_DOUBLE_EQ(at(25), 1.5e-5);
  EXPECT_EQ(at(101), 6e-5);
  EXPECT_EQ(at(1'000'000), 6e-5);
}

TEST(MegatronLearningRate, WithoutWarmUpTheFirstStepIsAtThePeak) {
  for (const LearningRateKind kind : {LearningRateKind::megatron_constant, LearningRateKind::megatron_linear,
                                      LearningRateKind::megatron_cosine, LearningRateKind::megatron_inverse_sqrt}) {
    Schedule schedule = kMegatron;
    schedule.kind = kind;
    schedule.warmup_samples = 0;
    EXPECT_DOUBLE_EQ(optim::learning_rate(schedule, {}), 6e-5) << word_of(kind);
  }
}

// ---------------------------------------------------------------------------------- DeepSpeed, by steps not skipped

constexpr Schedule kDeepSpeed{
    .kind = LearningRateKind::deepspeed_warmup_decay, .learning_rate = 2e-4, .warmup_steps = 10, .steps = 20};

// The scheduler's own counter: 0 at its first step(), which follows the first update.
double deepspeed(const Schedule& schedule, int64_t last_batch_iteration) {
  return optim::learning_rate(schedule, {.step = 99, .successful_steps = last_batch_iteration + 1});
}

TEST(DeepSpeedLearningRate, WarmupDecayHasTheGoldenValues) {
  constexpr double kGolden[] = {0,         6.0206e-5, 9.5424e-5, 1.2041e-4, 1.3979e-4, 1.5563e-4, 1.6902e-4,
                                1.8062e-4, 1.9085e-4, 2e-4,      2e-4,      1.8e-4,    1.6e-4,    1.4e-4,
                                1.2e-4,    1e-4,      8e-5,      6e-5,      4e-5,      2e-5,      0};
  for (int64_t k = 0; k <= 20; ++k) {
    EXPECT_NEAR(deepspeed(kDeepSpeed, k), kGolden[k], 5e-9) << k;  // half a unit of the last digit written
  }
  EXPECT_EQ(deepspeed(kDeepSpeed, 9), 2e-4);
  EXPECT_EQ(deepspeed(kDeepSpeed, 20), 0.0);
  EXPECT_EQ(deepspeed(kDeepSpeed, 21), 0.0);
}

TEST(DeepSpeedLearningRate, TheFirstTwoUpdatesRunAtTheMinimum) {
  Schedule schedule = kDeepSpeed;
  schedule.min_learning_rate = 1e-5;
  EXPECT_EQ(optim::learning_rate(schedule, {.step = 1}), 1e-5);
  EXPECT_EQ(optim::learning_rate(schedule, {.step = 2, .successful_steps = 1}), 1e-5);
  EXPECT_GT(optim::learning_rate(schedule, {.step = 3, .successful_steps = 2}), 1e-5);
  EXPECT_EQ(optim::learning_rate(schedule, {.step = 3, .successful_steps = 1}), 1e-5)
      << "a skipped step is not counted";
}

TEST(DeepSpeedLearningRate, LinearWarmUpRisesTheSameEveryStep) {
  Schedule schedule = kDeepSpeed;
  schedule.warmup_shape = WarmupShape::linear;
  for (int64_t k = 0; k <= 10; ++k) EXPECT_NEAR(deepspeed(schedule, k), 2e-5 * static_cast<double>(k), 1e-18) << k;
  EXPECT_DOUBLE_EQ(deepspeed(schedule, 15), 1e-4);
}

TEST(DeepSpeedLearningRate, WarmupStaysAtThePeak) {
  Schedule schedule = kDeepSpeed;
  schedule.kind = LearningRateKind::deepspeed_warmup;
  EXPECT_NEAR(deepspeed(schedule, 1), 6.0206e-5, 5e-10);
  for (const int64_t k : {9, 10, 20, 1000}) EXPECT_EQ(deepspeed(schedule, k), 2e-4) << k;
}

TEST(DeepSpeedLearningRate, TheWarmUpIsAtLeastTwoSteps) {
  for (const int64_t warmup : {0, 1, 2}) {
    Schedule schedule = kDeepSpeed;
    schedule.warmup_steps = warmup;
    EXPECT_EQ(deepspeed(schedule, 0), 0.0);
    EXPECT_EQ(deepspeed(schedule, 1), 2e-4);
    EXPECT_EQ(deepspeed(schedule, 2), 2e-4);
    EXPECT_DOUBLE_EQ(deepspeed(schedule, 11), 1e-4) << "(20 - 11) / (20 - 2)";
  }
}

// -------------------------------------------------------------------------------- Hugging Face, by steps not skipped

// The tutorial's FSDP example: 100 steps, 10 of them warm-up.
double hugging_face(LearningRateKind kind, int64_t successful_steps) {
  const Schedule schedule{.kind = kind, .learning_rate = 2e-4, .warmup_steps = 10, .steps = 100};
  return optim::learning_rate(schedule, {.step = 500, .successful_steps = successful_steps});
}

TEST(HuggingFaceLearningRate, LinearRisesFromZeroAndFallsToZero) {
  constexpr LearningRateKind kLinear = LearningRateKind::hugging_face_linear;
  EXPECT_EQ(hugging_face(kLinear, 0), 0.0);
  EXPECT_DOUBLE_EQ(hugging_face(kLinear, 1), 2e-5);
  EXPECT_DOUBLE_EQ(hugging_face(kLinear, 9), 1.8e-4);
  EXPECT_EQ(hugging_face(kLinear, 10), 2e-4);
  EXPECT_DOUBLE_EQ(hugging_face(kLinear, 55), 1e-4);
  EXPECT_NEAR(hugging_face(kLinear, 99), 2e-4 / 90, 1e-18) << "the last update";
  EXPECT_EQ(hugging_face(kLinear, 100), 0.0);
  EXPECT_EQ(hugging_face(kLinear, 101), 0.0);
}

TEST(HuggingFaceLearningRate, CosineHasTheValuesOfSixtyDegrees) {
  constexpr LearningRateKind kCos = LearningRateKind::hugging_face_cosine;
  EXPECT_EQ(hugging_face(kCos, 0), 0.0);
  EXPECT_DOUBLE_EQ(hugging_face(kCos, 5), 1e-4);
  EXPECT_EQ(hugging_face(kCos, 10), 2e-4);
  EXPECT_NEAR(hugging_face(kCos, 40), 1.5e-4, 1e-18);
  EXPECT_NEAR(hugging_face(kCos, 55), 1e-4, 1e-18);
  EXPECT_NEAR(hugging_face(kCos, 70), 5e-5, 1e-18);
  EXPECT_EQ(hugging_face(kCos, 100), 0.0);
}

// ---------------------------------------------------------------------------------------------------------------------

TEST(LearningRateDeathTest, StepZeroIsABrokenInvariant) {
  EXPECT_DEATH(learning_rate(kCosine, 0), "progress.step >= 1");
}

}  // namespace
}  // namespace ridgeline::optim

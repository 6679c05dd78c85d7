#include "ridgeline/ops/cross_entropy.h"

#include <gtest/gtest.h>

#include <limits>

#include "fixture.h"
#include "ridgeline/ops/elementwise.h"

namespace ridgeline::ops {
namespace {

TEST(CrossEntropy, IgnoredRowsHaveNoLossAndNoGradient) {
  TwoThreads two;
  std::vector<float> logits = random_values<float>(4 * 20, 1, 5.0F);
  logits[21] = std::nanf("");  // what stands in an ignored row does not matter
  const std::vector<int32_t> labels = {3, kIgnoredLabel, 0, kIgnoredLabel};
  std::vector<float> losses(4, -1.0F);
  cross_entropy(two.stream, 4, 20, 20, logits.data(), labels.data(), 1.0F, true, losses.data());
  EXPECT_GT(losses[0], 0.0F);
  EXPECT_EQ(losses[1], 0.0F);
  EXPECT_GT(losses[2], 0.0F);
  EXPECT_EQ(losses[3], 0.0F);
  for (int64_t i = 0; i < 20; ++i) {
    EXPECT_EQ(logits[20 + i], 0.0F);
    EXPECT_EQ(logits[60 + i], 0.0F);
  }
}

TEST(CrossEntropy, ColumnsBehindTheVocabularyAreNotRead) {
  TwoThreads two;
  for (const float surplus : {0.0F, 1e30F, std::numeric_limits<float>::infinity(), std::nanf("")}) {
    std::vector<float> logits = random_values<float>(32, 1);
    for (int64_t i = 29; i < 32; ++i) logits[i] = surplus;
    const int32_t label = 7;
    float loss = 0;
    cross_entropy(two.stream, 1, 29, 32, logits.data(), &label, 1.0F, true, &loss);
    EXPECT_GT(loss, 0.0F);
    float sum = 0;
    for (int64_t i = 0; i < 29; ++i) sum += logits[i];
    EXPECT_NEAR(sum, 0.0F, 1e-6F);  // a softmax minus a one-hot vector
    for (int64_t i = 29; i < 32; ++i) EXPECT_EQ(logits[i], 0.0F);
  }
}

TEST(CrossEntropy, HoldsForExtremeLogits) {
  TwoThreads two;
  const int32_t label = 1;
  float loss = 0;
  std::vector<float> certain = {-3e38F, 3e38F, 0.0F};
  cross_entropy(two.stream, 1, 3, 3, certain.data(), &label, 1.0F, true, &loss);
  EXPECT_EQ(loss, 0.0F);
  EXPECT_EQ(certain[0], 0.0F);
  EXPECT_EQ(certain[1], 0.0F);
  std::vector<float> masked = {2.0F, 2.0F, -std::numeric_limits<float>::infinity()};
  cross_entropy(two.stream, 1, 3, 3, masked.data(), &label, 1.0F, true, &loss);
  EXPECT_FLOAT_EQ(loss, 0.693147182F);
  EXPECT_EQ(masked[2], 0.0F);
  EXPECT_FLOAT_EQ(masked[1], -0.5F);
}

TEST(CrossEntropy, ANonFiniteLogitShowsInTheLoss) {
  TwoThreads two;
  for (const int64_t v : {5, 3000}) {
    for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
      for (const int64_t at : {int64_t{0}, v / 2, v - 1}) {
        std::vector<float> logits = random_values<float>(v, 1);
        logits[at] = bad;
        const int32_t label = 2;
        float loss = 0;
        cross_entropy(two.stream, 1, v, v, logits.data(), &label, 1.0F, false, &loss);
        EXPECT_FALSE(std::isfinite(loss)) << v << " " << at;
      }
    }
  }
}

// What dynamic loss scaling lives by: a gradient beyond 65504 becomes infinite, it is not clamped; the others stay
// right.
TEST(CrossEntropy, AGradientBeyondF16IsInfinite) {
  TwoThreads two;
  const int64_t v = 37;
  std::vector<f16> logits(v, f16(0.0F));
  logits[5] = f16(12.0F);
  const int32_t label = 7;
  float loss = 0;
  const float scale = 0x1p17F;
  cross_entropy(two.stream, 1, v, v, logits.data(), &label, scale, true, &loss);
  EXPECT_EQ(logits[5].bits, 0x7C00);  // probability nearly 1
  EXPECT_EQ(logits[7].bits, 0xFC00);  // probability - 1
  const double other = 0x1p17 * std::exp(-12.0) / (1.0 + 36.0 * std::exp(-12.0));
  EXPECT_NEAR(static_cast<float>(logits[0]), other, other * 0x1p-11);
  EXPECT_EQ(first_non_finite(two.stream, v, logits.data()), 5);
}

// A rising row brings a new maximum in every block.
TEST(CrossEntropy, RescalesWhenTheMaximumRises) {
  TwoThreads two;
  const int64_t v = 10000;
  std::vector<float> logits(v);
  double sum = 0;
  for (int64_t i = 0; i < v; ++i) {
    logits[i] = static_cast<float>(i) * 0.01F;
    sum += std::exp(static_cast<double>(logits[i]));
  }
  const int32_t label = 0;
  float loss = 0;
  cross_entropy(two.stream, 1, v, v, logits.data(), &label, 1.0F, false, &loss);
  EXPECT_FLOAT_EQ(loss, static_cast<float>(std::log(sum)));
}

}  // namespace
}  // namespace ridgeline::ops

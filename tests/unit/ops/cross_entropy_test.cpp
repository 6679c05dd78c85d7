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

// A row that begins with more columns of -inf than are read at once.
TEST(CrossEntropy, MaskedColumnsMayComeFirst) {
  TwoThreads two;
  const int64_t v = 5000;
  std::vector<float> logits(v, -std::numeric_limits<float>::infinity());
  logits[4500] = logits[4990] = 1.0F;
  const int32_t label = 4500;
  float loss = 0;
  cross_entropy(two.stream, 1, v, v, logits.data(), &label, 1.0F, true, &loss);
  EXPECT_FLOAT_EQ(loss, 0.693147182F);
  EXPECT_EQ(logits[0], 0.0F);
  EXPECT_EQ(logits[4500], -0.5F);
  EXPECT_EQ(logits[4990], 0.5F);
}

// ---- in steps, by slices of the vocabulary ----------------------------------------------------------------------

// The loss of one row, whose gradient takes the place of `logits`, cut at `ends`.
float loss_by_slices(device::Stream& stream, std::vector<float>& logits, const std::vector<int64_t>& ends,
                     int32_t label) {
  const auto whole = static_cast<int64_t>(logits.size());
  std::vector<IndexRange> slices;
  int64_t first = 0;
  for (const int64_t end : ends) {
    slices.push_back({first, end - first, whole});
    first = end;
  }
  std::vector<RowStatistics> of_slices(slices.size());
  for (size_t s = 0; s < slices.size(); ++s) {
    cross_entropy_statistics(stream, 1, slices[s], slices[s].count, logits.data() + slices[s].first, &label,
                             &of_slices[s]);
  }
  RowStatistics all;
  cross_entropy_combine(stream, 1, static_cast<int64_t>(slices.size()), of_slices.data(), &all);
  float loss = -1.0F;
  for (const IndexRange& held : slices) {
    cross_entropy_finish(stream, 1, held, held.count, logits.data() + held.first, &label, &all, 1.0F, true, &loss);
  }
  return loss;
}

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(CrossEntropySlices, ANonFiniteLogitShowsInTheLoss) {
  TwoThreads two;
  for (const int64_t v : {9, 7000}) {
    const std::vector<int64_t> ends = {v / 3, v / 3, 2 * v / 3, v};
    for (const float bad : {std::nanf(""), kInfinity}) {
      for (const float others : {0.0F, -kInfinity}) {
        for (const int64_t at : {int64_t{0}, v / 2, v - 1}) {
          std::vector<float> logits = random_values<float>(v, 1);
          for (float& value : logits) value += others;
          logits[at] = bad;
          EXPECT_FALSE(std::isfinite(loss_by_slices(two.stream, logits, ends, 2))) << v << " " << bad << " " << at;
        }
      }
    }
  }
}

TEST(CrossEntropySlices, MayBeMaskedAltogether) {
  TwoThreads two;
  for (const int64_t width : {3, 5000}) {
    for (const int64_t masked : {0, 1, 2}) {
      std::vector<float> logits(3 * width, -kInfinity);
      std::vector<int64_t> open;
      for (int64_t s = 0; s < 3; ++s) {
        if (s != masked) open.push_back(s * width + 1);
      }
      for (const int64_t at : open) logits[at] = -7.0F;
      const auto label = static_cast<int32_t>(open[0]);
      EXPECT_FLOAT_EQ(loss_by_slices(two.stream, logits, {width, 2 * width, 3 * width}, label), 0.693147182F);
      for (int64_t i = 0; i < 3 * width; ++i) {
        EXPECT_EQ(logits[i], i == open[0] ? -0.5F : i == open[1] ? 0.5F : 0.0F) << i;
      }
    }
  }
}

TEST(CrossEntropySlices, ARowOfNothingHasNoLoss) {
  TwoThreads two;
  std::vector<float> logits(6, -kInfinity);
  EXPECT_FALSE(std::isfinite(loss_by_slices(two.stream, logits, {2, 6}, 1)));
}

// As HoldsForExtremeLogits.
TEST(CrossEntropySlices, HoldForExtremeLogits) {
  TwoThreads two;
  std::vector<float> certain = {-3e38F, 3e38F, 0.0F};
  EXPECT_EQ(loss_by_slices(two.stream, certain, {1, 2, 3}, 1), 0.0F);
  EXPECT_EQ(certain, std::vector<float>(3));
}

// Probabilities of 1 - 4e-11: a float's sum would be 1, and loss and gradient 0.
TEST(CrossEntropySlices, KeepSmallLosses) {
  TwoThreads two;
  std::vector<float> logits = {24.0F, 0.0F, -kInfinity, -kInfinity};
  const double small = std::exp(-24.0);
  EXPECT_NEAR(loss_by_slices(two.stream, logits, {1, 4}, 0), small, 1e-6 * small);
  EXPECT_NEAR(logits[0], -small, 1e-6 * small);
  EXPECT_NEAR(logits[1], small, 1e-6 * small);
}

TEST(CrossEntropySlices, IgnoredRowsAreNotRead) {
  TwoThreads two;
  const float bad = std::nanf("");
  const int32_t label = kIgnoredLabel;
  RowStatistics rows{1.0F, 1.0F, 1.0};
  cross_entropy_statistics(two.stream, 1, {3, 1, 9}, 1, &bad, &label, &rows);
  EXPECT_EQ(rows.max, -kInfinity);
  EXPECT_EQ(rows.sum, 0.0);
  EXPECT_EQ(rows.label_logit, 0.0F);
  std::vector<float> logits(5, bad);
  EXPECT_EQ(loss_by_slices(two.stream, logits, {3, 5}, label), 0.0F);
  EXPECT_EQ(logits, std::vector<float>(5));
}

TEST(CrossEntropyDeathTest, ALabelBeyondTheVocabularyIsABrokenInvariant) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // the team has threads
  TwoThreads two;
  std::vector<float> logits(4);
  RowStatistics rows;
  float loss = 0;
  for (const int32_t label : {9, -1}) {
    EXPECT_DEATH(cross_entropy_statistics(two.stream, 1, {2, 4, 9}, 4, logits.data(), &label, &rows), "labels");
    EXPECT_DEATH(cross_entropy_finish(two.stream, 1, {2, 4, 9}, 4, logits.data(), &label, &rows, 1.0F, true, &loss),
                 "labels");
  }
}

}  // namespace
}  // namespace ridgeline::ops

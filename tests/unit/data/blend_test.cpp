#include "ridgeline/data/blend.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>

#include "support.h"

namespace ridgeline::data {
namespace {

using testing::ElementsAre;
using testing::ElementsAreArray;

std::vector<int64_t> datasets_of(const std::vector<Draw>& order) {
  std::vector<int64_t> datasets;
  for (const Draw& draw : order) datasets.push_back(static_cast<int64_t>(draw.dataset));
  return datasets;
}

std::vector<int64_t> samples_of(const std::vector<Draw>& order) {
  std::vector<int64_t> samples;
  for (const Draw& draw : order) samples.push_back(static_cast<int64_t>(draw.sample));
  return samples;
}

std::vector<double> some_weights(uint32_t seed, size_t count) {
  std::vector<double> weights;
  uint32_t state = seed * 2654435761U + 1;
  for (size_t i = 0; i < count; ++i) {
    state = state * 1664525U + 1013904223U;
    weights.push_back(std::pow(static_cast<double>(state >> 8) * 0x1p-24, 3) + 1e-3);
  }
  return normalized(weights);
}

// Computed with NumPy from the formula.
TEST(Blend, EqualsMegatron) {
  const std::vector<Draw> two = blend_order(normalized(std::vector{0.7, 0.3}), 10);
  EXPECT_THAT(datasets_of(two), ElementsAre(0, 1, 0, 0, 1, 0, 0, 1, 0, 0));
  EXPECT_THAT(samples_of(two), ElementsAre(0, 0, 1, 2, 1, 3, 4, 2, 5, 6));
  const std::vector<Draw> four = blend_order(normalized(std::vector{5.0, 1.0, 3.0, 2.0}), 24);
  EXPECT_THAT(datasets_of(four), ElementsAre(0, 2, 3, 0, 1, 2, 0, 3, 0, 2, 0, 0, 2, 3, 0, 1, 2, 0, 3, 0, 2, 0, 0, 2));
  EXPECT_THAT(samples_of(four), ElementsAre(0, 0, 0, 1, 0, 1, 2, 1, 3, 2, 4, 5, 3, 2, 6, 1, 4, 7, 3, 8, 5, 9, 10, 6));
  EXPECT_THAT(datasets_of(blend_order(normalized(std::vector{1.0, 1.0, 1.0}), 7)), ElementsAre(0, 1, 2, 0, 1, 2, 0))
      << "of several that are behind alike, the first";
}

TEST(Blend, GivesEachItsShareAtEveryMoment) {
  for (const size_t count : {2U, 3U, 5U, 12U}) {
    for (uint32_t seed = 0; seed < 10; ++seed) {
      const std::vector<double> weights = some_weights(seed, count);
      const std::vector<Draw> order = blend_order(weights, 2000);
      std::vector<int64_t> taken(count);
      double most = 0, least = 0;
      for (size_t i = 0; i < order.size(); ++i) {
        ASSERT_EQ(static_cast<int64_t>(order[i].sample), taken[order[i].dataset]++) << "in the dataset's own order";
        for (size_t d = 0; d < count; ++d) {
          const double off = static_cast<double>(taken[d]) - weights[d] * static_cast<double>(i + 1);
          most = std::max(most, off);
          least = std::min(least, off);
        }
      }
      EXPECT_LT(most, 1 + 1e-9) << count << " " << seed;
      EXPECT_GT(least, -static_cast<double>(count - 1) - 1e-9) << count << " " << seed;
    }
  }
}

TEST(Blend, ALongerOneBeginsWithAShorterOne) {
  const std::vector<double> weights = some_weights(3, 5);
  const std::vector<Draw> shorter = blend_order(weights, 500), longer = blend_order(weights, 2000);
  EXPECT_TRUE(std::equal(shorter.begin(), shorter.end(), longer.begin()));
}

TEST(Blend, NeverTakesMoreThanADatasetsOrderHas) {
  for (const size_t count : {2U, 4U}) {
    for (uint32_t seed = 0; seed < 20; ++seed) {
      const std::vector<double> weights = some_weights(seed, count);
      std::vector<int64_t> taken(count);
      const std::vector<Draw> order = blend_order(weights, 800);
      for (size_t i = 0; i < order.size(); ++i) {
        ++taken[order[i].dataset];
        for (size_t d = 0; d < count; ++d)
          ASSERT_LE(taken[d], samples_of_share(weights[d], static_cast<int64_t>(i) + 1)) << seed << " " << i;
      }
    }
  }
  EXPECT_EQ(samples_of_share(0.3, 1000), 302);
  EXPECT_EQ(samples_of_share(0.5, 4), 3);
}

TEST(Blend, WithLimitsUsesEverythingOnce) {
  const std::vector<int64_t> limits = {7, 0, 40, 3};
  const std::vector<Draw> order = blend_order(normalized(std::vector{1.0, 1.0, 1.0, 1.0}), 1000, limits);
  ASSERT_EQ(order.size(), 50U);
  std::vector<int64_t> taken(limits.size());
  for (const Draw& draw : order) EXPECT_EQ(static_cast<int64_t>(draw.sample), taken[draw.dataset]++);
  EXPECT_THAT(taken, ElementsAreArray(limits));
  std::vector<int64_t> first = datasets_of(order);
  first.resize(7);
  EXPECT_THAT(first, ElementsAre(0, 2, 3, 0, 2, 3, 0)) << "by weight while there is something of all";
  EXPECT_EQ(blend_order(normalized(std::vector{1.0, 1.0, 1.0, 1.0}), 5, limits).size(), 5U);
}

}  // namespace
}  // namespace ridgeline::data

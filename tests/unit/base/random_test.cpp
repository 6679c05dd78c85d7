#include "ridgeline/base/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

namespace ridgeline {
namespace {

// The known answers that come with Random123.
TEST(Philox, GivesThePublishedKnownAnswers) {
  EXPECT_EQ(philox(0, {0, 0, 0, 0}), (Philox4{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox(~uint64_t{0}, {~0U, ~0U, ~0U, ~0U}), (Philox4{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox(0x299f31d0a4093822ULL, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}),
            (Philox4{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RandomKey, DependsOnSeedStepAndPurpose) {
  std::set<uint64_t> keys;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    for (uint64_t step = 0; step < 20; ++step) {
      for (const Purpose purpose : {Purpose::init, Purpose::dropout, Purpose::sampling}) {
        keys.insert(random_key(seed, step, purpose));
      }
    }
  }
  EXPECT_EQ(keys.size(), 20U * 20U * 3U);
}

// FNV-1a test vectors (Fowler, Noll, Vo): initial values of every model hang on them.
TEST(HashName, IsFnv1a) {
  EXPECT_EQ(hash_name(""), 0xcbf29ce484222325ULL);
  EXPECT_EQ(hash_name("a"), 0xaf63dc4c8601ec8cULL);
  EXPECT_EQ(hash_name("foobar"), 0x85944171f73967e8ULL);
}

TEST(ToUnit, CoversZeroToBelowOne) {
  EXPECT_EQ(to_unit(0), 0.0F);
  EXPECT_EQ(to_unit(0x80000000U), 0.5F);
  EXPECT_LT(to_unit(~0U), 1.0F);
}

// Quantiles at (bits + 1/2) / 2^32, computed with 30 digits: sqrt(2) erfinv(2p - 1).
TEST(ToNormal, IsTheQuantileOfTheNormalDistribution) {
  struct Point {
    uint32_t bits;
    double quantile;
  };
  constexpr Point kPoints[] = {
      {0x00000000U, -6.33795775455},    {0x00000001U, -6.16642951782}, {0x00000002U, -6.08510454578},
      {0x00000064U, -5.46306255439},    {0x00003039U, -4.53542276209}, {0x00100000U, -3.48710397659},
      {0x01000000U, -2.66006745858},    {0x10000000U, -1.53412054341}, {0x13333333U, -1.43953147045},
      {0x13333334U, -1.4395314688},     {0x40000000U, -0.67448974983}, {0x7FFFFFFFU, -2.91809937292e-10},
      {0x80000000U, 2.91809937292e-10}, {0xC0000000U, 0.674489750562}, {0xE0000000U, 1.15034938094},
      {0xFFFF0000U, 4.16957106224},     {0xFFFFFFFEU, 6.16642951782},  {0xFFFFFFFFU, 6.33795775455},
  };
  for (const Point& point : kPoints) {
    const double value = to_normal(point.bits);
    // Half an ulp of a float is 6e-8 of it.
    EXPECT_NEAR(value, point.quantile, 1e-7 * std::abs(point.quantile)) << std::hex << point.bits;
  }
}

// In 2^16 evenly spread quantiles every coefficient of all three branches shows: the distribution function undoes it.
TEST(ToNormal, IsUndoneByTheDistributionFunction) {
  for (uint64_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<uint32_t>(i * 65537 + 17);
    const double p = (static_cast<double>(bits) + 0.5) * 0x1p-32;
    const double x = to_normal(bits);
    const double tail = 0.5 * std::erfc(std::abs(x) / std::sqrt(2.0));
    const double expected = p < 0.5 ? p : 1.0 - p;
    // d(log tail)/dx is about |x| + 1: a relative error of 1e-7 in x costs that much times |x|.
    ASSERT_NEAR(tail, expected, 2e-7 * (1.0 + x * x) * expected) << bits;
    ASSERT_EQ(x > 0, p > 0.5);
  }
}

TEST(FillNormal, HasMeanAndDeviationAndDoesNotRepeat) {
  constexpr int64_t kCount = 200000;
  std::vector<float> values(kCount);
  fill_normal(values.data(), kCount, random_key(3, hash_name("wte"), Purpose::init), 0, 0.5F, 2.0F);
  double sum = 0, squares = 0, cubes = 0, fourths = 0;
  for (const float value : values) {
    const double z = (static_cast<double>(value) - 0.5) / 2.0;
    sum += z;
    squares += z * z;
    cubes += z * z * z;
    fourths += z * z * z * z;
  }
  // Five standard errors of each moment over 200,000 draws: sqrt(1, 2, 15, 96) / sqrt(n).
  EXPECT_NEAR(sum / kCount, 0.0, 0.0112);
  EXPECT_NEAR(squares / kCount, 1.0, 0.0159);
  EXPECT_NEAR(cubes / kCount, 0.0, 0.0434);
  EXPECT_NEAR(fourths / kCount, 3.0, 0.11);
  EXPECT_GT(std::set<float>(values.begin(), values.begin() + 1000).size(), 990U);
}

TEST(FillNormal, APartIsThatPartOfTheWhole) {
  std::vector<float> whole(1001), part(333);
  const uint64_t key = random_key(1, hash_name("h.0.attn"), Purpose::init);
  fill_normal(whole.data(), 1001, key, 0, 0.0F, 0.02F);
  for (const uint64_t first : {uint64_t{0}, uint64_t{1}, uint64_t{2}, uint64_t{3}, uint64_t{501}}) {
    fill_normal(part.data(), 333, key, first, 0.0F, 0.02F);
    for (uint64_t i = 0; i < 333; ++i) ASSERT_EQ(part[i], whole[first + i]) << first << " + " << i;
  }
  // Beyond 2^34 elements the upper counter word moves.
  fill_normal(part.data(), 8, key, (uint64_t{1} << 34) - 4, 0.0F, 0.02F);
  EXPECT_NE(part[4], whole[0]);
}

}  // namespace
}  // namespace ridgeline

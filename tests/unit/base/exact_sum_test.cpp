#include "ridgeline/base/exact_sum.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "ridgeline/base/random.h"

namespace ridgeline {
namespace {

double sum(const std::vector<double>& values) {
  ExactSum s;
  for (const double value : values) s.add(value);
  return s.value();
}

// Random bits as doubles of every exponent from 2^-span to 2^span.
std::vector<double> wide_values(int count, int span, uint64_t seed) {
  std::vector<double> values;
  for (int i = 0; i < count; ++i) {
    const Philox4 w = philox(seed, {static_cast<uint32_t>(i), 0, 0, 0});
    const double fraction = 1.0 + (static_cast<double>(w[0]) * 0x1p32 + static_cast<double>(w[1])) * 0x1p-64;
    const int exponent = static_cast<int>(w[2] % static_cast<uint32_t>(2 * span + 1)) - span;
    values.push_back(std::ldexp((w[3] & 1U) != 0 ? fraction : -fraction, exponent));
  }
  return values;
}

TEST(ExactSum, OfOneValueIsThatValue) {
  for (const double value : {0.0, 1.0, -1.0, 0.1, -1e308, 1e-300, 5e-324, -2.5e-323, 2.2250738585072014e-308,
                             std::numeric_limits<double>::max(), std::numeric_limits<double>::lowest()}) {
    EXPECT_EQ(sum({value}), value);
  }
  for (const double value : wide_values(2000, 1020, 1)) ASSERT_EQ(sum({value}), value);
  EXPECT_EQ(ExactSum().value(), 0.0);
}

TEST(ExactSum, LosesNothing) {
  EXPECT_EQ(sum({1e300, 1.0, -1e300}), 1.0);
  EXPECT_EQ(sum({1.0, 5e-324, -1.0}), 5e-324);
  EXPECT_EQ(sum({1e16, 1.0, 1.0, -1e16}), 2.0);
  EXPECT_EQ(sum({-1e300, -1.0, 1e300}), -1.0);
  EXPECT_EQ(sum({0.1, 0.2, -0.1, -0.2}), 0.0);
}

TEST(ExactSum, RoundsOnceToNearestEven) {
  const double ulp = 0x1p-52;
  EXPECT_EQ(sum({1.0, ulp / 2}), 1.0);                       // tie, even below
  EXPECT_EQ(sum({1.0 + ulp, ulp / 2}), 1.0 + 2 * ulp);       // tie, even above
  EXPECT_EQ(sum({1.0, ulp / 2, 1e-300}), 1.0 + ulp);         // a trace above the tie
  EXPECT_EQ(sum({1.0 + ulp, ulp / 2, -1e-300}), 1.0 + ulp);  // a trace below the tie
  EXPECT_EQ(sum({-1.0, -ulp / 2, -1e-300}), -1.0 - ulp);
  EXPECT_EQ(sum({std::numeric_limits<double>::max(), std::numeric_limits<double>::max()}),
            std::numeric_limits<double>::infinity());
}

// Sums of two: IEEE addition is itself correctly rounded.
TEST(ExactSum, OfTwoIsIeeeAddition) {
  for (const int span : {3, 40, 1000}) {
    const std::vector<double> values = wide_values(4000, span, 2);
    for (size_t i = 0; i + 1 < values.size(); i += 2)
      ASSERT_EQ(sum({values[i], values[i + 1]}), values[i] + values[i + 1]);
  }
}

TEST(ExactSum, DoesNotDependOnOrderOrOnHowItIsCut) {
  std::vector<double> values = wide_values(3000, 300, 3);
  ExactSum whole;
  for (const double value : values) whole.add(value);
  std::reverse(values.begin(), values.end());
  for (const size_t ranks : {1U, 2U, 3U, 7U}) {
    ExactSum combined;
    for (size_t rank = 0; rank < ranks; ++rank) {
      ExactSum part;
      for (size_t i = rank; i < values.size(); i += ranks) part.add(values[i]);
      combined.add(part);
    }
    EXPECT_EQ(combined.value(), whole.value()) << ranks;
  }
}

TEST(ExactSum, HoldsManyEqualAdditions) {
  ExactSum s;
  // Every bit of the fraction set: the largest change of two limbs at a time.
  const double value = std::nextafter(2.0, 0.0);
  for (int i = 0; i < 1 << 20; ++i) s.add(value);
  EXPECT_EQ(s.value(), value * (1 << 20));
  // Doubling the words is adding the sum to itself: up to the promised 2^30 additions.
  for (int i = 0; i < 10; ++i) {
    const ExactSum copy = s;
    s.add(copy);
  }
  EXPECT_EQ(s.value(), value * (1 << 30));
}

TEST(ExactSum, OfScaledIntegers) {
  ExactSum s;
  s.add(~uint64_t{0}, 100);
  s.add(1, 100);
  EXPECT_EQ(s.value(), 0x1p164);
  s.add(3, -300);
  s.add(-0x1p164);
  EXPECT_EQ(s.value(), std::ldexp(3.0, -300));
  EXPECT_DEATH(s.add(1, -1089), "beyond an exact sum");
  EXPECT_DEATH(s.add(1, 1000), "beyond an exact sum");
}

TEST(ExactSum, CarriesWithoutAChange) {
  for (const int sign : {1, -1}) {
    ExactSum s;
    for (const double value : wide_values(500, 300, 9)) s.add(sign * value);
    const double before = s.value();
    s.carry();
    for (int k = 0; k + 1 < ExactSum::kLimbs; ++k) ASSERT_EQ(s.words[k] >> 32, 0);
    EXPECT_EQ(s.value(), before);
    s.add(1e300);
    EXPECT_EQ(s.value(), before + 1e300);
  }
}

TEST(ExactSum, CountsNonFiniteValues) {
  ExactSum s;
  s.add(1.0);
  s.add(std::numeric_limits<double>::infinity());
  s.add(-std::numeric_limits<double>::infinity());
  s.add(std::numeric_limits<double>::quiet_NaN());
  EXPECT_EQ(s.non_finite(), 3);
  EXPECT_TRUE(std::isnan(s.value()));
}

}  // namespace
}  // namespace ridgeline

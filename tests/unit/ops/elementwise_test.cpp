#include "ridgeline/ops/elementwise.h"

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <algorithm>
#include <limits>

#include "fixture.h"
#include "ridgeline/device/cpu/features.h"

namespace ridgeline::ops {
namespace {

// RIDGELINE_ISA must lower these ops as well as the matrix products.
TEST(Targets, AgreeWithTheChosenInstructionSet) {
  TwoThreads two;
  float x = 1.0F;
  gelu_forward(two.stream, 1, &x, &x);
#if HWY_ARCH_X86
  const int64_t supported = hwy::SupportedTargets();
  EXPECT_EQ((supported & HWY_AVX3) != 0, device::isa() >= device::Isa::avx512);
  EXPECT_EQ((supported & HWY_AVX2) != 0, device::isa() >= device::Isa::avx2);
#endif
}

double gelu(double x) {
  // erfc-free form of 0.5 x (1 + tanh u) that keeps its digits in the left tail.
  const double u = 0.7978845608028654 * (x + 0.044715 * x * x * x);
  return x / (1.0 + std::exp(-2.0 * u));
}

TEST(Gelu, KeepsTheAccuracyOfItsContract) {
  TwoThreads two;
  std::vector<float> x;
  for (float value = -12.0F; value < 12.0F; value += 0.0007F) x.push_back(value);
  for (float value = 1e-38F; value < 1e-3F; value *= 1.7F) x.insert(x.end(), {value, -value});
  std::vector<float> y(x.size());
  gelu_forward(two.stream, static_cast<int64_t>(x.size()), x.data(), y.data());
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double expected = gelu(x[i]);
    if (x[i] < -9.5F) {
      ASSERT_LE(std::abs(y[i]), 1e-30F) << x[i];
      continue;
    }
    const double ulp = std::max(std::ldexp(1.0, std::ilogb(expected) - 23), 0x1p-149);
    const double exponent = x[i] < 0 ? -2.0 * 0.7978845608028654 * x[i] * (1.0 + 0.044715 * x[i] * x[i]) : 0.0;
    worst = std::max(worst, std::abs(static_cast<double>(y[i]) - expected) / ulp / (4.0 + 2.0 * exponent));
  }
  EXPECT_LE(worst, 1.0);
  EXPECT_GE(worst, 0.05);  // the bound means something
}

TEST(Gelu, HasItsLimits) {
  TwoThreads two;
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> x = {0.0F, -0.0F, 1e30F, infinity, -1e10F, std::nanf(""), 30.0F, -30.0F};
  std::vector<float> y(x.size()), dx(x.size());
  const std::vector<float> dy(x.size(), 1.0F);
  gelu_forward(two.stream, 8, x.data(), y.data());
  gelu_backward(two.stream, 8, x.data(), dy.data(), dx.data());
  EXPECT_EQ(y[0], 0.0F);
  EXPECT_EQ(y[1], 0.0F);
  EXPECT_EQ(y[2], 1e30F);
  EXPECT_EQ(y[3], infinity);
  EXPECT_NEAR(y[4], 0.0F, 1e-25F);
  EXPECT_TRUE(std::isnan(y[5]));
  EXPECT_EQ(y[6], 30.0F);
  EXPECT_NEAR(y[7], 0.0F, 1e-35F);
  EXPECT_EQ(dx[0], 0.5F);
  EXPECT_TRUE(std::isnan(dx[5]));
  EXPECT_EQ(dx[6], 1.0F);
  EXPECT_NEAR(dx[7], 0.0F, 1e-30F);
}

template <typename T>
class Elementwise : public testing::Test {};
using Stored = testing::Types<float, bf16>;
TYPED_TEST_SUITE(Elementwise, Stored);

// Matrix products call these on rows of any length: a value's result may not depend on where it stands.
TYPED_TEST(Elementwise, ResultsDoNotDependOnPosition) {
  TwoThreads two;
  const int64_t count = 40000;
  const auto x = random_values<TypeParam>(count, 1, 5.0F), dy = random_values<TypeParam>(count, 2);
  std::vector<TypeParam> y(count), dx(count), y_cut(count), dx_cut(count);
  gelu_forward(two.stream, count, x.data(), y.data());
  gelu_backward(two.stream, count, x.data(), dy.data(), dx.data());
  int64_t first = 0;
  for (int64_t length = 1; first < count; length = length * 2 + 1) {
    const int64_t n = std::min(length, count - first);
    gelu_forward(two.stream, n, x.data() + first, y_cut.data() + first);
    gelu_backward(two.stream, n, x.data() + first, dy.data() + first, dx_cut.data() + first);
    first += n;
  }
  EXPECT_TRUE(same_bits(y, y_cut));
  EXPECT_TRUE(same_bits(dx, dx_cut));
}

TYPED_TEST(Elementwise, OutputsMayBeInputsWhereTheContractSaysSo) {
  TwoThreads two;
  const int64_t count = 33333;
  const auto a = random_values<TypeParam>(count, 1), b = random_values<TypeParam>(count, 2);
  std::vector<TypeParam> expected(count);

  gelu_forward(two.stream, count, a.data(), expected.data());
  auto x = a;
  gelu_forward(two.stream, count, x.data(), x.data());
  EXPECT_TRUE(same_bits(x, expected));

  gelu_backward(two.stream, count, a.data(), b.data(), expected.data());
  auto dy = b;
  gelu_backward(two.stream, count, a.data(), dy.data(), dy.data());
  EXPECT_TRUE(same_bits(dy, expected));

  add(two.stream, count, a.data(), b.data(), expected.data());
  auto left = a, right = b;
  add(two.stream, count, left.data(), b.data(), left.data());
  add(two.stream, count, a.data(), right.data(), right.data());
  EXPECT_TRUE(same_bits(left, expected));
  EXPECT_TRUE(same_bits(right, expected));
}

TYPED_TEST(Elementwise, DropoutMayWorkInPlace) {
  TwoThreads two;
  const int64_t n = 50, c = 37;
  const auto x = random_values<TypeParam>(n * c, 1), residual = random_values<TypeParam>(n * c, 2);
  std::vector<uint32_t> samples(n, 5);
  std::vector<int32_t> positions(n);
  for (int32_t i = 0; i < n; ++i) positions[i] = i;
  const Dropout dropout{0.3F, 99, 4, {samples.data(), positions.data()}};
  std::vector<TypeParam> expected(n * c), bare(n * c);
  dropout_forward(two.stream, n, c, dropout, x.data(), residual.data(), expected.data());
  auto onto_x = x, onto_residual = residual, gradient = x;
  dropout_forward(two.stream, n, c, dropout, onto_x.data(), residual.data(), onto_x.data());
  dropout_forward(two.stream, n, c, dropout, x.data(), onto_residual.data(), onto_residual.data());
  EXPECT_TRUE(same_bits(onto_x, expected));
  EXPECT_TRUE(same_bits(onto_residual, expected));
  dropout_forward(two.stream, n, c, dropout, x.data(), {}, bare.data());
  dropout_backward(two.stream, n, c, dropout, gradient.data(), gradient.data());
  EXPECT_TRUE(same_bits(gradient, bare));
  // "As stored": dropping and adding in one call is dropping, storing and adding.
  std::vector<TypeParam> in_two_steps(n * c);
  add(two.stream, n * c, residual.data(), bare.data(), in_two_steps.data());
  EXPECT_TRUE(same_bits(in_two_steps, expected));
}

TEST(Dropout, FollowsTheTokenWhereverItLies) {
  TwoThreads two;
  const int64_t n = 6, c = 70;
  const auto x = random_values<float>(n * c, 1);
  const std::vector<uint32_t> samples = {1, 1, 2, 2, 4000000000U, 3};
  const std::vector<int32_t> positions = {0, 1, 0, 1, 7, 7};
  const Dropout dropout{0.5F, 1234567890123ULL, 9, {samples.data(), positions.data()}};
  std::vector<float> all(n * c), one(c);
  dropout_forward(two.stream, n, c, dropout, x.data(), {}, all.data());
  for (int64_t i = 0; i < n; ++i) {
    Dropout alone = dropout;
    alone.tokens = {samples.data() + i, positions.data() + i};
    dropout_forward(two.stream, 1, c, alone, x.data() + i * c, {}, one.data());
    EXPECT_EQ(std::memcmp(one.data(), all.data() + i * c, c * sizeof(float)), 0) << i;
  }
  Dropout other_site = dropout;
  other_site.site = 10;
  std::vector<float> other(n * c);
  dropout_forward(two.stream, n, c, other_site, x.data(), {}, other.data());
  EXPECT_FALSE(same_bits(other, all));
}

TEST(Dropout, KeepsTheRightShare) {
  TwoThreads two;
  const int64_t n = 200, c = 500;
  const std::vector<float> ones(n * c, 1.0F);
  std::vector<uint32_t> samples(n, 3);
  std::vector<int32_t> positions(n);
  for (int32_t i = 0; i < n; ++i) positions[i] = i;
  std::vector<float> out(n * c);
  dropout_forward(two.stream, n, c, {0.1F, 42, 0, {samples.data(), positions.data()}}, ones.data(), {}, out.data());
  const auto dropped = std::count(out.begin(), out.end(), 0.0F);
  EXPECT_NEAR(static_cast<double>(dropped), 10000.0, 5 * 95.0);  // five standard deviations of a binomial
}

TEST(Cast, RoundsEveryKindOfFloatLikeTheScalarConversion) {
  TwoThreads two;
  std::vector<float> x;
  for (uint32_t i = 0; i < 50000; ++i) x.push_back(std::bit_cast<float>(philox(1, {i, 0, 0, 0})[0]));
  for (const uint32_t bits : {0U, 0x80000000U, 0x7F800000U, 0xFF800000U, 0x7F800001U, 0xFFC00001U, 0x7F7FFFFFU, 1U,
                              0x00008000U, 0x3F808000U, 0x3F818000U, 0x3F808001U}) {
    x.push_back(std::bit_cast<float>(bits));
  }
  std::vector<bf16> narrow(x.size());
  cast(two.stream, static_cast<int64_t>(x.size()), x.data(), narrow.data());
  for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(narrow[i].bits, bf16(x[i]).bits) << std::bit_cast<uint32_t>(x[i]);
  std::vector<float> wide(x.size());
  cast(two.stream, static_cast<int64_t>(x.size()), narrow.data(), wide.data());
  for (size_t i = 0; i < x.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(wide[i]), uint32_t{narrow[i].bits} << 16);
  }
}

TEST(FirstNonFinite, IsTheFirstWhereverItStands) {
  TwoThreads two;
  std::vector<float> x(100000, 1.0F);
  EXPECT_EQ(first_non_finite(two.stream, 100000, x.data()), -1);
  EXPECT_EQ(first_non_finite(two.stream, 0, x.data()), -1);
  x[99999] = std::nanf("");
  EXPECT_EQ(first_non_finite(two.stream, 100000, x.data()), 99999);
  for (const int64_t at : {70001, 50000, 16384, 16383, 15, 0}) {
    x[at] = -std::numeric_limits<float>::infinity();
    EXPECT_EQ(first_non_finite(two.stream, 100000, x.data()), at);
  }
}

TEST(ElementwiseDeathTest, MixedDtypesAreABrokenInvariant) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // the team has threads
  TwoThreads two;
  std::vector<float> a(4);
  std::vector<bf16> b(4);
  EXPECT_DEATH(add(two.stream, 4, a.data(), b.data(), a.data()), "f32 against bf16");
}

}  // namespace
}  // namespace ridgeline::ops

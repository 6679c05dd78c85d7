#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numbers>

#include "fixture.h"
#include "ridgeline/ops/elementwise.h"

namespace ridgeline::ops {
namespace {

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
    worst = std::max(worst, std::abs(static_cast<double>(y[i]) - expected) / ulp / (5.0 + 2.5 * exponent));
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

// What the header's bounds are measured on: a fine grid, and magnitudes down to the smallest.
std::vector<float> grid() {
  std::vector<float> x;
  for (float value = -14.0F; value < 14.0F; value += 0.0007F) x.push_back(value);
  for (float value = 1e-38F; value < 1e-3F; value *= 1.7F) x.insert(x.end(), {value, -value});
  for (float value = 14.0F; value < 100.0F; value *= 1.01F) x.insert(x.end(), {value, -value});
  return x;
}

double ulps(double computed, double expected) {
  const double ulp = std::max(std::ldexp(1.0, std::ilogb(expected) - 23), 0x1p-149);
  return std::abs(computed - expected) / ulp;
}

// The largest error in ulp over the grid where the expected value is at least `floor`; below, the value must be below
// too.
double worst_ulps(Activation activation, double (*f)(double), double floor) {
  TwoThreads two;
  const std::vector<float> x = grid();
  std::vector<float> y(x.size());
  activation_forward(two.stream, activation, static_cast<int64_t>(x.size()), x.data(), y.data());
  double worst = 0.0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double expected = f(x[i]);
    if (std::abs(expected) < floor) {
      EXPECT_LE(std::abs(y[i]), 2.0 * floor) << x[i];
    } else {
      worst = std::max(worst, ulps(y[i], expected));
    }
  }
  return worst;
}

TEST(GeluErf, KeepsTheAccuracyOfItsContract) {
  const auto exact = [](double x) { return 0.5 * x * std::erfc(-x / std::numbers::sqrt2); };
  const double worst = worst_ulps(Activation::gelu_erf, exact, 0x1p-116);
  RecordProperty("ulps", std::to_string(worst));
  EXPECT_LE(worst, 6.0);
  EXPECT_GE(worst, 0.5);  // the bound means something
}

TEST(Silu, KeepsTheAccuracyOfItsContract) {
  const double worst = worst_ulps(
      Activation::silu, [](double x) { return x / (1.0 + std::exp(-x)); }, 0x1p-116);
  RecordProperty("ulps", std::to_string(worst));
  EXPECT_LE(worst, 3.0);
  EXPECT_GE(worst, 0.5);
}

TEST(Activations, HaveTheirLimits) {
  TwoThreads two;
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> x = {0.0F, -0.0F, 1e30F, infinity, -1e38F, std::nanf(""), 100.0F, -100.0F};
  const std::vector<float> dy(x.size(), 1.0F);
  for (const Activation activation : {Activation::gelu_erf, Activation::silu}) {
    std::vector<float> y(x.size()), dx(x.size());
    activation_forward(two.stream, activation, 8, x.data(), y.data());
    activation_backward(two.stream, activation, 8, x.data(), dy.data(), dx.data());
    EXPECT_EQ(y[0], 0.0F);
    EXPECT_EQ(y[1], 0.0F);
    EXPECT_EQ(y[2], 1e30F);
    EXPECT_EQ(y[3], infinity);
    EXPECT_EQ(y[4], 0.0F);
    EXPECT_TRUE(std::isnan(y[5]));
    EXPECT_EQ(y[6], 100.0F);
    EXPECT_EQ(y[7], 0.0F);
    EXPECT_EQ(dx[0], 0.5F);
    EXPECT_EQ(dx[2], 1.0F);
    EXPECT_EQ(dx[4], 0.0F);
    EXPECT_TRUE(std::isnan(dx[5]));
    EXPECT_EQ(dx[6], 1.0F);
    EXPECT_EQ(dx[7], 0.0F);
  }
}

TEST(Activations, TheTanhFormIsGelu) {
  TwoThreads two;
  const auto x = random_values<float>(1001, 1, 5.0F), dy = random_values<float>(1001, 2);
  std::vector<float> y(1001), expected(1001);
  gelu_forward(two.stream, 1001, x.data(), expected.data());
  activation_forward(two.stream, Activation::gelu_tanh, 1001, x.data(), y.data());
  EXPECT_TRUE(same_bits(y, expected));
  gelu_backward(two.stream, 1001, x.data(), dy.data(), expected.data());
  activation_backward(two.stream, Activation::gelu_tanh, 1001, x.data(), dy.data(), y.data());
  EXPECT_TRUE(same_bits(y, expected));
}

template <typename T>
class Activated : public testing::Test {};
using Stored = testing::Types<float, bf16, f16>;
TYPED_TEST_SUITE(Activated, Stored);

constexpr Activation kAll[] = {Activation::gelu_tanh, Activation::gelu_erf, Activation::silu};

// Matrix products call these on rows of any length: a value's result may not depend on where it stands.
TYPED_TEST(Activated, ResultsDoNotDependOnPosition) {
  TwoThreads two;
  const int64_t count = 40000;
  const auto x = random_values<TypeParam>(count, 1, 5.0F), dy = random_values<TypeParam>(count, 2);
  for (const Activation activation : kAll) {
    std::vector<TypeParam> y(count), dx(count), y_cut(count), dx_cut(count);
    activation_forward(two.stream, activation, count, x.data(), y.data());
    activation_backward(two.stream, activation, count, x.data(), dy.data(), dx.data());
    int64_t first = 0;
    for (int64_t length = 1; first < count; length = length * 2 + 1) {
      const int64_t n = std::min(length, count - first);
      activation_forward(two.stream, activation, n, x.data() + first, y_cut.data() + first);
      activation_backward(two.stream, activation, n, x.data() + first, dy.data() + first, dx_cut.data() + first);
      first += n;
    }
    EXPECT_TRUE(same_bits(y, y_cut));
    EXPECT_TRUE(same_bits(dx, dx_cut));
  }
}

TYPED_TEST(Activated, OutputsMayBeInputs) {
  TwoThreads two;
  const int64_t count = 33333;
  const auto a = random_values<TypeParam>(count, 1), b = random_values<TypeParam>(count, 2);
  for (const Activation activation : kAll) {
    std::vector<TypeParam> expected(count);
    activation_forward(two.stream, activation, count, a.data(), expected.data());
    auto x = a;
    activation_forward(two.stream, activation, count, x.data(), x.data());
    EXPECT_TRUE(same_bits(x, expected));

    activation_backward(two.stream, activation, count, a.data(), b.data(), expected.data());
    auto dy = b;
    x = a;
    activation_backward(two.stream, activation, count, a.data(), dy.data(), dy.data());
    activation_backward(two.stream, activation, count, x.data(), b.data(), x.data());
    EXPECT_TRUE(same_bits(dy, expected));
    EXPECT_TRUE(same_bits(x, expected));
  }
}

}  // namespace
}  // namespace ridgeline::ops

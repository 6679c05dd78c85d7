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

template <typename T>
class Elementwise : public testing::Test {};
using Stored = testing::Types<float, bf16, f16>;
TYPED_TEST_SUITE(Elementwise, Stored);

TYPED_TEST(Elementwise, OutputsMayBeInputsWhereTheContractSaysSo) {
  TwoThreads two;
  const int64_t count = 33333;
  const auto a = random_values<TypeParam>(count, 1), b = random_values<TypeParam>(count, 2);
  std::vector<TypeParam> expected(count);

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

TEST(Cast, RoundsEveryKindOfFloatToF16LikeTheScalarConversion) {
  TwoThreads two;
  std::vector<float> x;
  for (uint32_t i = 0; i < 50000; ++i) {
    const uint32_t random = philox(2, {i, 0, 0, 0})[0];
    x.push_back(std::bit_cast<float>(random));
    x.push_back(std::bit_cast<float>((random & 0x807FFFFFU) | ((100 + i % 45) << 23)));  // 2^-27 to 2^17
  }
  for (const uint32_t bits : {0U, 0x80000000U, 0x7F800000U, 0xFF800000U, 0x7F800001U, 0xFFC00001U, 0x7F7FFFFFU, 1U,
                              0x477FEFFFU, 0x477FF000U, 0x33000000U, 0x33000001U, 0x387FFFFFU, 0x7FA03000U}) {
    x.push_back(std::bit_cast<float>(bits));
  }
  const auto count = static_cast<int64_t>(x.size());
  std::vector<f16> half(x.size());
  cast(two.stream, count, x.data(), half.data());
  for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(half[i].bits, f16(x[i]).bits) << std::bit_cast<uint32_t>(x[i]);
}

TEST(Cast, EveryF16IsExactInFloatAndRoundsToBf16) {
  TwoThreads two;
  std::vector<f16> x(65536);
  for (size_t i = 0; i < x.size(); ++i) x[i].bits = static_cast<uint16_t>(i);
  std::vector<float> wide(x.size());
  std::vector<bf16> narrow(x.size());
  cast(two.stream, 65536, x.data(), wide.data());
  cast(two.stream, 65536, x.data(), narrow.data());
  for (size_t i = 0; i < x.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(wide[i]), std::bit_cast<uint32_t>(static_cast<float>(x[i]))) << i;
    ASSERT_EQ(narrow[i].bits, bf16(static_cast<float>(x[i])).bits) << i;
  }
}

// Loss scaling looks for infinities: a sum beyond 65504 must become one, in vectors and in tails.
TEST(Add, OverflowsToInfinityInF16) {
  TwoThreads two;
  const std::vector<f16> a(37, f16(60000.0F)), b(37, f16(-60000.0F));
  std::vector<f16> out(37);
  add(two.stream, 37, a.data(), a.data(), out.data());
  for (const f16 value : out) EXPECT_EQ(value.bits, 0x7C00);
  add(two.stream, 37, b.data(), b.data(), out.data());
  for (const f16 value : out) EXPECT_EQ(value.bits, 0xFC00);
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

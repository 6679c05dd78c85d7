#include "ridgeline/base/dtype.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "ridgeline/base/random.h"

namespace ridgeline {
namespace {

float from_bits(uint32_t bits) {
  return std::bit_cast<float>(bits);
}

TEST(Bf16, RoundsToNearestAndTiesToEven) {
  EXPECT_EQ(bf16(1.0F).bits, 0x3F80);
  EXPECT_EQ(bf16(from_bits(0x3F807FFF)).bits, 0x3F80);  // just below half
  EXPECT_EQ(bf16(from_bits(0x3F808000)).bits, 0x3F80);  // half, even below
  EXPECT_EQ(bf16(from_bits(0x3F808001)).bits, 0x3F81);  // just above half
  EXPECT_EQ(bf16(from_bits(0x3F818000)).bits, 0x3F82);  // half, even above
  EXPECT_EQ(bf16(from_bits(0xBF818000)).bits, 0xBF82);
  EXPECT_EQ(bf16(from_bits(0x3FFFFFFF)).bits, 0x4000);  // carries into the exponent
}

TEST(Bf16, KeepsSpecialValues) {
  EXPECT_EQ(bf16(0.0F).bits, 0x0000);
  EXPECT_EQ(bf16(-0.0F).bits, 0x8000);
  EXPECT_EQ(bf16(std::numeric_limits<float>::infinity()).bits, 0x7F80);
  EXPECT_EQ(bf16(std::numeric_limits<float>::max()).bits, 0x7F80);  // nearer to infinity than to the largest bf16
  EXPECT_EQ(bf16(from_bits(0x00010000)).bits, 0x0001);              // a subnormal
  for (const uint32_t nan : {0x7F800001U, 0x7FC00000U, 0xFFFFFFFFU, 0xFF800001U}) {
    EXPECT_TRUE(std::isnan(static_cast<float>(bf16(from_bits(nan))))) << std::hex << nan;
    EXPECT_NE(bf16(from_bits(nan)).bits & 0x40, 0) << "quiet";
  }
}

TEST(Bf16, IsTheNearestForAnyFloat) {
  for (uint32_t i = 0; i < 20000; ++i) {
    const float value = from_bits(philox(5, {i, 0, 0, 0})[0]);
    if (!std::isfinite(value) || std::abs(value) > 3.38e38F) continue;
    const bf16 rounded(value);
    const double error = std::abs(static_cast<double>(value) - static_cast<double>(static_cast<float>(rounded)));
    for (const int step : {-1, 1}) {
      bf16 other;
      other.bits = static_cast<uint16_t>(rounded.bits + step);
      if ((other.bits & 0x7F80) == 0x7F80 || (other.bits ^ rounded.bits) >> 15 != 0) continue;
      const double distance = std::abs(static_cast<double>(value) - static_cast<double>(static_cast<float>(other)));
      ASSERT_LE(error, distance) << value;
    }
  }
}

TEST(Bf16, EveryValueSurvivesAFloat) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    bf16 value;
    value.bits = static_cast<uint16_t>(bits);
    const bf16 back(static_cast<float>(value));
    const bool nan = (bits & 0x7FFF) > 0x7F80;
    ASSERT_EQ(back.bits, nan ? bits | 0x40 : bits);
  }
}

f16 half_of(uint32_t bits) {
  f16 value;
  value.bits = static_cast<uint16_t>(bits);
  return value;
}

TEST(F16, RoundsToNearestAndTiesToEven) {
  EXPECT_EQ(f16(1.0F).bits, 0x3C00);
  EXPECT_EQ(f16(1.0F + 0x1p-11F).bits, 0x3C00);             // half, even below
  EXPECT_EQ(f16(1.0F + 0x1p-11F + 0x1p-23F).bits, 0x3C01);  // just above half
  EXPECT_EQ(f16(1.0F + 0x1p-10F + 0x1p-11F).bits, 0x3C02);  // half, even above
  EXPECT_EQ(f16(-1.0F - 0x1p-10F - 0x1p-11F).bits, 0xBC02);
  EXPECT_EQ(f16(2.0F - 0x1p-12F).bits, 0x4000);  // carries into the exponent
  EXPECT_EQ(f16(65504.0F).bits, 0x7BFF);         // the largest
  EXPECT_EQ(f16(std::nextafter(65520.0F, 0.0F)).bits, 0x7BFF);
  EXPECT_EQ(f16(65520.0F).bits, 0x7C00);  // half way to 2^16: infinity
  EXPECT_EQ(f16(-1e30F).bits, 0xFC00);
}

TEST(F16, KeepsSubnormals) {
  EXPECT_EQ(f16(0x1p-14F).bits, 0x0400);             // the smallest normal
  EXPECT_EQ(f16(0x1p-14F - 0x1p-24F).bits, 0x03FF);  // the largest subnormal
  EXPECT_EQ(f16(0x1p-14F - 0x1p-26F).bits, 0x0400);  // rounds up to a normal
  EXPECT_EQ(f16(0x1p-24F).bits, 0x0001);
  EXPECT_EQ(f16(0x1p-25F).bits, 0x0000);  // half, even below
  EXPECT_EQ(f16(std::nextafter(0x1p-25F, 1.0F)).bits, 0x0001);
  EXPECT_EQ(f16(-0x1.8p-24F).bits, 0x8002);  // half, even above
  EXPECT_EQ(f16(-1e-30F).bits, 0x8000);
  EXPECT_EQ(static_cast<float>(half_of(0x8001)), -0x1p-24F);
}

TEST(F16, IsTheNearestForAnyFloat) {
  for (uint32_t i = 0; i < 40000; ++i) {
    // Random signs and mantissas under the exponents that matter, 2^-27 to 2^15.
    const uint32_t random = philox(6, {i, 0, 0, 0})[0];
    const float value = from_bits((random & 0x807FFFFFU) | ((100 + i % 43) << 23));
    if (std::abs(value) >= 65520.0F) continue;  // infinity
    const f16 rounded(value);
    const double error = std::abs(static_cast<double>(value) - static_cast<double>(static_cast<float>(rounded)));
    for (const int step : {-1, 1}) {
      const f16 other = half_of(rounded.bits + static_cast<uint32_t>(step));
      if ((other.bits & 0x7C00) == 0x7C00 || (other.bits ^ rounded.bits) >> 15 != 0) continue;
      const double distance = std::abs(static_cast<double>(value) - static_cast<double>(static_cast<float>(other)));
      ASSERT_LE(error, distance) << value;
      ASSERT_TRUE(error < distance || rounded.bits % 2 == 0) << value;
    }
  }
}

TEST(F16, TheMiddleOfEveryTwoNeighboursGoesToTheEvenOneAndBesideItToTheNearer) {
  for (uint32_t bits = 0; bits < 0x7C00; ++bits) {
    const auto low = static_cast<float>(half_of(bits));
    const float high = bits + 1 == 0x7C00 ? 65536.0F : static_cast<float>(half_of(bits + 1));
    const float middle = (low + high) / 2;
    const uint32_t even = bits + bits % 2;
    ASSERT_EQ(f16(middle).bits, even) << bits;
    ASSERT_EQ(f16(-middle).bits, even | 0x8000) << bits;
    ASSERT_EQ(f16(std::nextafter(middle, 0.0F)).bits, bits);
    ASSERT_EQ(f16(std::nextafter(middle, INFINITY)).bits, bits + 1);
  }
}

TEST(F16, EveryValueSurvivesAFloat) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto value = static_cast<float>(half_of(bits));
    const bool nan = (bits & 0x7FFF) > 0x7C00;
    ASSERT_EQ(std::isnan(value), nan);
    ASSERT_EQ(f16(value).bits, nan ? bits | 0x200 : bits);
    // The definition of binary16, for every finite value.
    const uint32_t exponent = (bits >> 10) & 31, mantissa = bits & 0x3FF;
    if (exponent == 31) continue;
    const double magnitude =
        exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, static_cast<int>(exponent) - 25);
    ASSERT_EQ(static_cast<double>(value), bits >> 15 != 0 ? -magnitude : magnitude);
  }
}

TEST(DType, SizesAndNames) {
  EXPECT_EQ(size_of(DType::bf16), 2);
  EXPECT_EQ(size_of(DType::f32), 4);
  EXPECT_EQ(size_of(DType::i64), 8);
  EXPECT_EQ(size_of(DType::f16), 2);
  EXPECT_EQ(DTypeOf<f16>::value, DType::f16);
  EXPECT_EQ(name_of(DType::bf16), "bf16");
  EXPECT_EQ(name_of(DType::f32), "f32");
}

TEST(Ref, AtStepsByElements) {
  float floats[4] = {};
  bf16 halves[4];
  EXPECT_EQ(Ref(floats).at(2).data, floats + 2);
  EXPECT_EQ(ConstRef(halves).at(3).data, halves + 3);
  EXPECT_EQ(ConstRef(Ref(halves)).dtype, DType::bf16);
  EXPECT_FALSE(Ref());
}

}  // namespace
}  // namespace ridgeline

#include "ridgeline/checkpoint/convert.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace ridgeline::checkpoint {
namespace {

// Binary16 by its definition, in double: the yardstick.
double value_of_f16(uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int mantissa = bits & 0x3ff;
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == 31) return mantissa != 0 ? std::numeric_limits<double>::quiet_NaN() : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

TEST(Convert, EveryBinary16ReadsAsItsValueAndWritesBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = float_of_f16(half);
    const double expected = value_of_f16(half);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(value)) << bits;
      ASSERT_TRUE(std::isnan(float_of_f16(f16_of_float(value)))) << bits;
      continue;
    }
    ASSERT_EQ(static_cast<double>(value), expected) << bits;
    ASSERT_EQ(std::signbit(value), (half & 0x8000) != 0) << bits;
    ASSERT_EQ(f16_of_float(value), half) << bits;
  }
}

TEST(Convert, FloatsRoundToTheNearestBinary16TiesToEven) {
  // Between every two neighbours: the middle goes to the even one, just beside it to the nearer.
  for (uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const auto low = static_cast<uint16_t>(bits), high = static_cast<uint16_t>(bits + 1);
    const double upper = bits + 1 == 0x7c00 ? 65536.0 : value_of_f16(high);
    const auto middle = static_cast<float>((value_of_f16(low) + upper) / 2);
    const uint16_t even = (low & 1) == 0 ? low : high;
    ASSERT_EQ(f16_of_float(middle), even) << bits;
    ASSERT_EQ(f16_of_float(std::nextafter(middle, 0.0F)), low) << bits;
    ASSERT_EQ(f16_of_float(std::nextafter(middle, INFINITY)), high) << bits;
    ASSERT_EQ(f16_of_float(-middle), even | 0x8000) << bits;
  }
  EXPECT_EQ(f16_of_float(1e30F), 0x7c00);
  EXPECT_EQ(f16_of_float(-INFINITY), 0xfc00);
  EXPECT_EQ(f16_of_float(1e-30F), 0);
}

TEST(Convert, BulkEqualsOneByOneAtAnyLengthAndAddress) {
  std::mt19937 random(7);
  for (const int64_t count : {0, 1, 3, 511, 512, 513, 1500}) {
    std::vector<uint32_t> bits(static_cast<size_t>(count));
    for (uint32_t& b : bits) b = static_cast<uint32_t>(random());  // any pattern: NaN, subnormals, ...
    std::vector<float> floats(bits.size());
    for (size_t i = 0; i < bits.size(); ++i) floats[i] = std::bit_cast<float>(bits[i]);
    // One byte off every alignment, on both sides.
    std::vector<std::byte> from(bits.size() * 4 + 1), to(bits.size() * 8 + 1);
    std::copy_n(reinterpret_cast<const std::byte*>(floats.data()), bits.size() * 4, from.data() + 1);

    convert(ConstRef(from.data() + 1, DType::f32), Ref(to.data() + 1, DType::bf16), count);
    for (size_t i = 0; i < bits.size(); ++i) {
      uint16_t got = 0;
      std::copy_n(to.data() + 1 + 2 * i, 2, reinterpret_cast<std::byte*>(&got));
      ASSERT_EQ(got, bf16(floats[i]).bits) << std::hex << bits[i];
    }
    convert(ConstRef(from.data() + 1, DType::f32), Ref(to.data() + 1, DType::f16), count);
    for (size_t i = 0; i < bits.size(); ++i) {
      uint16_t got = 0;
      std::copy_n(to.data() + 1 + 2 * i, 2, reinterpret_cast<std::byte*>(&got));
      ASSERT_EQ(got, f16_of_float(floats[i])) << std::hex << bits[i];
    }
    convert(ConstRef(from.data() + 1, DType::f32), Ref(to.data() + 1, DType::f64), count);
    for (size_t i = 0; i < bits.size(); ++i) {
      double got = 0;
      std::copy_n(to.data() + 1 + 8 * i, 8, reinterpret_cast<std::byte*>(&got));
      ASSERT_EQ(std::bit_cast<uint64_t>(got), std::bit_cast<uint64_t>(static_cast<double>(floats[i])));
    }
    std::vector<double> doubles(bits.size());
    for (size_t i = 0; i < bits.size(); ++i) doubles[i] = 1.0 + std::ldexp(static_cast<double>(bits[i]), -40);
    std::vector<float> narrow(bits.size());
    convert(ConstRef(doubles.data()), Ref(narrow.data()), count);
    for (size_t i = 0; i < bits.size(); ++i) ASSERT_EQ(narrow[i], static_cast<float>(doubles[i]));
  }
}

TEST(Convert, OnlyFloatsConvert) {
  EXPECT_TRUE(convertible(DType::i32, DType::i32));
  EXPECT_TRUE(convertible(DType::f16, DType::bf16));
  EXPECT_FALSE(convertible(DType::i32, DType::f32));
  EXPECT_FALSE(convertible(DType::f32, DType::i64));
}

}  // namespace
}  // namespace ridgeline::checkpoint

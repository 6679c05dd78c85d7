#include "ridgeline/checkpoint/convert.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace ridgeline::checkpoint {
namespace {

TEST(Convert, EveryBinary16WidensInBulk) {
  std::vector<f16> halves(65536);
  for (size_t i = 0; i < halves.size(); ++i) halves[i].bits = static_cast<uint16_t>(i);
  std::vector<float> floats(halves.size());
  convert(ConstRef(halves.data()), Ref(floats.data()), static_cast<int64_t>(halves.size()));
  for (size_t i = 0; i < halves.size(); ++i)
    ASSERT_EQ(std::bit_cast<uint32_t>(floats[i]), std::bit_cast<uint32_t>(static_cast<float>(halves[i]))) << i;
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
      ASSERT_EQ(got, f16(floats[i]).bits) << std::hex << bits[i];
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

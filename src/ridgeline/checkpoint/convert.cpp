#include "ridgeline/checkpoint/convert.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "ridgeline/base/error.h"

namespace ridgeline::checkpoint {
namespace {

// Every conversion goes through a block of floats on the stack: 2 n loops instead of n^2, and a trip count known to the
// compiler, so that they are vectorised at -O2. All pairs but f64 to f64 (a copy) lose nothing by it.
constexpr int64_t kBlock = 512;

bool is_float(DType dtype) {
  return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16 || dtype == DType::f64;
}

uint16_t bf16_bits(float value) {
  const uint32_t u = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (u + 0x7fffU + ((u >> 16) & 1U)) >> 16;
  const uint32_t quiet = (u >> 16) | 0x40U;
  return static_cast<uint16_t>((u & 0x7fffffffU) > 0x7f800000U ? quiet : rounded);
}

template <typename T>
T load(const std::byte* address) {
  T value;
  std::memcpy(&value, address, sizeof(T));
  return value;
}
template <typename T>
void store(std::byte* address, T value) {
  std::memcpy(address, &value, sizeof(T));
}

void load_block(DType dtype, const std::byte* from, float* to) {
  switch (dtype) {
    case DType::f32:
      std::memcpy(to, from, kBlock * sizeof(float));
      break;
    case DType::bf16:
      for (int64_t i = 0; i < kBlock; ++i)
        to[i] = std::bit_cast<float>(static_cast<uint32_t>(load<uint16_t>(from + 2 * i)) << 16);
      break;
    case DType::f16:
      for (int64_t i = 0; i < kBlock; ++i) to[i] = float_of_f16(load<uint16_t>(from + 2 * i));
      break;
    default:
      for (int64_t i = 0; i < kBlock; ++i) to[i] = static_cast<float>(load<double>(from + 8 * i));
  }
}

void store_block(DType dtype, const float* from, std::byte* to) {
  switch (dtype) {
    case DType::f32:
      std::memcpy(to, from, kBlock * sizeof(float));
      break;
    case DType::bf16:
      for (int64_t i = 0; i < kBlock; ++i) store<uint16_t>(to + 2 * i, bf16_bits(from[i]));
      break;
    case DType::f16:
      for (int64_t i = 0; i < kBlock; ++i) store<uint16_t>(to + 2 * i, f16_of_float(from[i]));
      break;
    default:
      for (int64_t i = 0; i < kBlock; ++i) store<double>(to + 8 * i, static_cast<double>(from[i]));
  }
}

}  // namespace

float float_of_f16(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000U) << 16;
  const uint32_t magnitude = bits & 0x7fffU;
  const uint32_t normal = (magnitude << 13) + (112U << 23);
  const uint32_t special = (magnitude << 13) | 0x7f800000U;
  // Not a shift into subnormal floats: a caller may have them flushed to zero.
  const uint32_t subnormal = std::bit_cast<uint32_t>(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24F);
  const uint32_t value = magnitude >= 0x7c00U ? special : (magnitude < 0x400U ? subnormal : normal);
  return std::bit_cast<float>(value | sign);
}

uint16_t f16_of_float(float value) {
  const uint32_t u = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (u >> 16) & 0x8000U;
  const uint32_t magnitude = u & 0x7fffffffU;
  // At least 2^-14: drop 13 bits of the mantissa and rebias the exponent; a carry into infinity is what rounding asks.
  const uint32_t rebased = magnitude - (112U << 23);
  const uint32_t rounded = (rebased + 0xfffU + ((rebased >> 13) & 1U)) >> 13;
  const uint32_t normal = magnitude >= 0x47800000U ? 0x7c00U : rounded;
  // Below: beside 0.5 the spacing of floats is 2^-24, the smallest binary16, so the addition rounds to it.
  const float small = std::bit_cast<float>(magnitude < 0x38800000U ? magnitude : 0U);
  const uint32_t subnormal = std::bit_cast<uint32_t>(small + 0.5F) - 0x3f000000U;
  const uint32_t nan = 0x7e00U | ((magnitude >> 13) & 0x3ffU);
  const uint32_t finite = magnitude < 0x38800000U ? subnormal : normal;
  return static_cast<uint16_t>((magnitude > 0x7f800000U ? nan : finite) | sign);
}

bool convertible(DType from, DType to) {
  return from == to || (is_float(from) && is_float(to));
}

void convert(ConstRef from, Ref to, int64_t count) {
  RL_REQUIRE(convertible(from.dtype, to.dtype), "no conversion from {} to {}", name_of(from.dtype), name_of(to.dtype));
  const auto* source = static_cast<const std::byte*>(from.data);
  auto* target = static_cast<std::byte*>(to.data);
  const int64_t source_size = size_of(from.dtype), target_size = size_of(to.dtype);
  if (count <= 0) return;
  if (from.dtype == to.dtype) {
    std::memcpy(target, source, static_cast<size_t>(count * source_size));
    return;
  }
  float block[kBlock];
  int64_t done = 0;
  for (; done + kBlock <= count; done += kBlock) {
    load_block(from.dtype, source + done * source_size, block);
    store_block(to.dtype, block, target + done * target_size);
  }
  if (done == count) return;
  // The rest, padded with zeros to a whole block.
  std::byte padded[kBlock * 8] = {};
  std::memcpy(padded, source + done * source_size, static_cast<size_t>((count - done) * source_size));
  load_block(from.dtype, padded, block);
  store_block(to.dtype, block, padded);
  std::memcpy(target + done * target_size, padded, static_cast<size_t>((count - done) * target_size));
}

}  // namespace ridgeline::checkpoint

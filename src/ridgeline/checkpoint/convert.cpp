#include "ridgeline/checkpoint/convert.h"

#include <algorithm>
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

template <typename T>
void load_as(const std::byte* from, float* to) {
  for (int64_t i = 0; i < kBlock; ++i) {
    T value;
    std::memcpy(&value, from + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
    to[i] = static_cast<float>(value);
  }
}
template <typename T>
void store_as(const float* from, std::byte* to) {
  for (int64_t i = 0; i < kBlock; ++i) {
    const auto value = static_cast<T>(from[i]);
    std::memcpy(to + i * static_cast<int64_t>(sizeof(T)), &value, sizeof(T));
  }
}

void load_block(DType dtype, const std::byte* from, float* to) {
  switch (dtype) {
    case DType::f32:
      return load_as<float>(from, to);
    case DType::bf16:
      return load_as<bf16>(from, to);
    case DType::f16:
      return load_as<f16>(from, to);
    default:
      return load_as<double>(from, to);
  }
}

void store_block(DType dtype, const float* from, std::byte* to) {
  switch (dtype) {
    case DType::f32:
      return store_as<float>(from, to);
    case DType::bf16:
      return store_as<bf16>(from, to);
    case DType::f16:
      return store_as<f16>(from, to);
    default:
      return store_as<double>(from, to);
  }
}

}  // namespace

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

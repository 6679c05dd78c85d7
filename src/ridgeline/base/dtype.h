// Element types, and the two 16-bit floats as storage types.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

#include "ridgeline/base/dtype_enum.h"

namespace ridgeline {

constexpr int64_t size_of(DType dtype) {
  switch (dtype) {
    case DType::u8:
      return 1;
    case DType::bf16:
    case DType::f16:
    case DType::u16:
      return 2;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::f64:
    case DType::i64:
      return 8;
  }
  return 0;
}

// "f32", "bf16", ...
std::string_view name_of(DType dtype);

// bfloat16 storage: the upper half of an IEEE single. Conversion from float rounds to nearest, ties to even; NaN stays
// NaN (quiet). Subnormals are kept. No branches here and in f16, so that loops over many vectorise.
struct bf16 {
  uint16_t bits = 0;

  bf16() = default;
  explicit bf16(float value) {
    const uint32_t u = std::bit_cast<uint32_t>(value);
    const uint32_t rounded = (u + 0x7fffU + ((u >> 16) & 1U)) >> 16, quiet_nan = (u >> 16) | 0x40U;
    bits = static_cast<uint16_t>((u & 0x7fffffffU) > 0x7f800000U ? quiet_nan : rounded);
  }
  explicit operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
};
static_assert(sizeof(bf16) == 2);

// IEEE 754 binary16 storage. Conversion from float rounds to nearest, ties to even; what rounds beyond 65504 becomes
// infinity; subnormals (down to 2^-24) are kept; NaN stays NaN (quiet, with the upper bits of its payload). The same
// bits as the conversion instructions of x86 (F16C, AVX-512) and Arm.
struct f16 {
  uint16_t bits = 0;

  f16() = default;
  explicit f16(float value) {
    const uint32_t u = std::bit_cast<uint32_t>(value);
    const uint32_t sign = (u >> 16) & 0x8000U, magnitude = u & 0x7fffffffU;
    const bool below = magnitude < kLeastNormal;
    const uint32_t normal = (magnitude + 0xfffU + ((magnitude >> 13) & 1U) - 0x38000000U) >> 13;
    // There the last place is 2^-24, as it is of floats in [0.5, 1): the addition rounds.
    const uint32_t subnormal =
        std::bit_cast<uint32_t>(std::bit_cast<float>(below ? magnitude : 0U) + 0.5F) - 0x3f000000U;
    const uint32_t nan = 0x7e00U | ((magnitude >> 13) & 0x3ffU);
    const uint32_t finite = below ? subnormal : normal;
    const uint32_t number = magnitude >= kLeastInfinite ? 0x7c00U : finite;
    bits = static_cast<uint16_t>(sign | (magnitude > 0x7f800000U ? nan : number));
  }
  explicit operator float() const {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000U) << 16, magnitude = bits & 0x7fffU;
    // Not a shift into subnormal floats: a caller may have them flushed to zero.
    const uint32_t subnormal = std::bit_cast<uint32_t>(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24F);
    const uint32_t normal = (magnitude << 13) + 0x38000000U;
    const uint32_t special = (magnitude << 13) | (magnitude > 0x7c00U ? 0x7fc00000U : 0x7f800000U);
    const uint32_t finite = magnitude < 0x400U ? subnormal : normal;
    return std::bit_cast<float>(sign | (magnitude >= 0x7c00U ? special : finite));
  }

 private:
  static constexpr uint32_t kLeastNormal = 0x38800000U;    // 2^-14
  static constexpr uint32_t kLeastInfinite = 0x477ff000U;  // 65520, half way from the largest value to 2^16
};
static_assert(sizeof(f16) == 2);

template <typename T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::f64;
};
template <>
struct DTypeOf<bf16> {
  static constexpr DType value = DType::bf16;
};
template <>
struct DTypeOf<f16> {
  static constexpr DType value = DType::f16;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType value = DType::u8;
};
template <>
struct DTypeOf<uint16_t> {
  static constexpr DType value = DType::u16;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::i32;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType value = DType::i64;
};

// A typed address: the argument of every op. Not owned. The op's header gives the shape; `at(i)` is the view that
// starts i elements later.
struct Ref {
  void* data = nullptr;
  DType dtype = DType::f32;

  Ref() = default;
  Ref(void* address, DType type) : data(address), dtype(type) {}
  template <typename T>
  Ref(T* address) : data(address), dtype(DTypeOf<T>::value) {}  // NOLINT(google-explicit-constructor)

  explicit operator bool() const { return data != nullptr; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }
  Ref at(int64_t elements) const { return {static_cast<char*>(data) + elements * size_of(dtype), dtype}; }
};

struct ConstRef {
  const void* data = nullptr;
  DType dtype = DType::f32;

  ConstRef() = default;
  ConstRef(const void* address, DType type) : data(address), dtype(type) {}
  ConstRef(Ref ref) : data(ref.data), dtype(ref.dtype) {}  // NOLINT(google-explicit-constructor)
  template <typename T>
  ConstRef(const T* address) : data(address), dtype(DTypeOf<T>::value) {}  // NOLINT
  template <typename T>
  ConstRef(T* address) : data(address), dtype(DTypeOf<T>::value) {}  // NOLINT

  explicit operator bool() const { return data != nullptr; }
  template <typename T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
  ConstRef at(int64_t elements) const { return {static_cast<const char*>(data) + elements * size_of(dtype), dtype}; }
};

}  // namespace ridgeline

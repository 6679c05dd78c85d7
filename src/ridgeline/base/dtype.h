// Element types, and the two 16-bit floats as storage types.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

namespace ridgeline {

enum class DType : uint8_t { f32, bf16, f16, f64, u8, u16, i32, i64 };

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
// NaN (quiet). Subnormals are kept.
struct bf16 {
  uint16_t bits = 0;

  bf16() = default;
  explicit bf16(float value) {
    const uint32_t u = std::bit_cast<uint32_t>(value);
    if ((u & 0x7fffffffU) > 0x7f800000U) {
      bits = static_cast<uint16_t>((u >> 16) | 0x40U);
    } else {
      bits = static_cast<uint16_t>((u + 0x7fffU + ((u >> 16) & 1U)) >> 16);
    }
  }
  explicit operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
};
static_assert(sizeof(bf16) == 2);

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

// The vector type of the attention kernels: as wide as the instruction set this translation unit is compiled for. All
// in an anonymous namespace, see attention_kernels.h.
#pragma once

#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "ridgeline/ops/cpu/attention_kernels.h"

namespace ridgeline::ops::cpu {
namespace {

#define RL_INLINE inline __attribute__((always_inline))

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kTileRows = 8;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
constexpr int kTileRows = 6;
#else
constexpr int kLanes = 4;
constexpr int kTileRows = 4;
#endif
constexpr int kPanelLanes = 32 / kLanes;  // vectors per row of a panel

// Keys of a forward block: their scores (128 bytes a key) leave room for operands in L1, which has 48 KiB on most
// processors with AVX-512 and 32 KiB on the others.
constexpr int64_t kForwardBlock = kLanes == 16 ? kForwardKeys : kForwardKeys / 2;

using F = float __attribute__((vector_size(4 * kLanes)));
using I = int32_t __attribute__((vector_size(4 * kLanes)));
using U = uint32_t __attribute__((vector_size(4 * kLanes)));
using H = uint16_t __attribute__((vector_size(2 * kLanes)));

using bf16_t = uint16_t;  // storage of a bf16; base/dtype.h has inline functions
struct f16_t {            // storage of an IEEE binary16
  uint16_t bits;
};

// Two neighbouring bf16 as one word.
using Word = uint32_t __attribute__((may_alias));
RL_INLINE Word* as_words(bf16_t* p) {
  return reinterpret_cast<Word*>(p);
}
RL_INLINE const Word* as_words(const bf16_t* p) {
  return reinterpret_cast<const Word*>(p);
}

template <typename V, typename T>
RL_INLINE V load_as(const T* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <typename V, typename T>
RL_INLINE void store_as(T* p, V v) {
  __builtin_memcpy(p, &v, sizeof v);
}
template <typename To, typename From>
RL_INLINE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

RL_INLINE F splat(float x) {
  return x - F{};
}
RL_INLINE I splat_int(int32_t x) {
  return x - I{};
}

RL_INLINE F fma(F a, F b, F c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

// max, with NaN kept when it is in b.
RL_INLINE F max(F a, F b) {
#if defined(__AVX512F__)
  return _mm512_max_ps(a, b);
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

RL_INLINE float sum_lanes(F v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(v);
#else
  float sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += v[i];
  return sum;
#endif
}

// 0, 1, 2, ...
RL_INLINE I lane_numbers() {
  I v;
  for (int i = 0; i < kLanes; ++i) v[i] = i;
  return v;
}

// Nearest bf16 (ties to even) of each lane, still as f32; NaN stays NaN.
RL_INLINE F round_to_bf16(F x) {
  const U u = bits_as<U>(x);
  const U rounded = (u + 0x7fffU + ((u >> 16) & 1U)) & 0xffff0000U;
  return x == x ? bits_as<F>(rounded) : x;
}

// f16 to f32 and back, with the bits of base's f16: by instruction where there is one.
RL_INLINE F load(const f16_t* p) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(load_as<__m256i>(p));
#elif defined(__F16C__)
  return _mm256_cvtph_ps(load_as<__m128i>(p));
#else
  const U bits = __builtin_convertvector(load_as<H>(p), U);
  const U magnitude = bits & 0x7fffU, shifted = magnitude << 13;
  const F small = __builtin_convertvector(bits_as<I>(magnitude), F) * 0x1p-24F;
  U value = magnitude < 0x400U ? bits_as<U>(small) : shifted + 0x38000000U;
  value = magnitude >= 0x7c00U ? shifted | 0x7f800000U : value;
  value = magnitude > 0x7c00U ? value | 0x400000U : value;
  return bits_as<F>(value | ((bits & 0x8000U) << 16));
#endif
}
RL_INLINE void store(f16_t* p, F v) {
#if defined(__AVX512F__)
  store_as(p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__F16C__)
  store_as(p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
#else
  const U bits = bits_as<U>(v), magnitude = bits & 0x7fffffffU;
  const U rounded = (magnitude + 0xfffU + ((magnitude >> 13) & 1U) - 0x38000000U) >> 13;
  // Below 2^-14 the last place is 2^-24, as it is of floats in [0.5, 1): the addition rounds.
  const U small = bits_as<U>(bits_as<F>(magnitude) + 0.5F) - 0x3f000000U;
  U value = magnitude < 0x38800000U ? small : rounded;
  value = magnitude >= 0x477ff000U ? U{} + 0x7c00U : value;
  value = magnitude > 0x7f800000U ? 0x7e00U | ((magnitude >> 13) & 0x3ffU) : value;
  store_as(p, __builtin_convertvector(value | ((bits >> 16) & 0x8000U), H));
#endif
}
RL_INLINE F load(const float* p) {
  return load_as<F>(p);
}
RL_INLINE F load(const bf16_t* p) {
  return bits_as<F>(__builtin_convertvector(load_as<H>(p), U) << 16);
}
RL_INLINE void store(float* p, F v) {
  store_as(p, v);
}
RL_INLINE void store(bf16_t* p, F v) {
  store_as(p, __builtin_convertvector(bits_as<U>(round_to_bf16(v)) >> 16, H));
}

RL_INLINE float to_float(float x) {
  return x;
}
RL_INLINE float to_float(bf16_t x) {
  return bits_as<float>(static_cast<uint32_t>(x) << 16);
}
// One element at a time by way of a vector: only in tails.
RL_INLINE float to_float(f16_t x) {
  f16_t lanes[kLanes] = {x};
  return load(lanes)[0];
}
RL_INLINE void from_float(float x, f16_t* p) {
  f16_t lanes[kLanes];
  store(lanes, splat(x));
  *p = lanes[0];
}
RL_INLINE void from_float(float x, float* p) {
  *p = x;
}
RL_INLINE void from_float(float x, bf16_t* p) {
  const uint32_t u = bits_as<uint32_t>(x);
  *p = static_cast<bf16_t>((x == x ? u + 0x7fffU + ((u >> 16) & 1U) : u | 0x400000U) >> 16);
}

// Numbers of lanes, as a parameter pack for constant shuffles.
template <int... L>
struct Lanes {};
#if defined(__AVX512F__)
using AllLanes = Lanes<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15>;
#elif defined(__AVX2__)
using AllLanes = Lanes<0, 1, 2, 3, 4, 5, 6, 7>;
#else
using AllLanes = Lanes<0, 1, 2, 3>;
#endif

// One step of a transposition: exchanges the blocks of `step` lanes off the diagonal of rows a and b.
template <int step, int... L>
RL_INLINE void exchange_blocks(U& a, U& b, Lanes<L...>) {
  const U upper = __builtin_shufflevector(a, b, ((L & step) != 0 ? kLanes + L - step : L)...);
  const U lower = __builtin_shufflevector(a, b, ((L & step) != 0 ? kLanes + L : L + step)...);
  a = upper;
  b = lower;
}
template <int step>
RL_INLINE void exchange_all(U* rows) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if ((i & step) == 0) exchange_blocks<step>(rows[i], rows[i + step], AllLanes{});
  }
}
// Transposes kLanes x kLanes words in place.
RL_INLINE void transpose(U (&rows)[kLanes]) {
  if constexpr (kLanes == 16) exchange_all<8>(rows);
  if constexpr (kLanes >= 8) exchange_all<4>(rows);
  exchange_all<2>(rows);
  exchange_all<1>(rows);
}

// 2^x for x <= 128, relative error below 2e-7; exactly 1 at 0, and 0 below 2^-125 where AVX-512 has no subnormals to
// offer either. Polynomial: minimax of relative error on [0, 1) with the constant fixed to 1.
RL_INLINE F exp2(F x) {
  constexpr float c1 = 0x1.62e4bap-1F, c2 = 0x1.ebdb56p-3F, c3 = 0x1.c91ce6p-5F, c4 = 0x1.277856p-7F,
                  c5 = 0x1.e974fap-10F;
#if defined(__AVX512F__)
  constexpr int kFloor = 0x09;  // x - floor(x), no exceptions
  const F f = _mm512_reduce_ps(x, kFloor);
#else
  const F clamped = max(splat(-125.0F), x);
#if defined(__AVX2__)
  const F whole = _mm256_floor_ps(clamped);
#else
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23
  F whole = (clamped + kRound) - kRound;
  whole = whole > clamped ? whole - 1.0F : whole;
#endif
  const F f = clamped - whole;
#endif
  F p = fma(splat(c5), f, splat(c4));
  p = fma(p, f, splat(c3));
  p = fma(p, f, splat(c2));
  p = fma(p, f, splat(c1));
  p = fma(p, f, splat(1.0F));
#if defined(__AVX512F__)
  return _mm512_scalef_ps(p, x);
#else
  const I exponent = __builtin_convertvector(whole == whole ? whole : splat(0.0F), I) << 23;
  const F value = bits_as<F>(bits_as<I>(p) + exponent);
  return x < splat(-125.0F) ? splat(0.0F) : value;
#endif
}

}  // namespace
}  // namespace ridgeline::ops::cpu

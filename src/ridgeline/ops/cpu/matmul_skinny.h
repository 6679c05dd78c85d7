// A few rows of A times B as it lies in memory: generation, where reading B once is all the time there is. Plain C++ on
// vector types, compiled anew in each kernel's translation unit. Internal linkage: see matmul_kernel.h.
#pragma once

#include <cstdint>

#if defined(__F16C__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "ridgeline/ops/cpu/matmul_kernel.h"

namespace ridgeline::ops::cpu {
namespace {

#if defined(__AVX512F__)
constexpr int kSkinnyBytes = 64;
#elif defined(__AVX2__)
constexpr int kSkinnyBytes = 32;
#else
constexpr int kSkinnyBytes = 16;
#endif
constexpr int kSkinnyLanes = kSkinnyBytes / 4;

using SkinnyFloats = float __attribute__((vector_size(kSkinnyBytes)));
using SkinnyWords = uint32_t __attribute__((vector_size(kSkinnyBytes)));
using SkinnyHalves = uint16_t __attribute__((vector_size(kSkinnyBytes / 2)));

inline SkinnyFloats skinny_load(const float* from) {
  SkinnyFloats value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}
inline SkinnyFloats skinny_load(const uint16_t* from) {
  SkinnyHalves halves;
  __builtin_memcpy(&halves, from, sizeof halves);
  const SkinnyWords words = __builtin_convertvector(halves, SkinnyWords) << 16;
  SkinnyFloats value;
  __builtin_memcpy(&value, &words, sizeof value);
  return value;
}
struct SkinnyHalf {  // storage of an IEEE binary16
  uint16_t bits;
};

// Same bits as the conversion of ridgeline::f16.
inline float skinny_element(SkinnyHalf half) {
  const uint32_t magnitude = half.bits & 0x7fffU;
  const float small = static_cast<float>(magnitude) * 0x1p-24F;
  uint32_t word;
  __builtin_memcpy(&word, &small, sizeof word);
  if (magnitude >= 0x400U) word = (magnitude << 13) + 0x38000000U;
  if (magnitude >= 0x7c00U) word = 0x7f800000U | (magnitude << 13) | (magnitude > 0x7c00U ? 0x400000U : 0U);
  word |= static_cast<uint32_t>(half.bits & 0x8000U) << 16;
  float value;
  __builtin_memcpy(&value, &word, sizeof value);
  return value;
}
inline SkinnyFloats skinny_load(const SkinnyHalf* from) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__F16C__)
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
  SkinnyFloats value;
  for (int lane = 0; lane < kSkinnyLanes; ++lane) value[lane] = skinny_element(from[lane]);
  return value;
#endif
}
inline float skinny_element(float value) {
  return value;
}
inline float skinny_element(uint16_t bits) {
  const uint32_t word = static_cast<uint32_t>(bits) << 16;
  float value;
  __builtin_memcpy(&value, &word, sizeof value);
  return value;
}

// sums[Rows][Columns] of dot products along contiguous k: lane sums in order of k, then the lanes in order, then what
// is left.
template <int Rows, int Columns, typename T>
void skinny_dots(const float* a, int64_t lda, const T* b, int64_t ldb, int64_t k, float* sums, int64_t ld) {
  SkinnyFloats total[Rows][Columns] = {};
  int64_t i = 0;
  for (; i + kSkinnyLanes <= k; i += kSkinnyLanes) {
    SkinnyFloats y[Columns];
#pragma GCC unroll 8
    for (int column = 0; column < Columns; ++column) y[column] = skinny_load(b + column * ldb + i);
#pragma GCC unroll 4
    for (int row = 0; row < Rows; ++row) {
      const SkinnyFloats x = skinny_load(a + row * lda + i);
#pragma GCC unroll 8
      for (int column = 0; column < Columns; ++column) total[row][column] += x * y[column];
    }
  }
  for (int row = 0; row < Rows; ++row) {
    for (int column = 0; column < Columns; ++column) {
      float sum = 0.0F;
      for (int lane = 0; lane < kSkinnyLanes; ++lane) sum += total[row][column][lane];
      for (int64_t j = i; j < k; ++j) sum += a[row * lda + j] * skinny_element(b[column * ldb + j]);
      sums[row * ld + column] = sum;
    }
  }
}

// sums[Rows][Vectors * lanes] along contiguous columns: rows of B scaled and added.
template <int Rows, int Vectors, typename T>
void skinny_rows(const float* a, int64_t lda, const T* b, int64_t ldb, int64_t k, float* sums, int64_t ld) {
  SkinnyFloats total[Rows][Vectors] = {};
  for (int64_t i = 0; i < k; ++i, b += ldb) {
    SkinnyFloats y[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) y[v] = skinny_load(b + v * kSkinnyLanes);
#pragma GCC unroll 4
    for (int row = 0; row < Rows; ++row) {
      const float x = a[row * lda + i];
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) total[row][v] += x * y[v];
    }
  }
  for (int row = 0; row < Rows; ++row) {
    for (int v = 0; v < Vectors; ++v)
      __builtin_memcpy(sums + row * ld + v * kSkinnyLanes, &total[row][v], kSkinnyBytes);
  }
}

template <int Rows, typename T>
void skinny_part(const Skinny& p, int64_t row) {
  const float* a = p.a + row * p.k;
  const T* b = static_cast<const T*>(p.b);
  float* sums = p.sums + row * p.ld_sums;
  constexpr int kColumns = Rows == 1 ? 8 : 4;
  int64_t j = 0;
  if (p.b_k_contiguous) {
    for (; j + kColumns <= p.n; j += kColumns) {
      skinny_dots<Rows, kColumns>(a, p.k, b + j * p.ldb, p.ldb, p.k, sums + j, p.ld_sums);
    }
    for (; j < p.n; ++j) skinny_dots<Rows, 1>(a, p.k, b + j * p.ldb, p.ldb, p.k, sums + j, p.ld_sums);
    return;
  }
  constexpr int64_t kWidth = kColumns * kSkinnyLanes;
  for (; j + kWidth <= p.n; j += kWidth) skinny_rows<Rows, kColumns>(a, p.k, b + j, p.ldb, p.k, sums + j, p.ld_sums);
  for (; j + kSkinnyLanes <= p.n; j += kSkinnyLanes) {
    skinny_rows<Rows, 1>(a, p.k, b + j, p.ldb, p.k, sums + j, p.ld_sums);
  }
  for (; j < p.n; ++j) {
    for (int i = 0; i < Rows; ++i) {
      float sum = 0.0F;
      for (int64_t k = 0; k < p.k; ++k) sum += a[i * p.k + k] * skinny_element(b[k * p.ldb + j]);
      sums[i * p.ld_sums + j] = sum;
    }
  }
}

template <typename T>
void skinny_of(const Skinny& p) {
  int64_t row = 0;
  for (; row + 4 <= p.m; row += 4) skinny_part<4, T>(p, row);
  for (; row < p.m; ++row) skinny_part<1, T>(p, row);
}

void multiply_skinny(const Skinny& p) {
  if (p.b_dtype == DType::f16) {
    skinny_of<SkinnyHalf>(p);
  } else if (p.b_dtype == DType::bf16) {
    skinny_of<uint16_t>(p);
  } else {
    skinny_of<float>(p);
  }
}

}  // namespace
}  // namespace ridgeline::ops::cpu

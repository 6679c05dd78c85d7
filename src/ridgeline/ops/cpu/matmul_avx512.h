// Packing and finishing with AVX-512, shared by the three kernels that have it. Internal linkage: see matmul_kernel.h.
#pragma once

#include <immintrin.h>

#include "ridgeline/ops/cpu/matmul_avx2.h"
#include "ridgeline/ops/cpu/matmul_generic.h"

namespace ridgeline::ops::cpu {
namespace {

inline __mmask16 first_lanes(int64_t count) {
  return count >= 16 ? __mmask16{0xffff} : count <= 0 ? __mmask16{0} : static_cast<__mmask16>((1U << count) - 1U);
}

inline __m512 widen_lanes(__m256i bits) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

// Each lane rounded to bf16 in its upper half, as narrow() does; the lower half is undefined.
inline __m512i round_lanes(__m512 value) {
  const __m512i bits = _mm512_castps_si512(value);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
  return _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
}

inline __m512 load_elements(const void* data, DType dtype, int64_t at, __mmask16 mask) {
  if (dtype == DType::bf16) return widen_lanes(_mm256_maskz_loadu_epi16(mask, static_cast<const uint16_t*>(data) + at));
  return _mm512_maskz_loadu_ps(mask, static_cast<const float*>(data) + at);
}

inline __mmask32 first_words(int64_t count) {
  return count >= 32 ? __mmask32{0xffffffffU} : count <= 0 ? __mmask32{0} : static_cast<__mmask32>((1U << count) - 1U);
}

// Four 128-bit pieces `stride` bytes apart as one vector. With a memory operand an insertion needs no shuffle port.
inline __m512i gather_pieces(const char* at, int64_t stride) {
  __m512i x = _mm512_castsi128_si512(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
  x = _mm512_inserti32x4(x, _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + stride)), 1);
  x = _mm512_inserti32x4(x, _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + 2 * stride)), 2);
  return _mm512_inserti32x4(x, _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + 3 * stride)), 3);
}

// out[16][16] from in[16][16], 32-bit elements (or pairs of bf16) with `in_stride` and `out_stride` bytes between rows:
// piece q of vector r holds row 4 q + r, and a 4 x 4 transposition within each quarter puts rows 4 q … 4 q + 3 of one
// column there.
inline void transpose_16x16(const char* in, int64_t in_stride, char* out, int64_t out_stride) {
#pragma GCC unroll 4
  for (int piece = 0; piece < 4; ++piece) {
    const char* from = in + piece * 16;
    const __m512i x0 = gather_pieces(from, 4 * in_stride), x1 = gather_pieces(from + in_stride, 4 * in_stride);
    const __m512i x2 = gather_pieces(from + 2 * in_stride, 4 * in_stride);
    const __m512i x3 = gather_pieces(from + 3 * in_stride, 4 * in_stride);
    const __m512i p = _mm512_unpacklo_epi32(x0, x1), q = _mm512_unpackhi_epi32(x0, x1);
    const __m512i s = _mm512_unpacklo_epi32(x2, x3), u = _mm512_unpackhi_epi32(x2, x3);
    char* line = out + piece * 4 * out_stride;
    _mm512_storeu_si512(line, _mm512_unpacklo_epi64(p, s));
    _mm512_storeu_si512(line + out_stride, _mm512_unpackhi_epi64(p, s));
    _mm512_storeu_si512(line + 2 * out_stride, _mm512_unpacklo_epi64(q, u));
    _mm512_storeu_si512(line + 3 * out_stride, _mm512_unpackhi_epi64(q, u));
  }
}

// The last step for a tile of sums [rows][Vectors * 16].
template <int Vectors, bool Carry, bool Bias, bool Residual, DType Out>
void finish_tile_as(const Finish& f, int64_t rows, int64_t column, int64_t columns, const float* sums) {
  for (int64_t row = 0; row < rows; ++row, sums += Vectors * 16) {
#pragma GCC unroll 3
    for (int v = 0; v < Vectors; ++v) {
      const int64_t from = column + 16 * v, at = row * f.ld_out + from;
      const __mmask16 mask = first_lanes(columns - 16 * v);
      __m512 x = _mm512_loadu_ps(sums + 16 * v);
      if (Carry) x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(mask, f.carry + row * f.ld_carry + from));
      if (Bias) x = _mm512_add_ps(x, load_elements(f.bias, f.bias_dtype, from, mask));
      if (Out == DType::bf16) {
        __m512i bits = round_lanes(x);
        if (Residual) {
          const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000U));
          bits = round_lanes(_mm512_add_ps(_mm512_castsi512_ps(_mm512_and_si512(bits, upper)),
                                           load_elements(f.residual, DType::bf16, at, mask)));
        }
        _mm256_mask_storeu_epi16(static_cast<uint16_t*>(f.out) + at, mask,
                                 _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16)));
      } else {
        if (Residual) x = _mm512_add_ps(x, load_elements(f.residual, DType::f32, at, mask));
        _mm512_mask_storeu_ps(static_cast<float*>(f.out) + at, mask, x);
      }
    }
  }
}

template <int Vectors, bool Carry, bool Bias>
void finish_tile_as(const Finish& f, int64_t rows, int64_t column, int64_t columns, const float* sums) {
  const bool residual = f.residual != nullptr;
  if (f.out_dtype == DType::bf16) {
    (residual ? finish_tile_as<Vectors, Carry, Bias, true, DType::bf16>
              : finish_tile_as<Vectors, Carry, Bias, false, DType::bf16>)(f, rows, column, columns, sums);
  } else {
    (residual ? finish_tile_as<Vectors, Carry, Bias, true, DType::f32>
              : finish_tile_as<Vectors, Carry, Bias, false, DType::f32>)(f, rows, column, columns, sums);
  }
}

template <int Vectors>
void finish_tile_512(const Finish& f, int64_t rows, int64_t column, int64_t columns, const float* sums) {
  if (f.carry != nullptr) {
    (f.bias != nullptr ? finish_tile_as<Vectors, true, true> : finish_tile_as<Vectors, true, false>)(f, rows, column,
                                                                                                     columns, sums);
  } else {
    (f.bias != nullptr ? finish_tile_as<Vectors, false, true> : finish_tile_as<Vectors, false, false>)(f, rows, column,
                                                                                                       columns, sums);
  }
}

// What matmul_tile.h asks for, but for the steps themselves.
struct Tile512 {
  using Vector = __m512;
  static constexpr int kLanes = 16, kRows = 8, kVectors = 3, kCols = kVectors * kLanes, kBeat = 8, kAtOnce = 1;
  static Vector zero() { return _mm512_setzero_ps(); }
  static Vector load(const float* from) { return _mm512_loadu_ps(from); }
  static Vector add(Vector x, Vector y) { return _mm512_add_ps(x, y); }
  static void store(float* to, Vector x) { _mm512_storeu_ps(to, x); }
  static void finish(const Finish& f, int64_t rows, int64_t column, int64_t columns, const float* sums) {
    finish_tile_512<kVectors>(f, rows, column, columns, sums);
  }
};

}  // namespace
}  // namespace ridgeline::ops::cpu

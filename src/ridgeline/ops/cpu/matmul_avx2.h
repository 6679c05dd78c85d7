// Transpositions of 32-bit words (fp32, or pairs of bf16) with AVX2, shared by the kernels that have it. Internal
// linkage: see matmul_kernel.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace ridgeline::ops::cpu {
namespace {

// Four words of row `row` and of row `row + 4`, where the block has it, as one vector. With a memory operand an
// insertion needs no shuffle port.
template <int Rows>
inline __m256i gather_rows(const char* in, int64_t stride, int row) {
  const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + row * stride));
  if (row + 4 >= Rows) return _mm256_zextsi128_si256(low);
  return _mm256_inserti128_si256(_mm256_castsi128_si256(low),
                                 _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + (row + 4) * stride)), 1);
}

// out[i]: word i of each of `Rows` <= 8 rows of four words, `stride` bytes apart; lanes without a row are 0.
template <int Rows>
inline void transpose_rows_of_4(const char* in, int64_t stride, __m256i (&out)[4]) {
  const __m256i x0 = gather_rows<Rows>(in, stride, 0), x1 = gather_rows<Rows>(in, stride, 1);
  const __m256i x2 = gather_rows<Rows>(in, stride, 2), x3 = gather_rows<Rows>(in, stride, 3);
  const __m256i p = _mm256_unpacklo_epi32(x0, x1), q = _mm256_unpackhi_epi32(x0, x1);
  const __m256i s = _mm256_unpacklo_epi32(x2, x3), u = _mm256_unpackhi_epi32(x2, x3);
  out[0] = _mm256_unpacklo_epi64(p, s);
  out[1] = _mm256_unpackhi_epi64(p, s);
  out[2] = _mm256_unpacklo_epi64(q, u);
  out[3] = _mm256_unpackhi_epi64(q, u);
}

}  // namespace
}  // namespace ridgeline::ops::cpu

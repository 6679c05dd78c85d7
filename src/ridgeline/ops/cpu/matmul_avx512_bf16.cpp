// Matrix-product kernel for AVX512-BF16: bf16 pairs with fp32 accumulation by vdpbf16ps, register tiles of 8 x 48.
#include "ridgeline/ops/cpu/matmul_avx512.h"

namespace ridgeline::ops::cpu {
namespace {

constexpr int kRows = 8, kVectors = 3, kCols = 16 * kVectors;

inline __m512bh load_pairs(const uint32_t* pairs) {
  return (__m512bh)_mm512_loadu_si512(pairs);
}

void multiply_tile(int64_t k, const void* a_panel, const void* b_panel, float* sums, bool add) {
  const auto* a = static_cast<const uint32_t*>(a_panel);
  const auto* b = static_cast<const uint32_t*>(b_panel);
  __m512 c[kRows][kVectors];
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) c[row][v] = _mm512_setzero_ps();
  }
#pragma GCC unroll 4
  for (int64_t i = 0; i < k; i += 2) {
    const __m512bh b0 = load_pairs(b), b1 = load_pairs(b + 16), b2 = load_pairs(b + 32);
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      const __m512bh x = (__m512bh)_mm512_set1_epi32(static_cast<int>(a[row]));
      c[row][0] = _mm512_dpbf16_ps(c[row][0], x, b0);
      c[row][1] = _mm512_dpbf16_ps(c[row][1], x, b1);
      c[row][2] = _mm512_dpbf16_ps(c[row][2], x, b2);
    }
    a += kRows;
    b += kCols;
  }
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
    float* out = sums + row * kCols;
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) {
      if (add) c[row][v] = _mm512_add_ps(c[row][v], _mm512_loadu_ps(out + 16 * v));
      _mm512_storeu_ps(out + 16 * v, c[row][v]);
    }
  }
}

constexpr MatmulKernel kKernel{.mr = kRows,
                               .nr = kCols,
                               .k_unit = 2,
                               .packed_bytes = 2,
                               .mb = 192,
                               .nb = 384,
                               .b_bytes = 524288,
                               .kb = 768,
                               .kb_alone = 1024,
                               .packs_ahead = false,
                               .begin = nullptr,
                               .end = nullptr,
                               .pack_a = pack_pairs<kRows>,
                               .pack_b = pack_pairs<kCols>,
                               .row_sums = row_sums_of_pairs<kRows>,
                               .multiply = multiply_strip<kRows, kCols, multiply_tile, finish_tile_512<kVectors>>,
                               .skinny = multiply_skinny,
                               .finish = finish_rows};

}  // namespace

const MatmulKernel& matmul_kernel_avx512_bf16() {
  return kKernel;
}

}  // namespace ridgeline::ops::cpu

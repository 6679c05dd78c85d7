// Matrix-product kernel for AVX2 + FMA: fp32 register tiles of 6 x 16; bf16 operands are widened while packing.
#include <immintrin.h>

#include "ridgeline/ops/cpu/matmul_generic.h"

namespace ridgeline::ops::cpu {
namespace {

constexpr int kRows = 6, kCols = 16;

void multiply_tile(int64_t k, const void* a_panel, const void* b_panel, float* sums, bool add) {
  const auto* a = static_cast<const float*>(a_panel);
  const auto* b = static_cast<const float*>(b_panel);
  __m256 c[kRows][2];
#pragma GCC unroll 6
  for (int row = 0; row < kRows; ++row) c[row][0] = c[row][1] = _mm256_setzero_ps();
  for (int64_t i = 0; i < k; ++i, a += kRows, b += kCols) {
    const __m256 b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + 8);
#pragma GCC unroll 6
    for (int row = 0; row < kRows; ++row) {
      const __m256 x = _mm256_broadcast_ss(a + row);
      c[row][0] = _mm256_fmadd_ps(x, b0, c[row][0]);
      c[row][1] = _mm256_fmadd_ps(x, b1, c[row][1]);
    }
  }
#pragma GCC unroll 6
  for (int row = 0; row < kRows; ++row) {
    float* out = sums + row * kCols;
    if (add) {
      c[row][0] = _mm256_add_ps(c[row][0], _mm256_loadu_ps(out));
      c[row][1] = _mm256_add_ps(c[row][1], _mm256_loadu_ps(out + 8));
    }
    _mm256_storeu_ps(out, c[row][0]);
    _mm256_storeu_ps(out + 8, c[row][1]);
  }
}

constexpr MatmulKernel kKernel{.mr = kRows,
                               .nr = kCols,
                               .k_unit = 1,
                               .packed_bytes = 4,
                               .mb = 96,
                               .nb = 192,
                               .b_bytes = 262144,
                               .kb = 256,
                               .kb_alone = 320,
                               .begin = nullptr,
                               .end = nullptr,
                               .pack_a = pack_as_floats<kRows>,
                               .pack_b = pack_as_floats<kCols>,
                               .row_sums = row_sums_of_floats<kRows>,
                               .multiply = multiply_strip<kRows, kCols, multiply_tile, finish_tile<kCols>>,
                               .skinny = multiply_skinny,
                               .finish = finish_rows};

}  // namespace

const MatmulKernel& matmul_kernel_avx2(bool /*bf16*/) {
  return kKernel;
}

}  // namespace ridgeline::ops::cpu

// Matrix-product kernel for AVX-512: fp32 register tiles of 8 x 48; bf16 operands are widened while packing.
#include "ridgeline/ops/cpu/matmul_avx512.h"

namespace ridgeline::ops::cpu {
namespace {

constexpr int kRows = 8, kVectors = 3, kCols = 16 * kVectors;

void multiply_tile(int64_t k, const void* a_panel, const void* b_panel, float* sums, bool add) {
  const auto* a = static_cast<const float*>(a_panel);
  const auto* b = static_cast<const float*>(b_panel);
  __m512 c[kRows][kVectors];
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) c[row][v] = _mm512_setzero_ps();
  }
#pragma GCC unroll 4
  for (int64_t i = 0; i < k; ++i) {
    const __m512 b0 = _mm512_loadu_ps(b), b1 = _mm512_loadu_ps(b + 16), b2 = _mm512_loadu_ps(b + 32);
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      const __m512 x = _mm512_set1_ps(a[row]);
      c[row][0] = _mm512_fmadd_ps(x, b0, c[row][0]);
      c[row][1] = _mm512_fmadd_ps(x, b1, c[row][1]);
      c[row][2] = _mm512_fmadd_ps(x, b2, c[row][2]);
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

template <int Lanes>
void pack(const PanelSource& source, void* panel) {
  if (source.dtype == DType::bf16) {
    pack_as_floats<Lanes>(source, panel);
  } else if (source.k_contiguous) {
    pack_words_k_contiguous<Lanes>(static_cast<const uint32_t*>(source.data), source.ld, source.lanes, source.k,
                                   static_cast<uint32_t*>(panel));
  } else {
    pack_floats_lanes_contiguous<Lanes>(static_cast<const float*>(source.data), source.ld, source.lanes, source.k,
                                        static_cast<float*>(panel));
  }
}

constexpr MatmulKernel kKernel{.mr = kRows,
                               .nr = kCols,
                               .k_unit = 1,
                               .packed_bytes = 4,
                               .mb = 192,
                               .nb = 384,
                               .b_bytes = 1048576,
                               .kb = 384,
                               .kb_alone = 512,
                               .packs_ahead = false,
                               .begin = nullptr,
                               .end = nullptr,
                               .pack_a = pack<kRows>,
                               .pack_b = pack<kCols>,
                               .row_sums = row_sums_of_floats<kRows>,
                               .multiply = multiply_strip<kRows, kCols, multiply_tile, finish_tile_512<kVectors>>,
                               .skinny = multiply_skinny,
                               .finish = finish_rows};

}  // namespace

const MatmulKernel& matmul_kernel_avx512() {
  return kKernel;
}

}  // namespace ridgeline::ops::cpu

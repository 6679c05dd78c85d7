// Matrix-product kernel for AVX512-BF16: bf16 pairs with fp32 accumulation by vdpbf16ps, register tiles of 8 x 48.
#include "ridgeline/ops/cpu/matmul_avx512.h"
#include "ridgeline/ops/cpu/matmul_tile.h"

namespace ridgeline::ops::cpu {
namespace {

struct Tile : Tile512 {
  static constexpr bool kPairs = true;
  static __m512bh load_words(const uint32_t* from) { return (__m512bh)_mm512_loadu_si512(from); }
  template <int Steps>
  RL_ALWAYS_INLINE static void multiply(const uint32_t* a, const uint32_t* b, Vector (&c)[kRows][kVectors]) {
    static_assert(Steps == 1);
    const __m512bh b0 = load_words(b), b1 = load_words(b + 16), b2 = load_words(b + 32);
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      const auto x = (__m512bh)_mm512_set1_epi32(static_cast<int>(a[row]));
      c[row][0] = _mm512_dpbf16_ps(c[row][0], x, b0);
      c[row][1] = _mm512_dpbf16_ps(c[row][1], x, b1);
      c[row][2] = _mm512_dpbf16_ps(c[row][2], x, b2);
    }
  }
};

template <int Lanes>
void pack(const PanelSource& source, void* panel) {
  pack_as<Lanes, Pairs>(source, static_cast<float*>(panel));
}

constexpr MatmulKernel kKernel{.mr = Tile::kRows,
                               .nr = Tile::kCols,
                               .k_unit = 2,
                               .packed_bytes = 2,
                               .mb = 48,
                               .nb = 384,
                               .b_bytes = 442368,
                               .kb = 768,
                               .kb_alone = 1024,
                               .ahead_lanes = Tile::kLanes,
                               .begin = nullptr,
                               .end = nullptr,
                               .pack_a = pack<Tile::kRows>,
                               .pack_b = pack<Tile::kCols>,
                               .row_sums = row_sums_of_pairs<Tile::kRows>,
                               .multiply = multiply_tiles<Tile>,
                               .skinny = multiply_skinny,
                               .finish = finish_rows};

}  // namespace

const MatmulKernel& matmul_kernel_avx512_bf16() {
  return kKernel;
}

}  // namespace ridgeline::ops::cpu

// Matrix-product kernel for AVX-512: fp32 register tiles of 8 x 48; bf16 operands are widened while packing.
#include "ridgeline/ops/cpu/matmul_avx512.h"

#include "ridgeline/ops/cpu/matmul_tile.h"

namespace ridgeline::ops::cpu {
namespace {

struct Tile : Tile512 {
  static constexpr bool kPairs = false;
  static Vector load_words(const uint32_t* from) { return _mm512_castsi512_ps(_mm512_loadu_si512(from)); }
  template <int Steps>
  RL_ALWAYS_INLINE static void multiply(const uint32_t* a, const uint32_t* b, Vector (&c)[kRows][kVectors]) {
    static_assert(Steps == 1);
    const Vector b0 = load_words(b), b1 = load_words(b + 16), b2 = load_words(b + 32);
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      const Vector x = _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(a[row])));
      c[row][0] = _mm512_fmadd_ps(x, b0, c[row][0]);
      c[row][1] = _mm512_fmadd_ps(x, b1, c[row][1]);
      c[row][2] = _mm512_fmadd_ps(x, b2, c[row][2]);
    }
  }
};

constexpr MatmulKernel kKernel{.mr = Tile::kRows,
                               .nr = Tile::kCols,
                               .k_unit = 1,
                               .packed_bytes = 4,
                               .mb = 48,
                               .nb = 384,
                               .b_bytes = 442368,
                               .kb = 384,
                               .kb_alone = 512,
                               .ahead_lanes = Tile::kLanes,
                               .begin = nullptr,
                               .end = nullptr,
                               .pack_a = pack_vectors<Tile::kRows>,
                               .pack_b = pack_vectors<Tile::kCols>,
                               .row_sums = row_sums_of_floats<Tile::kRows>,
                               .multiply = multiply_tiles<Tile>,
                               .skinny = multiply_skinny,
                               .finish = finish_rows};

}  // namespace

const MatmulKernel& matmul_kernel_avx512() {
  return kKernel;
}

}  // namespace ridgeline::ops::cpu

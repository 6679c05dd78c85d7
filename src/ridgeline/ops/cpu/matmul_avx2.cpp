// Matrix-product kernel for AVX2 + FMA: fp32 register tiles of 6 x 16; bf16 operands are widened while packing.
#include "ridgeline/ops/cpu/matmul_avx2.h"

#include "ridgeline/ops/cpu/matmul_tile.h"

namespace ridgeline::ops::cpu {
namespace {

constexpr int kRows = 6, kCols = 16;

// `Steps` (1 or 8) steps of k in exactly 20 instructions each: given intrinsics, compilers move sums between registers.
// clang-format off
#define RL_LEFT(step, row) #step "*24+" #row "*4(%[a])"
#define RL_TWO_ROWS(step, row, next)                  \
  "vbroadcastss " RL_LEFT(step, row) ", %[x]\n\t"     \
  "vbroadcastss " RL_LEFT(step, next) ", %[y]\n\t"    \
  "vfmadd231ps %[b0], %[x], %[c" #row "0]\n\t"        \
  "vfmadd231ps %[b1], %[x], %[c" #row "1]\n\t"        \
  "vfmadd231ps %[b0], %[y], %[c" #next "0]\n\t"       \
  "vfmadd231ps %[b1], %[y], %[c" #next "1]\n\t"
#define RL_STEP(step)                                 \
  "vmovups " #step "*64(%[b]), %[b0]\n\t"             \
  "vmovups " #step "*64+32(%[b]), %[b1]\n\t"          \
  RL_TWO_ROWS(step, 0, 1)                             \
  RL_TWO_ROWS(step, 2, 3)                             \
  RL_TWO_ROWS(step, 4, 5)
#define RL_OPERANDS                                                                                 \
  : [b0] "=&x"(b0), [b1] "=&x"(b1), [x] "=&x"(x), [y] "=&x"(y),                                     \
    [c00] "+x"(c[0][0]), [c01] "+x"(c[0][1]), [c10] "+x"(c[1][0]), [c11] "+x"(c[1][1]),             \
    [c20] "+x"(c[2][0]), [c21] "+x"(c[2][1]), [c30] "+x"(c[3][0]), [c31] "+x"(c[3][1]),             \
    [c40] "+x"(c[4][0]), [c41] "+x"(c[4][1]), [c50] "+x"(c[5][0]), [c51] "+x"(c[5][1])              \
  : [a] "r"(a), [b] "r"(b)                                                                          \
  : "memory"
// clang-format on
template <int Steps>
RL_ALWAYS_INLINE void multiply_steps(const uint32_t* a, const uint32_t* b, __m256 (&c)[kRows][2]) {
  static_assert(kRows == 6 && kCols == 16 && (Steps == 1 || Steps == 8));
  __m256 b0, b1, x, y;
  if (Steps == 8) {
    __asm__(RL_STEP(0) RL_STEP(1) RL_STEP(2) RL_STEP(3) RL_STEP(4) RL_STEP(5) RL_STEP(6) RL_STEP(7) RL_OPERANDS);
  } else {
    __asm__(RL_STEP(0) RL_OPERANDS);
  }
}
#undef RL_OPERANDS
#undef RL_STEP
#undef RL_TWO_ROWS
#undef RL_LEFT

inline __m256 load_bf16(const uint16_t* in) {
  return _mm256_castsi256_ps(load_lanes<8, Widened>(reinterpret_cast<const char*>(in), 0));
}

// Each lane rounded to bf16 in its upper half, as narrow() does; the lower half is undefined.
inline __m256i round_lanes(__m256 value) {
  const __m256i bits = _mm256_castps_si256(value);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256 nan = _mm256_cmp_ps(value, value, _CMP_UNORD_Q);
  return _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(nan));
}

inline __m256 load_elements(const void* data, DType dtype, int64_t at) {
  return dtype == DType::bf16 ? load_bf16(static_cast<const uint16_t*>(data) + at)
                              : _mm256_loadu_ps(static_cast<const float*>(data) + at);
}

// Eight columns of one row.
inline void finish_lanes(const Finish& f, int64_t row, int64_t column, const float* sums) {
  const int64_t at = row * f.ld_out + column;
  __m256 x = _mm256_loadu_ps(sums);
  if (f.carry != nullptr) x = _mm256_add_ps(x, _mm256_loadu_ps(f.carry + row * f.ld_carry + column));
  if (f.bias != nullptr) x = _mm256_add_ps(x, load_elements(f.bias, f.bias_dtype, column));
  if (f.out_dtype != DType::bf16) {
    if (f.residual != nullptr) x = _mm256_add_ps(x, load_elements(f.residual, DType::f32, at));
    return _mm256_storeu_ps(static_cast<float*>(f.out) + at, x);
  }
  __m256i bits = round_lanes(x);
  if (f.residual != nullptr) {
    const __m256i upper = _mm256_and_si256(bits, _mm256_set1_epi32(static_cast<int>(0xffff0000U)));
    bits = round_lanes(_mm256_add_ps(_mm256_castsi256_ps(upper), load_elements(f.residual, DType::bf16, at)));
  }
  bits = _mm256_srli_epi32(bits, 16);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(static_cast<uint16_t*>(f.out) + at),
                   _mm_packus_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1)));
}

void finish_tile_avx2(const Finish& f, int64_t rows, int64_t column, int64_t columns, const float* sums) {
  if (columns < kCols) return finish_tile<kCols>(f, rows, column, columns, sums);
  for (int64_t row = 0; row < rows; ++row, sums += kCols) {
    finish_lanes(f, row, column, sums);
    finish_lanes(f, row, column + 8, sums + 8);
  }
}

struct Tile {
  using Vector = __m256;
  static constexpr int kLanes = 8, kRows = cpu::kRows, kVectors = 2, kCols = cpu::kCols, kBeat = 16, kAtOnce = 8;
  static constexpr bool kPairs = false;
  static Vector zero() { return _mm256_setzero_ps(); }
  static Vector load(const float* from) { return _mm256_loadu_ps(from); }
  static Vector add(Vector x, Vector y) { return _mm256_add_ps(x, y); }
  static void store(float* to, Vector x) { _mm256_storeu_ps(to, x); }
  template <int Steps>
  RL_ALWAYS_INLINE static void multiply(const uint32_t* a, const uint32_t* b, Vector (&c)[kRows][kVectors]) {
    multiply_steps<Steps>(a, b, c);
  }
  static void finish(const Finish& f, int64_t rows, int64_t column, int64_t columns, const float* sums) {
    finish_tile_avx2(f, rows, column, columns, sums);
  }
};

constexpr MatmulKernel kKernel{.mr = kRows,
                               .nr = kCols,
                               .k_unit = 1,
                               .packed_bytes = 4,
                               .mb = 96,
                               .nb = 192,
                               .b_bytes = 294912,
                               .kb = 768,
                               .kb_alone = 768,
                               .ahead_lanes = 8,
                               .begin = nullptr,
                               .end = nullptr,
                               .pack_a = pack_vectors<kRows>,
                               .pack_b = pack_vectors<kCols>,
                               .row_sums = row_sums_of_floats<kRows>,
                               .multiply = multiply_tiles<Tile>,
                               .skinny = multiply_skinny,
                               .finish = finish_rows};

}  // namespace

const MatmulKernel& matmul_kernel_avx2() {
  return kKernel;
}

}  // namespace ridgeline::ops::cpu

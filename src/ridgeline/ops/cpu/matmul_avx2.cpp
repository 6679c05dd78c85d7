// Matrix-product kernel for AVX2 + FMA: fp32 register tiles of 6 x 16; bf16 operands are widened while packing.
#include "ridgeline/ops/cpu/matmul_avx2.h"

#include "ridgeline/ops/cpu/matmul_generic.h"

namespace ridgeline::ops::cpu {
namespace {

constexpr int kRows = 6, kCols = 16, kStepsPerLine = 16;

using Sums = __m256[kRows][2];

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
__attribute__((always_inline)) inline void multiply_steps(const float* a, const float* b, Sums& c) {
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

// c += rows of f32 in memory; `row` is the first of them.
__attribute__((always_inline)) inline void add_rows(const float* row, int64_t ld, Sums& c) {
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i, row += ld) {
    c[i][0] = _mm256_add_ps(c[i][0], _mm256_loadu_ps(row));
    c[i][1] = _mm256_add_ps(c[i][1], _mm256_loadu_ps(row + 8));
  }
}

__attribute__((always_inline)) inline void store_rows(float* row, int64_t ld, const Sums& c) {
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i, row += ld) {
    _mm256_storeu_ps(row, c[i][0]);
    _mm256_storeu_ps(row + 8, c[i][1]);
  }
}

// C in f32 straight from the registers. All is read before anything is written: where rows of C lie a multiple of 4 KiB
// apart, a read would wait for the write of the row before.
__attribute__((always_inline)) inline void write_rows(const Finish& f, int64_t column, Sums& c) {
  if (f.carry != nullptr) add_rows(f.carry + column, f.ld_carry, c);
  if (f.bias != nullptr) add_rows(static_cast<const float*>(f.bias) + column, 0, c);
  if (f.residual != nullptr) add_rows(static_cast<const float*>(f.residual) + column, f.ld_out, c);
  store_rows(static_cast<float*>(f.out) + column, f.ld_out, c);
}

// One step of k of the panel that is packed ahead, through general registers, which the product does not use.
__attribute__((always_inline)) inline void pack_step(PackAhead& ahead) {
  const bool k_contiguous = ahead.source.k_contiguous;
  const int64_t ld = ahead.source.ld, lane_step = k_contiguous ? ld : 1, k_step = k_contiguous ? 1 : ld;
  const auto* from = static_cast<const float*>(ahead.source.data);
  // Lanes that are contiguous share lines with the panel before; else 16 steps, a line of each row, take each row
  // twice.
  bring_near(
      reinterpret_cast<const char*>(from + ahead.soon + (k_contiguous ? ahead.source.k & 7 : kRows - 1) * lane_step));
  float* to = ahead.panel;
#pragma GCC unroll 6
  for (int lane = 0; lane < kRows; ++lane) {
    uint32_t word;
    __builtin_memcpy(&word, from + lane * lane_step, sizeof word);
    __builtin_memcpy(to + lane, &word, sizeof word);
  }
  ahead.source.data = from + k_step;
  ahead.panel += kRows;
  --ahead.source.k;
}

// 16 steps of k. Between them it brings a line of the next A panel near, from the last-level cache: six tiles (96
// columns) bring all of it.
__attribute__((always_inline)) inline void multiply_line(const float*& a, const float*& b, const char*& next, Sums& c) {
  __builtin_prefetch(next);
  multiply_steps<8>(a, b, c);
  multiply_steps<8>(a + 8 * kRows, b + 8 * kCols, c);
  a += kStepsPerLine * kRows;
  b += kStepsPerLine * kCols;
  next += 64;
}

// Packs `pack` steps of the panel ahead, one per 16. Ends in `sums`, or in C from `column` on if `finish`.
void multiply_tile(const Strip& strip, const void* b_panel, float* sums, const char* next, int64_t pack,
                   const Finish* finish, int64_t column) {
  const auto* a = static_cast<const float*>(strip.a);
  const auto* b = static_cast<const float*>(b_panel);
  Sums c;
#pragma GCC unroll 6
  for (int row = 0; row < kRows; ++row) c[row][0] = c[row][1] = _mm256_setzero_ps();
  int64_t k = strip.k;
  for (; k >= kStepsPerLine && pack > 0; k -= kStepsPerLine, --pack) {
    multiply_line(a, b, next, c);
    pack_step(*strip.ahead);
  }
  for (; k >= kStepsPerLine; k -= kStepsPerLine) multiply_line(a, b, next, c);
  for (; k > 0; --k, a += kRows, b += kCols) multiply_steps<1>(a, b, c);
  if (strip.add) add_rows(sums, kCols, c);
  if (finish != nullptr) return write_rows(*finish, column, c);
  store_rows(sums, kCols, c);
}

// The first `Lanes` lanes: 6, or 8.
template <int Lanes>
inline void store_lanes(float* out, __m256i lanes) {
  const __m256 x = _mm256_castsi256_ps(lanes);
  if (Lanes == 8) {
    _mm256_storeu_ps(out, x);
  } else {
    _mm_storeu_ps(out, _mm256_castps256_ps128(x));
    _mm_storel_pi(reinterpret_cast<__m64*>(out + 4), _mm256_extractf128_ps(x, 1));
  }
}

// Four words of k of each of `Rows` rows, to panel rows of `Lanes` floats.
template <int Rows, int Lanes>
inline void pack_words(const float* data, int64_t ld, float* out) {
  __m256i words[4];
  transpose_rows_of_4<Rows>(reinterpret_cast<const char*>(data), ld * 4, words);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) store_lanes<Rows>(out + i * Lanes, words[i]);
}
template <int Rows, int Lanes>
inline void pack_words(const uint16_t* data, int64_t ld, float* out) {
  __m256i words[4];
  transpose_rows_of_4<Rows>(reinterpret_cast<const char*>(data), ld * 2, words);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    store_lanes<Rows>(out + 2 * i * Lanes, _mm256_slli_epi32(words[i], 16));
    store_lanes<Rows>(out + (2 * i + 1) * Lanes,
                      _mm256_and_si256(words[i], _mm256_set1_epi32(static_cast<int>(0xffff0000U))));
  }
}

// Whole panels along contiguous k, a cache line of each row at a time: with rows 4 KiB apart their lines share a set of
// the cache. Returns how much of k is done.
template <int Lanes, typename T>
int64_t pack_k_contiguous(const PanelSource& source, float* out) {
  constexpr int kRowsAtOnce = Lanes < 8 ? Lanes : 8, kWords = 16 / sizeof(T), kLine = 4 * kWords;
  const T* data = static_cast<const T*>(source.data);
  int64_t k = 0;
  for (; k + kLine <= source.k; k += kLine, data += kLine, out += kLine * Lanes) {
    for (int lane = 0; lane < Lanes; lane += kRowsAtOnce) {
#pragma GCC unroll 4
      for (int i = 0; i < kLine; i += kWords) {
        pack_words<kRowsAtOnce, Lanes>(data + lane * source.ld + i, source.ld, out + i * Lanes + lane);
      }
    }
  }
  return k;
}

// Six or eight neighbouring elements.
template <int Lanes>
inline __m256i load_lanes(const float* in) {
  if (Lanes == 8) return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in));
  return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in))),
                                 _mm_loadl_epi64(reinterpret_cast<const __m128i*>(in + 4)), 1);
}
template <int Lanes>
inline __m256i load_lanes(const uint16_t* in) {
  __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in));
  if (Lanes != 8) {
    int32_t rest;
    __builtin_memcpy(&rest, in + 4, sizeof rest);
    halves = _mm_insert_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(in)), rest, 2);
  }
  return _mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16);
}

template <int Lanes, typename T>
void pack_lanes_contiguous(const PanelSource& source, float* out) {
  constexpr int kAtOnce = Lanes < 8 ? Lanes : 8;
  const T* data = static_cast<const T*>(source.data);
  for (int64_t k = 0; k < source.k; ++k, data += source.ld, out += Lanes) {
    // The panel beside this one comes next; rows lie kilobytes apart, where hardware does not look ahead.
    __builtin_prefetch(reinterpret_cast<const char*>(data + Lanes) + 63);
#pragma GCC unroll 2
    for (int lane = 0; lane < Lanes; lane += kAtOnce)
      store_lanes<kAtOnce>(out + lane, load_lanes<kAtOnce>(data + lane));
  }
}

template <int Lanes, typename T>
void pack_elements(PanelSource source, float* out) {
  if (source.lanes == Lanes && !source.k_contiguous) return pack_lanes_contiguous<Lanes, T>(source, out);
  if (source.lanes == Lanes) {
    const int64_t done = pack_k_contiguous<Lanes, T>(source, out);
    source.data = static_cast<const T*>(source.data) + done;
    source.k -= done;
    out += done * Lanes;
  }
  pack_floats<Lanes, T>(source, out);
}

template <int Lanes>
void pack(const PanelSource& source, void* panel) {
  auto* out = static_cast<float*>(panel);
  (source.dtype == DType::bf16 ? pack_elements<Lanes, uint16_t> : pack_elements<Lanes, float>)(source, out);
}

inline __m256 load_bf16(const uint16_t* in) {
  return _mm256_castsi256_ps(load_lanes<8>(in));
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

void multiply(const Strip& strip) {
  const Finish* finish = strip.finish;
  const bool whole =
      finish != nullptr && strip.rows == kRows && finish->out_dtype == DType::f32 && finish->bias_dtype == DType::f32;
  const char *b = static_cast<const char*>(strip.b), *next = static_cast<const char*>(strip.next);
  float* sums = strip.sums;
  int64_t tiles = (strip.columns + kCols - 1) / kCols;
  for (int64_t j = 0; j < strip.columns; j += kCols, b += strip.b_stride, sums += kRows * kCols, --tiles) {
    const int64_t columns = strip.columns - j < kCols ? strip.columns - j : kCols;
    const bool direct = whole && columns == kCols;
    const int64_t pack = strip.ahead != nullptr ? (strip.ahead->source.k + tiles - 1) / tiles : 0;
    if (finish != nullptr) prefetch_tile(*finish, strip.rows, j, columns);
    multiply_tile(strip, b, sums, next, pack, direct ? finish : nullptr, j);
    next += strip.k / kStepsPerLine * 64;
    if (finish != nullptr && !direct) finish_tile_avx2(*finish, strip.rows, j, columns, sums);
  }
}

constexpr MatmulKernel kKernel{.mr = kRows,
                               .nr = kCols,
                               .k_unit = 1,
                               .packed_bytes = 4,
                               .mb = 96,
                               .nb = 192,
                               .b_bytes = 294912,
                               .kb = 768,
                               .kb_alone = 768,
                               .packs_ahead = true,
                               .begin = nullptr,
                               .end = nullptr,
                               .pack_a = pack<kRows>,
                               .pack_b = pack<kCols>,
                               .row_sums = row_sums_of_floats<kRows>,
                               .multiply = multiply,
                               .skinny = multiply_skinny,
                               .finish = finish_rows};

}  // namespace

const MatmulKernel& matmul_kernel_avx2() {
  return kKernel;
}

}  // namespace ridgeline::ops::cpu

// Matrix-product kernel for AMX-BF16: 2 x 2 tiles of 16 x 16 sums; an A tile holds 16 rows of 32 k, a B tile 16 pairs
// of k of 16 columns.
//
// What decides the speed (measured on Granite Rapids; a tdpbf16ps takes 16 cycles, so a step of 32 k takes 64):
// - L2 gives about 40 bytes per cycle and a step needs 64 from two panels. So the A panel stays in L1 and B panels
// stream
//   past it, loaded with the "T1" hint: without it they push the A panel out. Of a panel too long for L1, the end
//   streams too.
// - Storing the sums of 32 x 32 costs 60 to 100 cycles, loading them as much, so a block of k should be long.
// - Stores between the multiplications delay the tile loads behind them: the vector work on finished sums (bias,
// rounding,
//   writing C) is done at once for a whole tile, one tile later, when its sums have long left the store buffer.
#include <immintrin.h>

#include "ridgeline/ops/cpu/matmul_generic.h"

namespace ridgeline::ops::cpu {
namespace {

constexpr int kTile = 16, kDepth = 32;  // rows or columns of a tile, k of a tile
constexpr int kRows = 2 * kTile, kCols = 2 * kTile;
constexpr int64_t kStepBytes = 2 * kTile * kDepth * 2;  // two tiles
constexpr int64_t kTileFloats = kTile * kTile;
constexpr int64_t kMostResidentSteps = 18;  // an A panel up to this long is kept in L1 (36 of 48 KiB)
constexpr int64_t kResidentSteps = 16;      // of a longer one, this part

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

void begin() {
  const TileConfig config;
  __asm__ volatile("ldtilecfg %0" ::"m"(config));
}

void end() {
  __asm__ volatile("tilerelease");
}

// The compiler's intrinsics do not say that a tile load reads memory; these do.
#define RL_TILE_LOAD(tile, base) \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"(base), "r"(int64_t{64}) : "memory")
#define RL_TILE_STREAM(tile, base) \
  __asm__ volatile("tileloaddt1 (%0,%1,1), %%tmm" #tile ::"r"(base), "r"(int64_t{64}) : "memory")
#define RL_TILE_STORE(tile, base) \
  __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(base), "r"(int64_t{64}) : "memory")
#define RL_TILE_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile ::)
#define RL_TILE_MULTIPLY(sum, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #sum ::)

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

// A finished tile of 32 x 32 sums, stored as four tiles one after the other, on its way to C.
struct Drain {
  const float* tile = nullptr;  // null: nothing to do
  const Finish* finish = nullptr;
  int64_t rows = 0, column = 0;  // column: within the strip
  __mmask16 left = 0, right = 0;
};

inline __m512 load_elements(const void* data, bool bf16, int64_t at, __mmask16 mask) {
  if (bf16) return widen_lanes(_mm256_maskz_loadu_epi16(mask, static_cast<const uint16_t*>(data) + at));
  return _mm512_maskz_loadu_ps(mask, static_cast<const float*>(data) + at);
}

inline void finish_row(const Drain& d, int64_t row, __m512 x, __m512 y) {
  const Finish& f = *d.finish;
  if (f.carry != nullptr) {
    const float* carry = f.carry + row * f.ld_carry + d.column;
    x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(d.left, carry));
    y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(d.right, carry + 16));
  }
  if (f.bias != nullptr) {
    x = _mm512_add_ps(x, load_elements(f.bias, f.bias_bf16, d.column, d.left));
    y = _mm512_add_ps(y, load_elements(f.bias, f.bias_bf16, d.column + 16, d.right));
  }
  const int64_t at = row * f.ld_out + d.column;
  if (!f.out_bf16) {
    if (f.residual != nullptr) {
      x = _mm512_add_ps(x, load_elements(f.residual, false, at, d.left));
      y = _mm512_add_ps(y, load_elements(f.residual, false, at + 16, d.right));
    }
    float* out = static_cast<float*>(f.out) + at;
    _mm512_mask_storeu_ps(out, d.left, x);
    _mm512_mask_storeu_ps(out + 16, d.right, y);
    return;
  }
  __m512i p = round_lanes(x), q = round_lanes(y);
  if (f.residual != nullptr) {
    const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000U));
    p = round_lanes(
        _mm512_add_ps(_mm512_castsi512_ps(_mm512_and_si512(p, upper)), load_elements(f.residual, true, at, d.left)));
    q = round_lanes(_mm512_add_ps(_mm512_castsi512_ps(_mm512_and_si512(q, upper)),
                                  load_elements(f.residual, true, at + 16, d.right)));
  }
  uint16_t* out = static_cast<uint16_t*>(f.out) + at;
  _mm256_mask_storeu_epi16(out, d.left, _mm512_cvtepi32_epi16(_mm512_srli_epi32(p, 16)));
  _mm256_mask_storeu_epi16(out + 16, d.right, _mm512_cvtepi32_epi16(_mm512_srli_epi32(q, 16)));
}

inline void drain(const Drain& d) {
  if (d.tile == nullptr) return;
  for (int64_t row = 0; row < d.rows; ++row) {
    const float* in = d.tile + (row >> 4) * 2 * kTileFloats + (row & 15) * kTile;
    finish_row(d, row, _mm512_load_ps(in), _mm512_load_ps(in + kTileFloats));
  }
}

inline void load_sums(const float* sums) {
  RL_TILE_LOAD(0, sums);
  RL_TILE_LOAD(1, sums + kTileFloats);
  RL_TILE_LOAD(2, sums + 2 * kTileFloats);
  RL_TILE_LOAD(3, sums + 3 * kTileFloats);
}

inline void store_sums(float* sums) {
  RL_TILE_STORE(0, sums);
  RL_TILE_STORE(1, sums + kTileFloats);
  RL_TILE_STORE(2, sums + 2 * kTileFloats);
  RL_TILE_STORE(3, sums + 3 * kTileFloats);
}

inline void zero_sums() {
  RL_TILE_ZERO(0);
  RL_TILE_ZERO(1);
  RL_TILE_ZERO(2);
  RL_TILE_ZERO(3);
}

#define RL_STEP(LOAD_A)                  \
  RL_TILE_STREAM(6, b);                  \
  LOAD_A(4, a);                          \
  RL_TILE_MULTIPLY(0, 4, 6);             \
  RL_TILE_STREAM(7, b + kStepBytes / 2); \
  RL_TILE_MULTIPLY(1, 4, 7);             \
  LOAD_A(5, a + kStepBytes / 2);         \
  RL_TILE_MULTIPLY(2, 5, 6);             \
  RL_TILE_MULTIPLY(3, 5, 7);             \
  a += kStepBytes;                       \
  b += kStepBytes

inline void add_products(int64_t k, const char* a, const char* b) {
  const int64_t steps = k / kDepth, resident = steps > kMostResidentSteps ? kResidentSteps : steps;
  for (int64_t step = 0; step < resident; ++step) {
    RL_STEP(RL_TILE_LOAD);
  }
  for (int64_t step = resident; step < steps; ++step) {
    RL_STEP(RL_TILE_STREAM);
  }
}

void multiply(const Strip& strip) {
  const auto* a = static_cast<const char*>(strip.a);
  const auto* b = static_cast<const char*>(strip.b);
  auto* scratch = static_cast<float*>(strip.scratch);
  Drain previous;
  for (int64_t column = 0; column < strip.columns; column += kCols, b += strip.b_stride) {
    float* sums = strip.sums + column * kRows;
    if (strip.add) {
      load_sums(sums);
    } else {
      zero_sums();
    }
    add_products(strip.k, a, b);
    if (strip.finish == nullptr) {
      store_sums(sums);
      continue;
    }
    float* tile = scratch + (column & kCols) * kRows;  // alternating
    store_sums(tile);
    drain(previous);
    previous = {.tile = tile,
                .finish = strip.finish,
                .rows = strip.rows,
                .column = column,
                .left = first_lanes(strip.columns - column),
                .right = first_lanes(strip.columns - column - 16)};
  }
  drain(previous);
}

inline __mmask32 first_words(int64_t count) {
  return count >= 32 ? __mmask32{0xffffffffU} : count <= 0 ? __mmask32{0} : static_cast<__mmask32>((1U << count) - 1U);
}

// panel[k / 32][2 tiles][16 rows][32 k] from rows of contiguous k: a copy. Eight rows at a time: as many streams as
// hardware prefetchers follow well.
void pack_a_rows(const PanelSource& source, uint16_t* out) {
  const auto* data = static_cast<const uint16_t*>(source.data);
  for (int64_t row0 = 0; row0 < kRows; row0 += 8) {
    for (int64_t k = 0; k < source.k; k += kDepth) {
      const __mmask32 mask = first_words(source.k - k);
      for (int64_t row = row0; row < row0 + 8; ++row) {
        const __m512i line =
            row < source.lanes ? _mm512_maskz_loadu_epi16(mask, data + row * source.ld + k) : _mm512_setzero_si512();
        _mm512_store_si512(out + (k * kRows) + row * kDepth, line);
      }
    }
  }
}

// Four 128-bit pieces `stride` bytes apart as one vector. With a memory operand an insertion needs no shuffle port.
inline __m512i gather_pieces(const char* at, int64_t stride) {
  __m512i x = _mm512_castsi128_si512(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
  x = _mm512_inserti32x4(x, _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + stride)), 1);
  x = _mm512_inserti32x4(x, _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + 2 * stride)), 2);
  return _mm512_inserti32x4(x, _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + 3 * stride)), 3);
}

// out[8 rows][32 k] from [32 k][8 rows], rows of the source `ld` elements apart: piece q of vector r is k = 8 q + r,
// and an 8 x 8 transposition within each quarter puts k = 8 q … 8 q + 7 of one row there.
inline void transpose_rows(const uint16_t* in, int64_t ld, uint16_t* out) {
  const char* at = reinterpret_cast<const char*>(in);
  __m512i x[8], y[8];
#pragma GCC unroll 8
  for (int r = 0; r < 8; ++r) x[r] = gather_pieces(at + r * ld * 2, 8 * ld * 2);
#pragma GCC unroll 4
  for (int r = 0; r < 8; r += 2) {
    y[r] = _mm512_unpacklo_epi16(x[r], x[r + 1]);
    y[r + 1] = _mm512_unpackhi_epi16(x[r], x[r + 1]);
  }
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {  // rows 4 half … 4 half + 3
    const __m512i p = _mm512_unpacklo_epi32(y[half], y[2 + half]), q = _mm512_unpackhi_epi32(y[half], y[2 + half]);
    const __m512i s = _mm512_unpacklo_epi32(y[4 + half], y[6 + half]),
                  t = _mm512_unpackhi_epi32(y[4 + half], y[6 + half]);
    uint16_t* line = out + half * 4 * kDepth;
    _mm512_store_si512(line, _mm512_unpacklo_epi64(p, s));
    _mm512_store_si512(line + kDepth, _mm512_unpackhi_epi64(p, s));
    _mm512_store_si512(line + 2 * kDepth, _mm512_unpacklo_epi64(q, t));
    _mm512_store_si512(line + 3 * kDepth, _mm512_unpackhi_epi64(q, t));
  }
}

void pack_a_columns(const PanelSource& source, uint16_t* out) {
  const auto* data = static_cast<const uint16_t*>(source.data);
  alignas(64) uint16_t edge[kDepth * kRows];
  for (int64_t k = 0; k < source.k; k += kDepth, out += kRows * kDepth) {
    const uint16_t* in = data + k * source.ld;
    int64_t ld = source.ld;
    if (source.k - k < kDepth || source.lanes < kRows) {
      const __mmask32 mask = first_words(source.lanes);
      for (int64_t i = 0; i < kDepth; ++i) {
        _mm512_store_si512(edge + i * kRows,
                           k + i < source.k ? _mm512_maskz_loadu_epi16(mask, in + i * ld) : _mm512_setzero_si512());
      }
      in = edge;
      ld = kRows;
    }
    for (int row = 0; row < kRows; row += 8) transpose_rows(in + row, ld, out + row * kDepth);
  }
}

void pack_a(const PanelSource& source, void* panel) {
  if (source.k_contiguous) {
    pack_a_rows(source, static_cast<uint16_t*>(panel));
  } else {
    pack_a_columns(source, static_cast<uint16_t*>(panel));
  }
}

// out[16 pairs of k][16 columns] from [16 columns][16 pairs], `ld` elements between columns: as transpose_rows, with
// pairs as 32-bit elements.
inline void transpose_pairs(const uint16_t* in, int64_t ld, uint16_t* out) {
  const char* at = reinterpret_cast<const char*>(in);
#pragma GCC unroll 4
  for (int piece = 0; piece < 4; ++piece) {
    const char* from = at + piece * 16;
    const __m512i x0 = gather_pieces(from, 4 * ld * 2), x1 = gather_pieces(from + ld * 2, 4 * ld * 2);
    const __m512i x2 = gather_pieces(from + 2 * ld * 2, 4 * ld * 2), x3 = gather_pieces(from + 3 * ld * 2, 4 * ld * 2);
    const __m512i p = _mm512_unpacklo_epi32(x0, x1), q = _mm512_unpackhi_epi32(x0, x1);
    const __m512i s = _mm512_unpacklo_epi32(x2, x3), t = _mm512_unpackhi_epi32(x2, x3);
    uint16_t* line = out + piece * 4 * kDepth;
    _mm512_store_si512(line, _mm512_unpacklo_epi64(p, s));
    _mm512_store_si512(line + kDepth, _mm512_unpackhi_epi64(p, s));
    _mm512_store_si512(line + 2 * kDepth, _mm512_unpacklo_epi64(q, t));
    _mm512_store_si512(line + 3 * kDepth, _mm512_unpackhi_epi64(q, t));
  }
}

// panel[k / 32][2 tiles][16 pairs of k][16 columns][2] from columns of contiguous k.
void pack_b_columns(const PanelSource& source, uint16_t* out) {
  const auto* data = static_cast<const uint16_t*>(source.data);
  alignas(64) uint16_t edge[kCols * kDepth];
  for (int64_t k = 0; k < source.k; k += kDepth, out += kCols * kDepth) {
    const uint16_t* in = data + k;
    int64_t ld = source.ld;
    if (source.k - k < kDepth || source.lanes < kCols) {
      const __mmask32 mask = first_words(source.k - k);
      for (int64_t column = 0; column < kCols; ++column) {
        _mm512_store_si512(edge + column * kDepth, column < source.lanes
                                                       ? _mm512_maskz_loadu_epi16(mask, in + column * ld)
                                                       : _mm512_setzero_si512());
      }
      in = edge;
      ld = kDepth;
    }
    transpose_pairs(in, ld, out);
    transpose_pairs(in + kTile * ld, ld, out + kTile * kDepth);
  }
}

// The same from rows of contiguous columns: two rows of k interleaved.
void pack_b_rows(const PanelSource& source, uint16_t* out) {
  const auto* data = static_cast<const uint16_t*>(source.data);
  const __mmask32 mask = first_words(source.lanes);
  // Unpacking works within quarters: bring columns 4 q … 4 q + 3 and 16 + 4 q … into quarter q first.
  const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  for (int64_t k = 0; k < source.k; k += 2) {
    const uint16_t* in = data + k * source.ld;
    const __m512i even = _mm512_permutexvar_epi64(order, _mm512_maskz_loadu_epi16(mask, in));
    const __m512i odd = k + 1 < source.k
                            ? _mm512_permutexvar_epi64(order, _mm512_maskz_loadu_epi16(mask, in + source.ld))
                            : _mm512_setzero_si512();
    uint16_t* line = out + k / kDepth * kCols * kDepth + k % kDepth / 2 * 2 * kTile;
    _mm512_store_si512(line, _mm512_unpacklo_epi16(even, odd));
    _mm512_store_si512(line + kTile * kDepth, _mm512_unpackhi_epi16(even, odd));
  }
  for (int64_t k = (source.k + 1) / 2 * 2; k % kDepth != 0; k += 2) {
    uint16_t* line = out + k / kDepth * kCols * kDepth + k % kDepth / 2 * 2 * kTile;
    _mm512_store_si512(line, _mm512_setzero_si512());
    _mm512_store_si512(line + kTile * kDepth, _mm512_setzero_si512());
  }
}

void pack_b(const PanelSource& source, void* panel) {
  if (source.k_contiguous) {
    pack_b_columns(source, static_cast<uint16_t*>(panel));
  } else {
    pack_b_rows(source, static_cast<uint16_t*>(panel));
  }
}

// Products with one are exact, so this is a sum of the rows; eight rows at a time cover the instruction's latency.
void row_sums(const void* a_panel, int64_t k, float* sums) {
  const auto* in = static_cast<const uint16_t*>(a_panel);
  const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
  for (int row0 = 0; row0 < kRows; row0 += 8) {
    __m512 total[8];
#pragma GCC unroll 8
    for (int row = 0; row < 8; ++row) total[row] = _mm512_setzero_ps();
    for (int64_t step = 0; step < k / kDepth; ++step) {
      const uint16_t* line = in + (step * kRows + row0) * kDepth;
#pragma GCC unroll 8
      for (int row = 0; row < 8; ++row) {
        total[row] = _mm512_dpbf16_ps(total[row], (__m512bh)_mm512_load_si512(line + row * kDepth), ones);
      }
    }
#pragma GCC unroll 8
    for (int row = 0; row < 8; ++row) sums[row0 + row] += _mm512_reduce_add_ps(total[row]);
  }
}

constexpr MatmulKernel kKernel{.mr = kRows,
                               .nr = kCols,
                               .k_unit = kDepth,
                               .packed_bytes = 2,
                               .mb = 256,
                               .nb = 384,
                               .kb = 384,
                               .begin = begin,
                               .end = end,
                               .pack_a = pack_a,
                               .pack_b = pack_b,
                               .row_sums = row_sums,
                               .multiply = multiply,
                               .skinny_rows = 0,
                               .skinny = nullptr};

}  // namespace

const MatmulKernel& matmul_kernel_amx_bf16() {
  return kKernel;
}

}  // namespace ridgeline::ops::cpu

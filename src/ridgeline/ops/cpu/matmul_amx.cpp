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
#include "ridgeline/ops/cpu/matmul_avx512.h"

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

// A finished tile of 32 x 32 sums, stored as four tiles one after the other, on its way to C.
struct Drain {
  const float* tile = nullptr;  // null: nothing to do
  const Finish* finish = nullptr;
  int64_t rows = 0, column = 0;  // column: within the strip
  __mmask16 left = 0, right = 0;
};

// Two vectors to 32 bf16, exactly as narrow() rounds: the instruction takes subnormals for zero, so those go the long
// way.
inline __m512i narrow_lanes(__m512 x, __m512 y) {
  constexpr int kSubnormal = 0x20;
  const __mmask16 any = _kor_mask16(_mm512_fpclass_ps_mask(x, kSubnormal), _mm512_fpclass_ps_mask(y, kSubnormal));
  if (__builtin_expect(!_kortestz_mask16_u8(any, any), 0)) {
    const __m256i low = _mm512_cvtepi32_epi16(_mm512_srli_epi32(round_lanes(x), 16));
    const __m256i high = _mm512_cvtepi32_epi16(_mm512_srli_epi32(round_lanes(y), 16));
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }
  return (__m512i)_mm512_cvtne2ps_pbh(y, x);
}

template <bool Carry, bool Bias, bool Residual, DType Out>
void drain_as(const Drain& d) {
  const Finish& f = *d.finish;
  const __mmask16 left = d.left, right = d.right;
  const __mmask32 both = _mm512_kunpackw(right, left);
  __m512 bias_left = _mm512_setzero_ps(), bias_right = bias_left;
  if (Bias) {
    bias_left = load_elements(f.bias, f.bias_dtype, d.column, left);
    bias_right = load_elements(f.bias, f.bias_dtype, d.column + 16, right);
  }
  for (int64_t row = 0; row < d.rows; ++row) {
    const float* in = d.tile + (row >> 4) * 2 * kTileFloats + (row & 15) * kTile;
    __m512 x = _mm512_load_ps(in), y = _mm512_load_ps(in + kTileFloats);
    if (Carry) {
      const float* carry = f.carry + row * f.ld_carry + d.column;
      x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(left, carry));
      y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(right, carry + 16));
    }
    if (Bias) {
      x = _mm512_add_ps(x, bias_left);
      y = _mm512_add_ps(y, bias_right);
    }
    const int64_t at = row * f.ld_out + d.column;
    if (Out == DType::bf16) {
      __m512i bits = narrow_lanes(x, y);
      if (Residual) {
        x = _mm512_add_ps(widen_lanes(_mm512_castsi512_si256(bits)), load_elements(f.residual, DType::bf16, at, left));
        y = _mm512_add_ps(widen_lanes(_mm512_extracti64x4_epi64(bits, 1)),
                          load_elements(f.residual, DType::bf16, at + 16, right));
        bits = narrow_lanes(x, y);
      }
      _mm512_mask_storeu_epi16(static_cast<uint16_t*>(f.out) + at, both, bits);
    } else {
      if (Residual) {
        x = _mm512_add_ps(x, load_elements(f.residual, DType::f32, at, left));
        y = _mm512_add_ps(y, load_elements(f.residual, DType::f32, at + 16, right));
      }
      float* out = static_cast<float*>(f.out) + at;
      _mm512_mask_storeu_ps(out, left, x);
      _mm512_mask_storeu_ps(out + 16, right, y);
    }
  }
}

template <bool Carry, bool Bias>
inline void drain_as(const Drain& d) {
  const bool residual = d.finish->residual != nullptr;
  if (d.finish->out_dtype == DType::bf16) {
    (residual ? drain_as<Carry, Bias, true, DType::bf16> : drain_as<Carry, Bias, false, DType::bf16>)(d);
  } else {
    (residual ? drain_as<Carry, Bias, true, DType::f32> : drain_as<Carry, Bias, false, DType::f32>)(d);
  }
}

inline void drain(const Drain& d) {
  if (d.tile == nullptr) return;
  if (d.finish->carry != nullptr) {
    (d.finish->bias != nullptr ? drain_as<true, true> : drain_as<true, false>)(d);
  } else {
    (d.finish->bias != nullptr ? drain_as<false, true> : drain_as<false, false>)(d);
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

// The panel that stays in L1 next, asked for line by line into L2.
struct Prefetch {
  const char* next;
  const char* end;
  int64_t lines_per_step;

  inline void step() {
    for (int64_t i = 0; i < lines_per_step && next < end; ++i, next += 64) _mm_prefetch(next, _MM_HINT_T1);
  }
};

#define RL_STEP(LOAD_A)                  \
  prefetch.step();                       \
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

inline void add_products(int64_t steps, const char* a, const char* b, Prefetch& prefetch) {
  const int64_t resident = steps > kMostResidentSteps ? kResidentSteps : steps;
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
  const int64_t steps = strip.k / kDepth, tiles = (strip.columns + kCols - 1) / kCols;
  const auto* next = static_cast<const char*>(strip.next);
  Prefetch prefetch{.next = next,
                    .end = next + strip.next_bytes,
                    .lines_per_step = steps > 0 ? (strip.next_bytes / 64 + tiles * steps - 1) / (tiles * steps) : 0};
  Drain previous;
  for (int64_t i = 0; i < tiles; ++i, b += strip.b_stride) {
    float* sums = strip.sums + i * kRows * kCols;
    if (strip.add) {
      load_sums(sums);
    } else {
      zero_sums();
    }
    add_products(steps, a, b, prefetch);
    if (strip.finish == nullptr) {
      store_sums(sums);
      continue;
    }
    float* tile = static_cast<float*>(strip.scratch) + (i & 1) * kRows * kCols;
    store_sums(tile);
    drain(previous);
    previous = {.tile = tile,
                .finish = strip.finish,
                .rows = strip.rows,
                .column = i * kCols,
                .left = first_lanes(strip.columns - i * kCols),
                .right = first_lanes(strip.columns - i * kCols - kTile)};
  }
  drain(previous);
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
    for (int tile = 0; tile < 2; ++tile) {
      transpose_16x16(reinterpret_cast<const char*>(in + tile * kTile * ld), ld * 2,
                      reinterpret_cast<char*>(out + tile * kTile * kDepth), kDepth * 2);
    }
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
                               .mb = 64,
                               .nb = 384,
                               .b_bytes = 900000,
                               .kb = kMostResidentSteps * kDepth,
                               .kb_alone = 24 * kDepth,
                               .ahead_lanes = 0,
                               .begin = begin,
                               .end = end,
                               .pack_a = pack_a,
                               .pack_b = pack_b,
                               .row_sums = row_sums,
                               .multiply = multiply,
                               .skinny = multiply_skinny,
                               .finish = finish_rows};

}  // namespace

const MatmulKernel& matmul_kernel_amx_bf16() {
  return kKernel;
}

}  // namespace ridgeline::ops::cpu

// The one matrix product of the attention kernels:
//
//   C [rows][32] (+)= A [rows][32 * chunks] · B [32 * chunks][32]
//
// A in A form (chunk c at a + c * a_chunk), B in B form (chunks one after the other), C one f32 panel; see
// attention_pack.h. rows is a multiple of 32.
#pragma once

#include "ridgeline/ops/cpu/attention_vector.h"

namespace ridgeline::ops::cpu {
namespace {

RL_INLINE F multiply_add(float a, F b, F sum) {
  return fma(splat(a), b, sum);
}

#if defined(__AVX512BF16__)
// a: two neighbouring bf16 of a row of A as one word.
RL_INLINE F multiply_add(uint32_t a, U b, F sum) {
  const U words = a - U{};
  return _mm512_dpbf16_ps(sum, bits_as<__m512bh>(words), bits_as<__m512bh>(b));
}
#endif

// R rows by N vectors of columns; W is the word of the operands (a float, or a pair of bf16), V a vector of words.
template <int R, int N, typename V, typename W>
RL_INLINE void product_tile(float* c, const W* a, int64_t a_chunk, const W* b, int64_t chunks, bool add) {
  constexpr int kDepth = __is_same(W, float) ? 32 : 16;  // words per row of a chunk
  F sums[R][N];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) sums[r][n] = F{};
  }
  for (int64_t chunk = 0; chunk < chunks; ++chunk, a += a_chunk, b += kDepth * 32) {
#pragma GCC unroll 4
    for (int k = 0; k < kDepth; ++k) {
      V right[N];
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) right[n] = load_as<V>(b + k * 32 + n * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) sums[r][n] = multiply_add(a[r * kDepth + k], right[n], sums[r][n]);
      }
    }
  }
  if (add) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) sums[r][n] = sums[r][n] + load(c + r * 32 + n * kLanes);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) store(c + r * 32 + n * kLanes, sums[r][n]);
  }
}

template <typename V, typename W>
void product_words(float* c, int64_t rows, const W* a, int64_t a_chunk, const W* b, int64_t chunks, bool add) {
  constexpr int kDepth = __is_same(W, float) ? 32 : 16;
  const int64_t tiled = rows / kTileRows * kTileRows;
  for (int column = 0; column < 32; column += 2 * kLanes) {
    for (int64_t r = 0; r < tiled; r += kTileRows) {
      product_tile<kTileRows, 2, V>(c + r * 32 + column, a + r * kDepth, a_chunk, b + column, chunks, add);
    }
  }
  // Rows that are left, two at a time: all columns at once, since four sums would wait for each other.
  for (int64_t r = tiled; r < rows; r += 2) {
    for (int column = 0; column < 32; column += 4 * kLanes) {
      product_tile < 2,
          kPanelLanes<4 ? kPanelLanes : 4, V>(c + r * 32 + column, a + r * kDepth, a_chunk, b + column, chunks, add);
    }
  }
}

__attribute__((noinline)) void product(float* c, int64_t rows, const float* a, int64_t a_chunk, const float* b,
                                       int64_t chunks, bool add) {
  product_words<F>(c, rows, a, a_chunk, b, chunks, add);
}

#if defined(__AMX_BF16__)

// The compiler's tile intrinsics do not say that a tile load reads memory; these do.
#define RL_TILE_LOAD(tile, base, stride) \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"(base), "r"(static_cast<int64_t>(stride)) : "memory")
#define RL_TILE_STORE(tile, base, stride) \
  __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(base), "r"(static_cast<int64_t>(stride)) : "memory")
#define RL_TILE_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile ::)
#define RL_TILE_MULTIPLY(sum, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #sum ::)

// All tiles 16 rows of 64 bytes.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

struct TileSession {
  TileSession() {
    const TileConfig config;
    __asm__ volatile("ldtilecfg %0" ::"m"(config));
  }
  ~TileSession() { __asm__ volatile("tilerelease"); }
};

RL_INLINE void product(float* c, int64_t rows, const bf16_t* a, int64_t a_chunk, const bf16_t* b, int64_t chunks,
                       bool add) {
  for (int64_t r = 0; r < rows; r += 32, c += 32 * 32, a += 32 * 32) {
    if (add) {
      RL_TILE_LOAD(0, c, 128);
      RL_TILE_LOAD(1, c + 16, 128);
      RL_TILE_LOAD(2, c + 16 * 32, 128);
      RL_TILE_LOAD(3, c + 16 * 32 + 16, 128);
    } else {
      RL_TILE_ZERO(0);
      RL_TILE_ZERO(1);
      RL_TILE_ZERO(2);
      RL_TILE_ZERO(3);
    }
    const bf16_t *left = a, *right = b;
    for (int64_t chunk = 0; chunk < chunks; ++chunk, left += a_chunk, right += 32 * 32) {
      RL_TILE_LOAD(6, right, 128);
      RL_TILE_LOAD(4, left, 64);
      RL_TILE_MULTIPLY(0, 4, 6);
      RL_TILE_LOAD(7, right + 32, 128);
      RL_TILE_MULTIPLY(1, 4, 7);
      RL_TILE_LOAD(5, left + 16 * 32, 64);
      RL_TILE_MULTIPLY(2, 5, 6);
      RL_TILE_MULTIPLY(3, 5, 7);
    }
    RL_TILE_STORE(0, c, 128);
    RL_TILE_STORE(1, c + 16, 128);
    RL_TILE_STORE(2, c + 16 * 32, 128);
    RL_TILE_STORE(3, c + 16 * 32 + 16, 128);
  }
}

#else

struct TileSession {
  TileSession() {}
  ~TileSession() {}
};

#if defined(__AVX512BF16__)
__attribute__((noinline)) void product(float* c, int64_t rows, const bf16_t* a, int64_t a_chunk, const bf16_t* b,
                                       int64_t chunks, bool add) {
  product_words<U>(c, rows, as_words(a), a_chunk / 2, as_words(b), chunks, add);
}
#endif
#endif

}  // namespace
}  // namespace ridgeline::ops::cpu

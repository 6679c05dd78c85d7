// Matrix-product kernel for AMX-BF16: 2 x 2 tiles of 16 x 16 sums; an A tile holds 16 rows of 32 k, a B tile 16 pairs
// of k of 16 columns.
#include <immintrin.h>

#include "ridgeline/ops/cpu/matmul_generic.h"

namespace ridgeline::ops::cpu {
namespace {

constexpr int kTile = 16, kDepth = 32;  // rows or columns of a tile, k of a tile
constexpr int kRows = 2 * kTile, kCols = 2 * kTile;

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
#define RL_TILE_LOAD(tile, base, stride) \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"(base), "r"(static_cast<int64_t>(stride)) : "memory")
#define RL_TILE_STORE(tile, base, stride) \
  __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(base), "r"(static_cast<int64_t>(stride)) : "memory")
#define RL_TILE_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile ::)
#define RL_TILE_MULTIPLY(sum, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #sum ::)

void multiply(int64_t k, const void* a_panel, const void* b_panel, float* sums, int64_t ld, bool add) {
  const auto* a = static_cast<const uint16_t*>(a_panel);
  const auto* b = static_cast<const uint16_t*>(b_panel);
  float* lower = sums + kTile * ld;
  if (add) {
    RL_TILE_LOAD(0, sums, ld * 4);
    RL_TILE_LOAD(1, sums + kTile, ld * 4);
    RL_TILE_LOAD(2, lower, ld * 4);
    RL_TILE_LOAD(3, lower + kTile, ld * 4);
  } else {
    RL_TILE_ZERO(0);
    RL_TILE_ZERO(1);
    RL_TILE_ZERO(2);
    RL_TILE_ZERO(3);
  }
  for (int64_t i = 0; i < k; i += kDepth, a += kRows * kDepth, b += kCols * kDepth) {
    RL_TILE_LOAD(6, b, 64);
    RL_TILE_LOAD(4, a, 64);
    RL_TILE_MULTIPLY(0, 4, 6);
    RL_TILE_LOAD(7, b + kTile * kDepth, 64);
    RL_TILE_MULTIPLY(1, 4, 7);
    RL_TILE_LOAD(5, a + kTile * kDepth, 64);
    RL_TILE_MULTIPLY(2, 5, 6);
    RL_TILE_MULTIPLY(3, 5, 7);
  }
  RL_TILE_STORE(0, sums, ld * 4);
  RL_TILE_STORE(1, sums + kTile, ld * 4);
  RL_TILE_STORE(2, lower, ld * 4);
  RL_TILE_STORE(3, lower + kTile, ld * 4);
}

// panel[k / 32][2 tiles][16 rows][32 k]
void pack_a(const PanelSource& source, void* panel) {
  auto* out = static_cast<uint16_t*>(panel);
  for (int64_t k = 0; k < source.k; k += kDepth) {
    for (int row = 0; row < kRows; ++row) {
      for (int i = 0; i < kDepth; ++i) *out++ = element(source, row, k + i);
    }
  }
}

// panel[k / 32][2 tiles][16 pairs of k][16 columns][2]
void pack_b(const PanelSource& source, void* panel) {
  auto* out = static_cast<uint16_t*>(panel);
  for (int64_t k = 0; k < source.k; k += kDepth) {
    for (int tile = 0; tile < 2; ++tile) {
      for (int i = 0; i < kDepth; i += 2) {
        for (int col = tile * kTile; col < (tile + 1) * kTile; ++col) {
          *out++ = element(source, col, k + i);
          *out++ = element(source, col, k + i + 1);
        }
      }
    }
  }
}

void row_sums(const void* a_panel, int64_t k, float* sums) {
  const auto* in = static_cast<const uint16_t*>(a_panel);
  for (int row = 0; row < kRows; ++row) {
    float partial[kDepth] = {};
    for (int64_t i = 0; i < k; i += kDepth) {
      const uint16_t* line = in + (i / kDepth * kRows + row) * kDepth;
      for (int j = 0; j < kDepth; ++j) partial[j] += widen(line[j]);
    }
    for (int width = kDepth / 2; width > 0; width /= 2) {
      for (int j = 0; j < width; ++j) partial[j] += partial[j + width];
    }
    sums[row] += partial[0];
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
                               .finish = finish_generic,
                               .skinny_rows = 0,
                               .skinny = nullptr};

}  // namespace

const MatmulKernel& matmul_kernel_amx_bf16() {
  return kKernel;
}

}  // namespace ridgeline::ops::cpu

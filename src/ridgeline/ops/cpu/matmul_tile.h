// A strip of register tiles, once for all instruction sets that have vectors: the products of a tile, between them what
// costs next to nothing there (lines of the next A panel brought near, elements of a panel packed ahead), and C in f32
// straight from the registers. Internal linkage: see matmul_kernel.h.
//
// Panels are words of 32 bits here, a float or two bf16 that follow one another in k: of A [step][kRows], of B
// [step][kCols]; a step is k_unit of k. `Tile`, of the translation unit that includes this, has
//   Vector, kLanes                          floats of C
//   zero(), load(const float*), add(x, y), store(float*, x)
//   kRows, kVectors, kCols                  the register tile: kCols = kVectors * kLanes columns
//   kPairs                                  whether a word is two bf16
//   kBeat                                   steps between two moments for something else
//   kAtOnce                                 steps that are one piece of code: a divisor of kBeat
//   multiply<Steps>(a, b, c)                1 or kAtOnce steps; c: Vector [kRows][kVectors]
//   finish                                  as MatmulKernel::finish, of a tile whose sums lie in memory
#pragma once

#include <cstdint>

#include "ridgeline/ops/cpu/matmul_generic.h"

namespace ridgeline::ops::cpu {
namespace {

#define RL_ALWAYS_INLINE __attribute__((always_inline)) inline

template <typename Tile>
using Sums = typename Tile::Vector[Tile::kRows][Tile::kVectors];

// c += rows of f32 in memory; `row` is the first of them.
template <typename Tile>
RL_ALWAYS_INLINE void add_rows(const float* row, int64_t ld, Sums<Tile>& c) {
#pragma GCC unroll 8
  for (int i = 0; i < Tile::kRows; ++i, row += ld) {
#pragma GCC unroll 3
    for (int v = 0; v < Tile::kVectors; ++v) c[i][v] = Tile::add(c[i][v], Tile::load(row + v * Tile::kLanes));
  }
}

template <typename Tile>
RL_ALWAYS_INLINE void store_rows(float* row, int64_t ld, const Sums<Tile>& c) {
#pragma GCC unroll 8
  for (int i = 0; i < Tile::kRows; ++i, row += ld) {
#pragma GCC unroll 3
    for (int v = 0; v < Tile::kVectors; ++v) Tile::store(row + v * Tile::kLanes, c[i][v]);
  }
}

// C in f32 straight from the registers. All is read before anything is written: where rows of C lie a multiple of 4 KiB
// apart, a read would wait for the write of the row before.
template <typename Tile>
RL_ALWAYS_INLINE void write_rows(const Finish& f, int64_t column, Sums<Tile>& c) {
  if (f.carry != nullptr) add_rows<Tile>(f.carry + column, f.ld_carry, c);
  if (f.bias != nullptr) add_rows<Tile>(static_cast<const float*>(f.bias) + column, 0, c);
  if (f.residual != nullptr) add_rows<Tile>(static_cast<const float*>(f.residual) + column, f.ld_out, c);
  store_rows<Tile>(static_cast<float*>(f.out) + column, f.ld_out, c);
}

template <typename Word>
RL_ALWAYS_INLINE uint32_t load_word(const char* from) {
  Word word;
  __builtin_memcpy(&word, from, sizeof word);
  return word;
}

// One step of what is packed ahead, through general registers, which products do not use.
template <typename Tile, int Lanes>
RL_ALWAYS_INLINE void pack_lanes(PackAhead& ahead) {
  constexpr int kUnit = Tile::kPairs ? 2 : 1;
  PanelSource& source = ahead.source;
  const bool halves = Tile::kPairs || source.dtype == DType::bf16, k_contiguous = source.k_contiguous;
  const int64_t bytes = halves ? 2 : 4, row = source.ld * bytes;
  const int64_t lane_step = k_contiguous ? row : bytes, k_step = k_contiguous ? bytes : row;
  const char* from = static_cast<const char*>(source.data);
  // Lanes that are contiguous share lines with those before; else 16 steps, a line of each row, take each row at least
  // once.
  constexpr int kTurns = Lanes > 8 ? 16 : 8;
  bring_near(from + ahead.soon * bytes + (k_contiguous ? source.k / kUnit % kTurns : Lanes - 1) * lane_step);
  auto* to = static_cast<uint32_t*>(ahead.panel);
  if (Tile::kPairs && !k_contiguous) {
#pragma GCC unroll 16
    for (int lane = 0; lane < Lanes; ++lane) {
      to[lane] = load_word<uint16_t>(from + lane * 2) | load_word<uint16_t>(from + k_step + lane * 2) << 16;
    }
  } else if (!Tile::kPairs && halves) {
#pragma GCC unroll 16
    for (int lane = 0; lane < Lanes; ++lane) to[lane] = load_word<uint16_t>(from + lane * lane_step) << 16;
  } else {
#pragma GCC unroll 16
    for (int lane = 0; lane < Lanes; ++lane) to[lane] = load_word<uint32_t>(from + lane * lane_step);
  }
  source.data = from + kUnit * k_step;
  source.k -= kUnit;
  ahead.panel = to + ahead.panel_lanes;
}

template <typename Tile>
RL_ALWAYS_INLINE void pack_step(PackAhead& ahead) {
  if (ahead.source.lanes == Tile::kRows) {
    pack_lanes<Tile, Tile::kRows>(ahead);
  } else {
    pack_lanes<Tile, Tile::kLanes>(ahead);
  }
}

// The lines that the last step of a tile will read or write, to be brought near one by one: all at once they would keep
// the panels waiting, since they come from memory.
class LinesOfTile {
 public:
  LinesOfTile(const Finish& f, int64_t rows, int64_t column, int64_t columns) : rows_(rows) {
    const int64_t out_bytes = f.out_dtype == DType::bf16 ? 2 : 4;
    const auto add = [&](const void* data, int64_t ld, int64_t bytes) {
      const char* at = static_cast<const char*>(data) + column * bytes;
      const int64_t before = static_cast<int64_t>(reinterpret_cast<uintptr_t>(at) & 63);
      // Rows that lie differently to lines may touch one more.
      const int64_t more = ld * bytes % 64 == 0 ? 0 : 63;
      areas_[count_++] = {at - before, ld * bytes, before + columns * bytes + more};
    };
    add(f.out, f.ld_out, out_bytes);
    if (f.carry != nullptr && f.carry != f.out) add(f.carry, f.ld_carry, 4);
    if (f.residual != nullptr && f.residual != f.out) add(f.residual, f.ld_out, out_bytes);
    if (f.soon != nullptr) add(f.soon, f.ld_out, out_bytes);
  }

  // False when none is left.
  RL_ALWAYS_INLINE bool bring_next() {
    if (area_ == count_) return false;
    const Area& area = areas_[area_];
    bring_near(area.at + row_ * area.row_step + offset_);
    offset_ += 64;
    if (offset_ < area.bytes) return true;
    offset_ = 0;
    if (++row_ == rows_) row_ = 0, ++area_;
    return true;
  }

 private:
  struct Area {
    const char* at;
    int64_t row_step, bytes;  // from a row to the next; of a row
  };
  Area areas_[4];
  const int64_t rows_;
  int64_t count_ = 0, area_ = 0, row_ = 0, offset_ = 0;
};

// A tile's sums over a strip's k, to `sums`, or to C from `column` on if `finish`. After every beat a line of the next
// A panel is brought near, from the last-level cache, and after the first `pack` of them a step is packed ahead.
template <typename Tile>
void multiply_tile(const Strip& strip, const void* b_panel, float* sums, const char* next, int64_t pack,
                   LinesOfTile* lines, const Finish* finish, int64_t column) {
  const auto* a = static_cast<const uint32_t*>(strip.a);
  const auto* b = static_cast<const uint32_t*>(b_panel);
  Sums<Tile> c;
#pragma GCC unroll 8
  for (int row = 0; row < Tile::kRows; ++row) {
#pragma GCC unroll 3
    for (int v = 0; v < Tile::kVectors; ++v) c[row][v] = Tile::zero();
  }
  const auto beat = [&]() __attribute__((always_inline)) {
    __builtin_prefetch(next);
    if (lines != nullptr) lines->bring_next();
#pragma GCC unroll 8
    for (int step = 0; step < Tile::kBeat; step += Tile::kAtOnce) {
      Tile::template multiply<Tile::kAtOnce>(a + step * Tile::kRows, b + step * Tile::kCols, c);
    }
    a += Tile::kBeat * Tile::kRows;
    b += Tile::kBeat * Tile::kCols;
    next += 64;
  };
  int64_t steps = strip.k / (Tile::kPairs ? 2 : 1);
  for (; steps >= Tile::kBeat && pack > 0; steps -= Tile::kBeat, --pack) {
    beat();
    pack_step<Tile>(*strip.ahead);
  }
  for (; steps >= Tile::kBeat; steps -= Tile::kBeat) beat();
  while (lines != nullptr && lines->bring_next()) {
  }
  for (; steps > 0; --steps, a += Tile::kRows, b += Tile::kCols) Tile::template multiply<1>(a, b, c);
  if (strip.add) add_rows<Tile>(sums, Tile::kCols, c);
  if (finish != nullptr) return write_rows<Tile>(*finish, column, c);
  store_rows<Tile>(sums, Tile::kCols, c);
}

template <typename Tile>
void multiply_tiles(const Strip& strip) {
  constexpr int kCols = Tile::kCols, kUnit = Tile::kPairs ? 2 : 1;
  const Finish* finish = strip.finish;
  const bool whole = finish != nullptr && strip.rows == Tile::kRows && finish->out_dtype == DType::f32 &&
                     finish->bias_dtype == DType::f32;
  const char *b = static_cast<const char*>(strip.b), *next = static_cast<const char*>(strip.next);
  float* sums = strip.sums;
  int64_t tiles = (strip.columns + kCols - 1) / kCols;
  for (int64_t j = 0; j < strip.columns; j += kCols, b += strip.b_stride, sums += Tile::kRows * kCols, --tiles) {
    const int64_t columns = strip.columns - j < kCols ? strip.columns - j : kCols;
    const bool direct = whole && columns == kCols;
    const int64_t pack = strip.ahead != nullptr ? (strip.ahead->source.k / kUnit + tiles - 1) / tiles : 0;
    if (finish != nullptr) {
      LinesOfTile lines(*finish, strip.rows, j, columns);
      multiply_tile<Tile>(strip, b, sums, next, pack, &lines, direct ? finish : nullptr, j);
    } else {
      multiply_tile<Tile>(strip, b, sums, next, pack, nullptr, nullptr, j);
    }
    next += strip.k / kUnit / Tile::kBeat * 64;
    if (finish != nullptr && !direct) Tile::finish(*finish, strip.rows, j, columns, sums);
  }
}

}  // namespace
}  // namespace ridgeline::ops::cpu

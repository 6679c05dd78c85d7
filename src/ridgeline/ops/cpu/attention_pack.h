// Packing of attention operands. A matrix X [rows][columns] is stored in panels of 32 columns: panel c holds rows × 32
// elements, row after row. As the left operand of a product its columns are the summed index ("A form"). As the right
// operand (one panel of results at a time) its rows are the summed index ("B form"): for f32 the same layout, for bf16
// rows 2i and 2i+1 are interleaved element by element, as dot-product instructions take them.
// E: element of the packed form (float, or bf16_t where the unit multiplies bf16); S: element in memory.
#pragma once

#include "ridgeline/ops/cpu/attention_vector.h"

namespace ridgeline::ops::cpu {
namespace {

constexpr int64_t kPanel = kAttentionPanel;

constexpr int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}
constexpr int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}
constexpr int64_t larger(int64_t a, int64_t b) {
  return a > b ? a : b;
}

template <typename E, typename S>
RL_INLINE E convert(S x) {
  if constexpr (sizeof(E) == sizeof(S)) {
    return x;
  } else {
    return to_float(x);
  }
}

// Rows of memory that will be read or written soon, touched a few at a time between arithmetic: tokens lie kilobytes
// apart, so hardware does not fetch them early, and packing would wait for each.
class Ahead {
 public:
  void clear() { count_ = current_ = 0; }
  template <typename S>
  void add(const S* base, int64_t stride, int64_t rows, int64_t width) {
    if (rows <= 0) return;
    const auto size = static_cast<int64_t>(sizeof(S));
    ranges_[count_++] = {reinterpret_cast<const char*>(base), stride * size, rows, width * size};
  }
  // The next two rows.
  RL_INLINE void step() {
    for (int i = 0; i < 2 && current_ < count_; ++i) {
      Range& range = ranges_[current_];
      for (int64_t at = 0; at < range.bytes; at += 64) __builtin_prefetch(range.next + at, 0, 2);
      range.next += range.stride;
      if (--range.rows == 0) ++current_;
    }
  }

 private:
  struct Range {
    const char* next;
    int64_t stride, rows, bytes;
  };
  Range ranges_[6];
  int count_ = 0, current_ = 0;
};

// One row of up to 32 elements, zero-padded.
template <typename E, typename S>
RL_INLINE void copy_row(E* to, const S* from, int64_t count) {
  if (count == kPanel) {
    if constexpr (sizeof(E) == sizeof(S)) {
      __builtin_memcpy(to, from, kPanel * sizeof(E));
    } else {
      for (int i = 0; i < kPanel; i += kLanes) store(to + i, load(from + i));
    }
    return;
  }
  for (int64_t i = 0; i < kPanel; ++i) to[i] = i < count ? convert<E>(from[i]) : E{};
}

// A form of X [rows][width]: panel p at to + p * panel_stride. Rows up to `padded_rows` and columns up to a multiple of
// 32 are zero.
template <typename E, typename S>
void pack_rows(E* to, int64_t panel_stride, const S* from, int64_t stride, int64_t rows, int64_t padded_rows,
               int64_t width) {
  for (int64_t d = 0; d < width; d += kPanel) {
    E* panel = to + d / kPanel * panel_stride;
    const int64_t count = smaller(kPanel, width - d);
    for (int64_t r = 0; r < padded_rows; ++r) {
      copy_row(panel + r * kPanel, from + (r < rows ? r * stride + d : 0), r < rows ? count : 0);
    }
  }
}

// 32 rows (fewer: zero-padded) and 32 columns of X as dense rows of 32.
template <typename E, typename S>
RL_INLINE void gather_square(E* square, const S* from, int64_t stride, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < kPanel; ++r) {
    copy_row(square + r * kPanel, r < rows ? from + r * stride : from, r < rows ? columns : 0);
  }
}

// to[c][r] = from[r][c] for `rows` x `columns` words (multiples of the vector), rows at given distances.
template <typename W>
RL_INLINE void transpose_words(W* to, int64_t to_stride, const W* from, int64_t from_stride, int rows, int columns) {
  for (int r = 0; r < rows; r += kLanes) {
    for (int c = 0; c < columns; c += kLanes) {
      U block[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) block[i] = load_as<U>(from + (r + i) * from_stride + c);
      transpose(block);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store_as(to + (c + i) * to_stride + r, block[i]);
    }
  }
}

// Two rows of a panel, interleaved for the B form.
RL_INLINE void interleave_rows(bf16_t* to, const bf16_t* even, const bf16_t* odd) {
#if defined(__AVX512BW__)
  const __m512i a = _mm512_loadu_si512(even), b = _mm512_loadu_si512(odd);
  const __m512i low = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), a);
  const __m512i high = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), b);
  _mm512_storeu_si512(to, _mm512_unpacklo_epi16(low, high));
  _mm512_storeu_si512(to + kPanel, _mm512_unpackhi_epi16(low, high));
#else
  for (int i = 0; i < kPanel; ++i) {
    to[2 * i] = even[i];
    to[2 * i + 1] = odd[i];
  }
#endif
}

// A form of X^T: 32 rows of X become one panel [round_up(width, 32)][32].
template <typename E, typename S>
void pack_transposed(E* panel, const S* from, int64_t stride, int64_t rows, int64_t width) {
  alignas(64) E square[kPanel * kPanel];
  for (int64_t d = 0; d < width; d += kPanel) {
    E* to = panel + d * kPanel;
    if constexpr (sizeof(E) == 4) {
      if (sizeof(S) == 4 && rows == kPanel && d + kPanel <= width) {
        transpose_words(to, kPanel, reinterpret_cast<const E*>(from + d), stride, kPanel, kPanel);
        continue;
      }
      gather_square(square, from + d, stride, rows, smaller(kPanel, width - d));
      transpose_words(to, kPanel, square, kPanel, kPanel, kPanel);
    } else {
      // Pairs of rows as words, then a transposition of words.
      alignas(64) E pairs[kPanel * kPanel];
      gather_square(square, from + d, stride, rows, smaller(kPanel, width - d));
      for (int r = 0; r < kPanel; r += 2) {
        interleave_rows(pairs + r * kPanel, square + r * kPanel, square + (r + 1) * kPanel);
      }
      transpose_words(as_words(to), kPanel / 2, as_words(pairs), kPanel, kPanel / 2, kPanel);
    }
  }
}

// B form of X^T: 32 rows of X become one panel, the right operand of a product over the width.
template <typename E, typename S>
void pack_transposed_right(E* panel, const S* from, int64_t stride, int64_t rows, int64_t width) {
  if constexpr (sizeof(E) == 4) {
    pack_transposed(panel, from, stride, rows, width);
  } else {
    alignas(64) E square[kPanel * kPanel];
    for (int64_t d = 0; d < width; d += kPanel) {
      gather_square(square, from + d, stride, rows, smaller(kPanel, width - d));
      transpose_words(as_words(panel + d * kPanel), kPanel, as_words(square), kPanel / 2, kPanel, kPanel / 2);
    }
  }
}

// B form of X [rows][width], the right operand of a product over the rows: panels of `padded_rows` (even) rows.
template <typename E, typename S>
void pack_rows_right(E* to, int64_t panel_stride, const S* from, int64_t stride, int64_t rows, int64_t padded_rows,
                     int64_t width) {
  if constexpr (sizeof(E) == 4) {
    pack_rows(to, panel_stride, from, stride, rows, padded_rows, width);
  } else {
    alignas(64) E pair[2][kPanel];
    for (int64_t d = 0; d < width; d += kPanel) {
      E* panel = to + d / kPanel * panel_stride;
      const int64_t count = smaller(kPanel, width - d);
      for (int64_t r = 0; r < padded_rows; r += 2) {
        for (int64_t i = 0; i < 2; ++i) {
          copy_row(pair[i], from + (r + i < rows ? (r + i) * stride + d : 0), r + i < rows ? count : 0);
        }
        interleave_rows(panel + r * kPanel, pair[0], pair[1]);
      }
    }
  }
}

// One row of a result panel, scaled, to memory.
template <typename S>
RL_INLINE void store_row(S* to, const float* from, int64_t count, float factor) {
  if (count == kPanel) {
    for (int i = 0; i < kPanel; i += kLanes) store(to + i, load(from + i) * factor);
  } else {
    for (int64_t i = 0; i < count; ++i) from_float(from[i] * factor, to + i);
  }
}

// Result panels X [rows][width] (panel p at from + p * panel_stride) to memory.
template <typename S>
void unpack_rows(S* to, int64_t stride, const float* from, int64_t panel_stride, int64_t rows, int64_t width,
                 float factor) {
  for (int64_t d = 0; d < width; d += kPanel) {
    const float* panel = from + d / kPanel * panel_stride;
    for (int64_t r = 0; r < rows; ++r) {
      store_row(to + r * stride + d, panel + r * kPanel, smaller(kPanel, width - d), factor);
    }
  }
}

// One result panel X^T [round_up(width, 32)][32] to `rows` <= 32 rows of X in memory.
template <typename S>
void unpack_transposed(S* to, int64_t stride, const float* panel, int64_t rows, int64_t width, float factor) {
  alignas(64) float square[kPanel * kPanel];
  for (int64_t d = 0; d < width; d += kPanel) {
    transpose_words(square, kPanel, panel + d * kPanel, kPanel, kPanel, kPanel);
    for (int64_t r = 0; r < rows; ++r) {
      store_row(to + r * stride + d, square + r * kPanel, smaller(kPanel, width - d), factor);
    }
  }
}

}  // namespace
}  // namespace ridgeline::ops::cpu

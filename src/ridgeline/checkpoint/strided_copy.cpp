#include "ridgeline/checkpoint/strided_copy.h"

#include <algorithm>
#include <cstring>

#include "ridgeline/base/error.h"

namespace ridgeline::checkpoint {
namespace {

// Square tiles, so that a transposition uses every cache line it touches.
constexpr int64_t kTile = 32;

template <int kSize, bool kGather>
void move_elements(const StridedRead& read, std::byte* ours, std::byte* theirs) {
  theirs += read.start * kSize;
  for (int64_t r0 = 0; r0 < read.rows; r0 += kTile) {
    const int64_t r1 = std::min(read.rows, r0 + kTile);
    for (int64_t c0 = 0; c0 < read.columns; c0 += kTile) {
      const int64_t c1 = std::min(read.columns, c0 + kTile);
      for (int64_t r = r0; r < r1; ++r) {
        std::byte* mine = ours + (r * read.columns + c0) * kSize;
        std::byte* other = theirs + (r * read.row_stride + c0 * read.column_stride) * kSize;
        for (int64_t c = c0; c < c1; ++c, mine += kSize, other += read.column_stride * kSize) {
          if constexpr (kGather) {
            std::memcpy(mine, other, kSize);
          } else {
            std::memcpy(other, mine, kSize);
          }
        }
      }
    }
  }
}

template <bool kGather>
void move(const StridedRead& read, std::byte* ours, std::byte* theirs, int64_t size) {
  if (read.column_stride == 1 || read.columns == 1) {
    for (int64_t r = 0; r < read.rows; ++r) {
      std::byte* mine = ours + r * read.columns * size;
      std::byte* other = theirs + (read.start + r * read.row_stride) * size;
      std::memcpy(kGather ? mine : other, kGather ? other : mine, static_cast<size_t>(read.columns * size));
    }
    return;
  }
  switch (size) {
    case 1:
      return move_elements<1, kGather>(read, ours, theirs);
    case 2:
      return move_elements<2, kGather>(read, ours, theirs);
    case 4:
      return move_elements<4, kGather>(read, ours, theirs);
    case 8:
      return move_elements<8, kGather>(read, ours, theirs);
    default:
      RL_REQUIRE(false, "elements of {} bytes", size);
  }
}

}  // namespace

void gather(const StridedRead& read, const std::byte* theirs, std::byte* ours, int64_t size) {
  move<true>(read, ours, const_cast<std::byte*>(theirs), size);
}

void scatter(const StridedRead& read, const std::byte* ours, std::byte* theirs, int64_t size) {
  move<false>(read, const_cast<std::byte*>(ours), theirs, size);
}

}  // namespace ridgeline::checkpoint

// Sums over rows in fixed blocks: each block is summed on its own, then the blocks are added in ascending order, so
// that the result depends on the number of rows and not on the team.
#pragma once

#include <algorithm>
#include <cstdint>

#include "ridgeline/device/stream.h"

namespace ridgeline::ops::cpu {

// [0, n) cut into at most 128 blocks of at least 16 rows.
struct RowBlocks {
  explicit RowBlocks(int64_t rows)
      : n(rows),
        rows_per_block(std::max<int64_t>(16, (rows + 127) / 128)),
        count((n + rows_per_block - 1) / rows_per_block) {}
  int64_t begin(int64_t block) const { return block * rows_per_block; }
  int64_t end(int64_t block) const { return std::min(n, (block + 1) * rows_per_block); }

  int64_t n, rows_per_block, count;
};

// sums[i] += partials[0][i] + partials[1][i] + ... for i < count; consecutive blocks of partials are `stride` floats
// apart.
void add_blocks(device::Stream& stream, int64_t blocks, int64_t stride, int64_t count, const float* partials,
                float* sums);

}  // namespace ridgeline::ops::cpu

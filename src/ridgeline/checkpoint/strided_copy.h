// Moving the elements of StridedReads, whatever their type: internal to import and export.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ridgeline/checkpoint/hugging_face.h"

namespace ridgeline::checkpoint {

// ours[r * columns + c] = theirs[start + r * row_stride + c * column_stride] for elements of `size` bytes. `theirs` is
// their whole tensor, `ours` the place of element `read.ours`. No alignment is needed.
void gather(const StridedRead& read, const std::byte* theirs, std::byte* ours, int64_t size);
// The reverse.
void scatter(const StridedRead& read, const std::byte* ours, std::byte* theirs, int64_t size);

}  // namespace ridgeline::checkpoint

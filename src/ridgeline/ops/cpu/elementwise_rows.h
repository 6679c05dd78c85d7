// Element-wise ops on part of a matrix, on the calling thread alone: what fused epilogues run, so that their bits are
// those of the unfused ops (elementwise.h).
#pragma once

#include <cstdint>

#include "ridgeline/base/dtype.h"
#include "ridgeline/device/stream.h"

namespace ridgeline::ops::cpu {

// A stream whose work runs on the calling thread: any element-wise operator, for a part.
device::Stream& calling_thread();

// As gelu_forward and gelu_backward, for `rows` rows of `columns` elements; `ld` elements from one row to the next.
void gelu_forward_rows(int64_t rows, int64_t columns, int64_t ld, ConstRef x, Ref y);
void gelu_backward_rows(int64_t rows, int64_t columns, int64_t ld, ConstRef x, ConstRef dy, Ref dx);

}  // namespace ridgeline::ops::cpu

// Fused softmax cross-entropy, forward and backward in one pass over the logits.
//   loss[n]      = log sum_v exp(x[n][v]) - x[n][label[n]]           (0 when label[n] = -100)
//   x[n][v]     <- scale * (softmax(x[n])[v] - [v == label[n]])      (0 when label[n] = -100), in place, when
//   with_gradient
// Shapes: logits [N][V] with leading dimension ld >= V (columns V … ld-1 are not read; with_gradient sets them to 0);
// labels i32 [N], each in [0, V) or -100; losses f32 [N]. Logits f32, bf16 or f16; arithmetic fp32, one
// rounding. A gradient beyond the dtype becomes infinite (f16: loss scaling looks for that); nothing is clamped.
#pragma once

#include <cstdint>

#include "ridgeline/base/dtype.h"
#include "ridgeline/device/stream.h"
#include "ridgeline/ops/index_range.h"

namespace ridgeline::ops {

constexpr int32_t kIgnoredLabel = -100;

void cross_entropy(device::Stream& stream, int64_t n, int64_t v, int64_t ld, Ref logits, const int32_t* labels,
                   float scale, bool with_gradient, float* losses);

// The same in steps, where slices of the vocabulary lie with several: each computes the statistics of its columns, all
// get those of all, combine them, and finish with their own columns.
//
// Here logits are [N][held.count], the columns [held.first, held.first + held.count) of V = held.whole; held.count may
// be 0. Labels are of the whole vocabulary, in [0, V) or -100 (RL_CHECK). All else is as above.

// Of one row, over some of its columns; of no columns, and of a row whose label is -100: {-inf, 0, 0}.
struct RowStatistics {
  float max = 0;          // max x
  float label_logit = 0;  // x[label]; 0 where the label is not among the columns
  double sum = 0;         // sum exp(x - max); double, or near certainty the loss and 1 - p would have few right digits
};
static_assert(sizeof(RowStatistics) == 16);  // no padding: all of it may be sent

// rows [N], written. Rows whose label is -100 are not read. Logits that are -inf (masked) add 0 to the sum, which is 0
// where all are; where one is NaN or +inf the sum is NaN.
void cross_entropy_statistics(device::Stream& stream, int64_t n, const IndexRange& held, int64_t ld, ConstRef logits,
                              const int32_t* labels, RowStatistics* rows);

// rows[n] = the statistics of all columns, from of_slices [slices][N] in ascending order of the slices: who combines
// the same gets the same bits. From one slice they are its own. `rows` may be `of_slices` (its first slice). A NaN
// among the sums is kept, so that the loss of a row with a NaN or +inf is not finite.
void cross_entropy_combine(device::Stream& stream, int64_t n, int64_t slices, const RowStatistics* of_slices,
                           RowStatistics* rows);

// losses [N] and, with_gradient, the gradient of the slice's columns in place, from the statistics of all columns. One
// slice that is the whole gives the bits of cross_entropy; several differ by the rounding of the sum.
void cross_entropy_finish(device::Stream& stream, int64_t n, const IndexRange& held, int64_t ld, Ref logits,
                          const int32_t* labels, const RowStatistics* rows, float scale, bool with_gradient,
                          float* losses);

}  // namespace ridgeline::ops

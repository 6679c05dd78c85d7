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

namespace ridgeline::ops {

constexpr int32_t kIgnoredLabel = -100;

void cross_entropy(device::Stream& stream, int64_t n, int64_t v, int64_t ld, Ref logits, const int32_t* labels,
                   float scale, bool with_gradient, float* losses);

}  // namespace ridgeline::ops

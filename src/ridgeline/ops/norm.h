// Layer norm (and, beside it later, RMS norm) over the last axis.
//
//   mean = 1/C sum x,  rstd = 1/sqrt(1/C sum (x - mean)^2 + epsilon),  y = (x - mean) * rstd * weight + bias
//
// Shapes: x, y, dx, dy [N][C] (N tokens); weight, bias [C]; mean, rstd [N] f32. Dtypes: x, y, dx, dy, residual gradient
// f32 or bf16 (one dtype per call); weight, bias f32 or bf16; arithmetic fp32 (two-pass variance). Order: rows are
// independent; weight gradients add over fixed blocks of rows in ascending order, independent of the team.
#pragma once

#include <cstdint>

#include "ridgeline/base/dtype.h"
#include "ridgeline/device/stream.h"

namespace ridgeline::ops {

// y must not alias x. mean and rstd may be null (evaluation).
void layernorm_forward(device::Stream& stream, int64_t n, int64_t c, float epsilon, ConstRef x, ConstRef weight,
                       ConstRef bias, Ref y, float* mean, float* rstd);

int64_t layernorm_backward_workspace_bytes(int64_t n, int64_t c, int team_size);

// dx = dresidual + dLN/dx (dresidual: gradient that reaches x past the norm, null for none; dx may be dresidual, and
// may alias dy). dweight[C] += ..., dbias[C] += ... in f32. dx or (dweight and dbias) may be null: only the other part
// is computed.
void layernorm_backward(device::Stream& stream, int64_t n, int64_t c, ConstRef x, ConstRef weight, const float* mean,
                        const float* rstd, ConstRef dy, ConstRef dresidual, Ref dx, float* dweight, float* dbias,
                        void* workspace);

}  // namespace ridgeline::ops

// Layer norm and RMS norm over the last axis.
//
//   layer norm: mean = 1/C sum x,  rstd = 1/sqrt(1/C sum (x - mean)^2 + epsilon),  y = (x - mean) * rstd * weight +
//   bias RMS norm:   rstd = 1/sqrt(1/C sum x^2 + epsilon),                              y = x * rstd * weight
//
// Shapes: x, y, dx, dy [N][C] (N tokens); weight, bias [C]; mean, rstd [N] f32. Dtypes: x, y, dx, dy, residual gradient
// f32, bf16 or f16 (one dtype per call); weight, bias (one dtype) f32 or x's dtype; arithmetic fp32 (two-pass
// variance). Order: rows are independent; weight gradients add over fixed blocks of rows in ascending order,
// independent of the team. Sources: Ba, Kiros & Hinton 2016 (layer norm); Zhang & Sennrich 2019 (RMS norm).
#pragma once

#include <cstdint>

#include "ridgeline/base/dtype.h"
#include "ridgeline/device/stream.h"
#include "ridgeline/ops/workspace.h"

namespace ridgeline::ops {

// y must not alias x. bias may be null (a norm without bias). mean and rstd may be null (evaluation).
void layernorm_forward(device::Stream& stream, int64_t n, int64_t c, float epsilon, ConstRef x, ConstRef weight,
                       ConstRef bias, Ref y, float* mean, float* rstd);

int64_t layernorm_backward_workspace_bytes(int64_t n, int64_t c, int team_size);

// `workspace` is checked; without dweight none is needed.
// dx = dresidual + dLN/dx (dresidual: gradient that reaches x past the norm, null for none; dx may be dresidual, and
// may alias dy). dweight[C] += ..., dbias[C] += ... in f32. dx or dweight may be null: only the other part is computed.
// dbias may be null (always where dweight is); dweight is then the same bits.
void layernorm_backward(device::Stream& stream, int64_t n, int64_t c, ConstRef x, ConstRef weight, const float* mean,
                        const float* rstd, ConstRef dy, ConstRef dresidual, Ref dx, float* dweight, float* dbias,
                        Workspace workspace);

// y must not alias x. rstd may be null (evaluation).
void rmsnorm_forward(device::Stream& stream, int64_t n, int64_t c, float epsilon, ConstRef x, ConstRef weight, Ref y,
                     float* rstd);

int64_t rmsnorm_backward_workspace_bytes(int64_t n, int64_t c, int team_size);

// As layernorm_backward: with g = dy * weight, h = x * rstd,
//   dx = dresidual + rstd (g - h mean_c(g h)),  dweight[C] += sum_n dy h
// dresidual may be null; dx may be dresidual, and may alias dy; dx or dweight may be null.
void rmsnorm_backward(device::Stream& stream, int64_t n, int64_t c, ConstRef x, ConstRef weight, const float* rstd,
                      ConstRef dy, ConstRef dresidual, Ref dx, float* dweight, Workspace workspace);

}  // namespace ridgeline::ops

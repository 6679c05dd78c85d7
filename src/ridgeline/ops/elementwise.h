// Element-wise operators and small reductions. All bandwidth-bound; arithmetic in fp32, one rounding to the output's
// dtype. Dtypes: f32, bf16 and f16 (what overflows becomes infinite); one call mixes them only where said.
#pragma once

#include <cstdint>

#include "ridgeline/base/dtype.h"
#include "ridgeline/base/exact_sum.h"
#include "ridgeline/device/stream.h"
#include "ridgeline/ops/workspace.h"

namespace ridgeline::ops {

enum class Activation { gelu_tanh, gelu_erf, silu };

// y = f(x); x, y one dtype; y may be x. Any cut of the range gives the same bits.
//   gelu_tanh  0.5 x (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x^3)
//   gelu_erf   0.5 x (1 + erf(x / sqrt 2)) = x Phi(x)
//   silu       x / (1 + e^-x)
// Error in f32, in units in the last place: gelu_erf 6, silu 3 (both where |y| > 2^-116); gelu_tanh 5, in the left
// tail, where y is about x e^(2u), 5 + 2.5 |2u|, and below x = -9.5 (y > -1e-31) within 1e-30.
// Sources: Hendrycks & Gimpel 2016 (GELU); Elfwing, Uchibe & Doya 2017 (SiLU).
void activation_forward(device::Stream& stream, Activation activation, int64_t count, ConstRef x, Ref y);
// dx = dy * f'(x); dx may be dy or x. One dtype.
void activation_backward(device::Stream& stream, Activation activation, int64_t count, ConstRef x, ConstRef dy, Ref dx);

// The tanh form, with the bits of the epilogues in matmul.h.
void gelu_forward(device::Stream& stream, int64_t count, ConstRef x, Ref y);
void gelu_backward(device::Stream& stream, int64_t count, ConstRef x, ConstRef dy, Ref dx);

// SwiGLU (Shazeer 2020), gate_up [N][2][F] (gate, then up):
//   out[n][f] = silu(gate[n][f]) * up[n][f],   out [N][F]
// One dtype, one rounding. out must not overlap gate_up.
void swiglu_forward(device::Stream& stream, int64_t n, int64_t f, ConstRef gate_up, Ref out);
// dgate = dout * up * silu'(gate),  dup = dout * silu(gate). dgate_up [N][2][F] may be gate_up. One dtype.
void swiglu_backward(device::Stream& stream, int64_t n, int64_t f, ConstRef gate_up, ConstRef dout, Ref dgate_up);

// out = a + b; out may be a or b. One dtype.
void add(device::Stream& stream, int64_t count, ConstRef a, ConstRef b, Ref out);

// sum += x, in fp32; x f32 or a 2-byte float.
void accumulate(device::Stream& stream, int64_t count, ConstRef x, float* sum);

// out = in with the dtype of `out` (any of f32, bf16, f16). No overlap.
void cast(device::Stream& stream, int64_t count, ConstRef in, Ref out);

// Sets `bytes` bytes to zero.
void zero(device::Stream& stream, void* data, int64_t bytes);

// sums[c] += sum_n x[n][c], x [N][C] (leading dimension ld): a bias gradient. Fixed blocks of rows,
// ascending.
int64_t column_sums_workspace_bytes(int64_t n, int64_t c, int team_size);
void column_sums(device::Stream& stream, int64_t n, int64_t c, ConstRef x, int64_t ld, float* sums,
                 Workspace workspace);

// Where a token of this rank stands: what dropout and positions are addressed by.
struct TokenMap {
  const uint32_t* sample = nullptr;   // [N] global sample number of the run
  const int32_t* position = nullptr;  // [N] position in the sequence
};

// Dropout of x [N][C], addressed by (sample, position, site, element): value kept iff word (c % 4) of
// philox(random_key, {c / 4, position, site, sample}) >= probability * 2^32; kept values are divided by (1 -
// probability).
struct Dropout {
  float probability = 0.0F;
  uint64_t random_key = 0;  // random_key(seed, step, Purpose::dropout)
  uint32_t site = 0;        // layer * 4 + which place in the layer
  TokenMap tokens;
};
// out = residual + dropout(x) (residual may be null: then out = dropout(x)); out may be x or residual. One dtype. The
// dropped value is rounded to the dtype before the sum ("as stored").
void dropout_forward(device::Stream& stream, int64_t n, int64_t c, const Dropout& dropout, ConstRef x,
                     ConstRef residual, Ref out);
// dx = dropout mask applied to dy; dx may be dy.
void dropout_backward(device::Stream& stream, int64_t n, int64_t c, const Dropout& dropout, ConstRef dy, Ref dx);

// sum += x[0]^2 + … + x[count-1]^2, exactly: the same bits however elements are cut into calls, ranks and teams.
// Elements that are infinite or NaN make it non-finite (how many it counts is not said).
void add_squares(device::Stream& stream, int64_t count, ConstRef x, ExactSum& sum);

// Index of the first non-finite element of x, or -1.
int64_t first_non_finite(device::Stream& stream, int64_t count, ConstRef x);

}  // namespace ridgeline::ops

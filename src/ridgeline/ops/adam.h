// Adam and AdamW on flat ranges of a shard (Kingma & Ba 2015; Loshchilov & Hutter 2019).
//   g  = gradient * gradient_scale          (clipping, unscaling: one factor)
//   g += weight_decay * p                   (L2 form only)
//   m  = beta1 m + (1 - beta1) g,   v = beta2 v + (1 - beta2) g^2
//   p -= learning_rate * ( (m / correction1) / (sqrt(v / correction2) + epsilon) + weight_decay p [decoupled form] )
// with correction_i = 1 - beta_i^t. The same pass writes the working copy (bf16) and zeroes the gradient.
// Element-wise, so any cut of the range gives the same bits.
#pragma once

#include <cstdint>

#include "ridgeline/base/dtype.h"
#include "ridgeline/device/stream.h"

namespace ridgeline::ops {

// Values that change per step. Lives in device memory (on the CPU: any memory), so that no step waits for the host.
struct AdamScalars {
  float learning_rate = 0, gradient_scale = 1, correction1 = 1, correction2 = 1;
  int32_t skip = 0;  // nonzero: leave everything as it is, except that the gradient is still zeroed when asked
};

struct Adam {
  double beta1 = 0.9, beta2 = 0.999;  // double: 1 - beta2 in fp32 would be off by 1e-5
  float epsilon = 1e-8F, weight_decay = 0.0F;
  bool decoupled = true;  // AdamW
  bool zero_gradient = true;
};

// master, m, v f32 [count]; gradient f32 or bf16 [count]; working copy bf16 [count] or null (fp32 training).
void adam(device::Stream& stream, int64_t count, const Adam& settings, const AdamScalars* scalars, float* master,
          Ref gradient, float* m, float* v, Ref working_copy);

}  // namespace ridgeline::ops

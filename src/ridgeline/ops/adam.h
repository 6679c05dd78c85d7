// Adam and AdamW on flat ranges of a shard (Kingma & Ba 2015; Loshchilov & Hutter 2019).
//   g  = gradient * gradient_scale          (clipping, unscaling: one factor)
//   g += weight_decay * p                   (L2 form only)
//   m  = beta1 m + (1 - beta1) g,   v = beta2 v + (1 - beta2) g^2
//   p -= learning_rate * ( (m / correction1) / (sqrt(v / correction2) + epsilon) + weight_decay p [decoupled form] )
// with correction_i = 1 - beta_i^t. The same pass writes the working copy and zeroes the gradient. Arithmetic fp32,
// from the stored values; p moves by m and v before these are rounded.
//
// What is stored narrower than fp32:
//   m, v in bf16    rounded to nearest. A state then stands still where its change is below half a unit in the last
//                   place: v, which shrinks by 1 - beta2, needs beta2 <= 0.99 to be able to fall.
//   p in bf16       (pure bf16 training) rounded stochastically: up with the probability that makes the mean right, so
//                   that steps smaller than the last place add up (Zamirai et al., "Revisiting BFloat16 training",
//                   2020). The random bits have an address, see AdamRounding.
// Element-wise, so any cut of the range gives the same bits.
#pragma once

#include <cstdint>

#include "ridgeline/base/dtype.h"
#include "ridgeline/device/stream.h"

namespace ridgeline::ops {

// Values that change per step. Lives in device memory (on the CPU: any memory), so that no step waits for the host.
struct AdamScalars {
  float learning_rate = 0, gradient_scale = 1, correction1 = 1, correction2 = 1;
  int32_t skip = 0;           // nonzero: leave everything as it is, except that the gradient is still zeroed when asked
  uint64_t rounding_key = 0;  // random_key(seed, step, Purpose::rounding); only a bf16 master reads it
};

// The address of a bf16 master's random bits: the element at global index i of a tensor adds half (i % 2: 0 the lower)
// of word (i % 8) / 2 of philox(rounding_key, {i / 8 low, i / 8 high, tensor low, tensor high}) to the 16 bits that it
// drops. Any layout that knows an element's tensor and index rounds it alike.
struct AdamRounding {
  uint64_t tensor = 0;
  int64_t first = 0;  // global index of the range's first element
};

struct Adam {
  double beta1 = 0.9, beta2 = 0.999;  // double: 1 - beta2 in fp32 would be off by 1e-5
  float epsilon = 1e-8F, weight_decay = 0.0F;
  bool decoupled = true;  // AdamW
  bool zero_gradient = true;
  AdamRounding rounding;
};

// All [count]: master f32 or bf16; m and v each f32 or bf16; gradient f32, bf16 or f16; working copy bf16, f16 or null:
// the master as stored, rounded to nearest. Nothing overlaps. Fastest with master, m and v in f32; other forms pass
// through the first-level cache once more.
void adam(device::Stream& stream, int64_t count, const Adam& settings, const AdamScalars* scalars, Ref master,
          Ref gradient, Ref m, Ref v, Ref working_copy);

}  // namespace ridgeline::ops

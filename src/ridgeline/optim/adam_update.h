// What happens to a flat shard at an update, whoever cut it.
#pragma once

#include <cstdint>

#include "ridgeline/base/dtype.h"
#include "ridgeline/device/stream.h"
#include "ridgeline/model/declarations.h"
#include "ridgeline/ops/adam.h"

namespace ridgeline::optim {

// State of consecutive elements of a segment. Masters f32 or bf16; moments f32 or bf16; `copy` is what products
// read, null where these are the masters.
struct ShardState {
  Ref master, gradient, moment1, moment2, copy;
};

// One Adam step on elements [first, last) of the segment; `state` begins with element `first`. Weight decay
// applies to the decayed tensors only. Masters in bf16 are rounded stochastically, by random bits that are addressed
// inside each tensor: the same bits however the segment is cut. `scalars` is read while the stream works.
void adam_update(device::Stream& stream, const model::Segment& segment, int64_t first, int64_t last,
                 const ShardState& state, const ops::Adam& adam, const ops::AdamScalars& scalars);

}  // namespace ridgeline::optim

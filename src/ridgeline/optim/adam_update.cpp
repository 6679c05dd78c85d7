#include "ridgeline/optim/adam_update.h"

#include <algorithm>

#include "ridgeline/base/random.h"

namespace ridgeline::optim {

void adam_update(device::Stream& stream, const model::Segment& segment, int64_t first, int64_t last,
                 const ShardState& state, const ops::Adam& adam, const ops::AdamScalars& scalars) {
  const auto elements = [&](int64_t begin, int64_t end, bool decay, ops::AdamRounding rounding) {
    const int64_t from = std::max(begin, first) - first;
    const int64_t count = std::min(end, last) - first - from;
    if (count <= 0) return;
    ops::Adam settings = adam;
    settings.weight_decay = decay ? adam.weight_decay : 0.0F;
    settings.zero_gradient = false;  // the next step clears what it adds to
    settings.rounding = rounding;
    ops::adam(stream, count, settings, &scalars, state.master.at(from), state.gradient.at(from), state.moment1.at(from),
              state.moment2.at(from), state.copy ? state.copy.at(from) : state.copy);
  };
  if (state.master.dtype == DType::f32) {
    elements(0, segment.decayed, true, {});
    elements(segment.decayed, segment.count, false, {});
    return;
  }
  model::for_each_tensor_range(segment, first, last,
                               [&](const model::Tensor& tensor, int64_t at, int64_t count, int64_t offset) {
                                 elements(offset, offset + count, tensor.decay, {hash_name(tensor.name), at});
                               });
}

}  // namespace ridgeline::optim

// The part of a model's width that one rank computes, and the ranks that compute the rest of it (tensor parallelism).
#pragma once

#include <cstdint>

#include "ridgeline/base/dtype.h"
#include "ridgeline/device/stream.h"
#include "ridgeline/model/transformer_config.h"

namespace ridgeline::model {

// Heads [first_head, first_head + heads) with the key heads that they read, and feed-forward columns. Weights are those
// of the slice, cut along Tensor::split_axis. Norms and the residual stream are whole in every slice.
struct Slice {
  int64_t first_head = 0, heads = 0;  // whole groups of heads that read one key head, or heads of one group
  int64_t kv_heads = 0;
  int64_t ffn = 0;
  bool first =
      true;  // adds what the sum over the slices needs once: biases of products that end in the residual stream

  bool operator==(const Slice&) const = default;
};
// All of it.
inline Slice whole(const TransformerConfig& config) {
  return {.heads = config.heads, .kv_heads = config.kv_heads, .ffn = config.ffn};
}

// The ranks that compute the other slices of the same products at the same time.
class SliceGroup {
 public:
  virtual ~SliceGroup() = default;
  // values [count] become the sum over all slices, on each of them. Complete on return, or ordered on the stream.
  virtual void sum(device::Stream& stream, Ref values, int64_t count) = 0;
};

}  // namespace ridgeline::model

// The part of a model's width that one rank computes, and the ranks that compute the rest of it (tensor parallelism).
#pragma once

#include <cstddef>
#include <cstdint>

#include "ridgeline/base/dtype.h"
#include "ridgeline/device/stream.h"
#include "ridgeline/model/transformer_config.h"

namespace ridgeline::model {

// Heads [first_head, first_head + heads) with the key heads that they read, feed-forward columns, rows of the
// vocabulary. Weights are those of the slice, cut along Tensor::split_axis. Norms, positions and the residual stream
// are whole in every slice.
struct Slice {
  int index = 0, count = 1;           // which of how many
  int64_t first_head = 0, heads = 0;  // whole groups of heads that read one key head, or heads of one group
  int64_t kv_heads = 0;
  int64_t ffn = 0;
  int64_t first_row = 0, rows = 0;  // of the vocabulary; may be none

  // Adds what a sum over the slices needs once: positions, and biases of products that end in the residual stream.
  bool first() const { return index == 0; }
};
// All of it.
inline Slice whole(const TransformerConfig& config) {
  return {.heads = config.heads, .kv_heads = config.kv_heads, .ffn = config.ffn, .rows = config.vocab};
}

// The ranks that compute the other slices of the same products at the same time.
class SliceGroup {
 public:
  virtual ~SliceGroup() = default;
  // values [count] become the sum over all slices, on each of them. Complete on return, or ordered on the stream.
  virtual void sum(device::Stream& stream, Ref values, int64_t count) = 0;
  // all [slices][bytes]: what each slice has written to its own place comes to all of them.
  virtual void gather(device::Stream& stream, std::byte* all, int64_t bytes) = 0;
};

}  // namespace ridgeline::model

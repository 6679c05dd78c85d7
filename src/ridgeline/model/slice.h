// The part of a model's width that one rank computes, and the ranks that compute the rest of it (tensor parallelism).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "ridgeline/base/dtype.h"
#include "ridgeline/device/stream.h"
#include "ridgeline/model/transformer_config.h"

namespace ridgeline::model {

// [first, first + count)
struct Range {
  int64_t first = 0, count = 0;
};
// Part `index` of `parts`, which differ by at most one.
constexpr Range part_of(int64_t count, int64_t index, int64_t parts) {
  const int64_t begin = count * index / parts;
  return {begin, count * (index + 1) / parts - begin};
}

// Of what a tensor is split by, a slice holds its part.
enum class SplitBy : uint8_t { nothing, heads, kv_heads, ffn, rows };

// Heads with the key heads that they read, feed-forward columns, rows of the vocabulary. Weights are those of the
// slice, cut along Tensor::split_axis. The residual stream and what works on it (norms, dropout, biases of products
// that end in it) are whole in every slice; or, with `sequence` (sequence parallelism, Korthikanti et al. 2022), each
// slice has its tokens of them.
struct Slice {
  int index = 0, count = 1;  // which of how many
  bool sequence = false;
  Range heads;     // whole groups of heads that read one key head, or heads of one group
  Range kv_heads;  // several slices hold the same where there are fewer than slices
  Range ffn;
  Range rows;  // of the vocabulary; may be none

  // Adds what a sum over the slices needs once: positions, and biases of products that end in the residual stream.
  bool first() const { return index == 0; }
  Range of(SplitBy what) const;
  // Of so many in all, those of the residual stream: N is a multiple of `count` with `sequence`.
  Range tokens(int64_t all) const { return sequence ? part_of(all, index, count) : Range{0, all}; }
};
// All of it.
inline Slice whole(const TransformerConfig& config) {
  return {
      .heads = {0, config.heads}, .kv_heads = {0, config.kv_heads}, .ffn = {0, config.ffn}, .rows = {0, config.vocab}};
}
// Slice `index` of `count` equal ones (rows differ by at most one). `count` must be one that unsliceable() accepts.
Slice slice_of(const TransformerConfig& config, int index, int count, bool sequence = false);
// Why a model cannot be cut into so many slices; nothing when it can.
std::optional<std::string> unsliceable(const TransformerConfig& config, int64_t count);
// How many slices read the same key heads.
int key_head_copies(const TransformerConfig& config, int slices);

// What a slice shares with the others: bytes of values that are summed whole, and of its own part of those that are
// summed or gathered by parts.
struct SliceTraffic {
  int64_t whole = 0, part = 0;

  SliceTraffic& operator+=(const SliceTraffic& other) {
    whole += other.whole;
    part += other.part;
    return *this;
  }
  bool operator==(const SliceTraffic&) const = default;
};

// The ranks that compute the other slices of the same products at the same time. Complete on return, or ordered on the
// stream, but for what is started.
class SliceGroup {
 public:
  virtual ~SliceGroup() = default;
  // Whether sums that were started go on while this rank computes.
  virtual bool travels() const { return false; }
  // values [count] become the sum over all slices, on each of them, when finish() returns.
  virtual void start_sum(device::Stream& stream, Ref values, int64_t count) = 0;
  virtual void finish(device::Stream& stream) = 0;  // all sums that were started
  // all [slices][count]: each slice's own part becomes the sum of it over all slices; the others are undefined.
  virtual void sum_parts(device::Stream& stream, Ref all, int64_t count) = 0;
  // all [slices][count]: what each slice has written to its own part comes to all of them.
  virtual void gather(device::Stream& stream, Ref all, int64_t count) = 0;
};

}  // namespace ridgeline::model

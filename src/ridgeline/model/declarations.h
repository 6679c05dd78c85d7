// What a model consists of, declared once and globally: units, their tensors, and how these lie in flat segments.
// Offsets, shards, initial values, checkpoint headers, imports, exports, FLOPs and bytes all follow from this table by
// pure functions; nothing here knows ranks.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ridgeline/base/dtype.h"
#include "ridgeline/model/transformer_config.h"

namespace ridgeline::model {

using Shape = std::vector<int64_t>;
int64_t element_count(const Shape& shape);

enum class Init { zeros, ones, normal };

struct Tensor {
  std::string name;    // global and stable: "block.3.attention.qkv.weight"
  Shape shape;         // global
  int split_axis = 0;  // the axis that tensor parallelism cuts, -1 for none: first, or second behind an axis <= 3
  Init init = Init::zeros;
  float deviation = 0.0F;  // of Init::normal
  bool decay = false;      // hyper-group: weight decay applies (matrices only)
  int64_t offset = 0;      // first element inside the unit's segment, a multiple of kTensorAlignment

  int64_t count() const { return element_count(shape); }
};

// 64 bytes in every dtype down to 16 bits.
constexpr int64_t kTensorAlignment = 32;
// What one rank keeps is whole blocks of it: of whole pages in every dtype, as a file of offloaded state wants.
constexpr int64_t kShardBlock = 4096;

enum class UnitKind { vocabulary, positions, block, final_norm, head };

// Parameters of one unit that are gathered, reduced and updated together: one flat buffer, tensors of the decayed group
// first.
struct Segment {
  std::string name;  // its unit's: "vocabulary", "positions", "block.3", "final_norm", "head"; the second's "block.3:1"
  UnitKind kind = UnitKind::block;  // of its unit
  int layer = -1;                   // of a block
  int unit = 0;                     // which it is of the model's
  std::vector<Tensor> tensors;
  int64_t count = 0;    // elements with alignment gaps, before padding for shards
  int64_t decayed = 0;  // elements [0, decayed) belong to decayed tensors

  const Tensor& tensor(std::string_view suffix) const;  // by the end of its name ("attention.qkv.weight")
  const Tensor* find(std::string_view suffix) const;    // null when there is none
  // Elements when cut into `shards` equal parts, each a multiple of kShardBlock.
  int64_t padded(int64_t shards) const;
};

// Segments in memory: of weights (ConstRef), or of f32 gradients (float*).
template <typename Data>
struct Placed {
  const Segment* segment;
  Data data;  // its first element
};
template <typename Data>
using PlacedSegments = std::vector<Placed<Data>>;

// Where a tensor lies, by the end of its name; null when the segments have none of this name.
template <typename Data>
Data find(const PlacedSegments<Data>& segments, std::string_view suffix);

// The tensors that meet elements [first, last) of a segment: f(tensor, first element inside the tensor, count, offset
// in the segment). Alignment gaps belong to no tensor.
template <typename F>
void for_each_tensor_range(const Segment& segment, int64_t first, int64_t last, F&& f) {
  for (const Tensor& tensor : segment.tensors) {
    const int64_t begin = std::max(first, tensor.offset), end = std::min(last, tensor.offset + tensor.count());
    if (begin < end) f(tensor, begin - tensor.offset, end - begin, begin);
  }
}

// How a unit is cut into segments: tensors with equal numbers lie in one, in ascending order of numbers. Pure. What is
// computed does not depend on it, in any bit.
using Segmentation = int (*)(const Tensor& tensor);
// What tensor parallelism does not cut lies apart: norms, biases of what comes back to the residual stream, positions.
int uncut_apart(const Tensor& tensor);

// The segments of all units, one each without a segmentation, in forward order: vocabulary, positions where they are
// learned, block 0 … L-1, final norm, head where it is not the vocabulary matrix alone. Tensors by unit, in brackets
// those that only some options have:
//   vocabulary  embedding.weight [V][C]
//   positions   positions.weight [T][C]
//   block       norm1.weight [C], (norm1.bias [C]); attention.qkv.weight [3][H][D][C], (.bias [3][H][D]), or with
//               fewer key heads attention.q.weight [H][D][C], (.bias), attention.kv.weight [2][KV][D][C], (.bias);
//               attention.out.weight [H][D][C], (.bias [C]); (norm2.weight, norm2.bias [C]);
//               mlp.up.weight [F][C], with SwiGLU [2][F][C] (gate, up), (.bias); mlp.down.weight [F][C], (.bias [C])
//   final_norm  final_norm.weight [C], (.bias [C])
//   head        (head.weight [V][C]), (head.bias [V])
std::vector<Segment> declare(const TransformerConfig& config, Segmentation segmentation = nullptr);
// Block `layer` as one segment.
Segment declare_block(const TransformerConfig& config, int layer);

// Which number each unit has; -1: there is none.
struct UnitIndex {
  int vocabulary = 0, positions = -1, first_block = 0, final_norm = 0, head = -1;
  int count = 0;
};
UnitIndex unit_index(const TransformerConfig& config);

// Which units an element of the computation reads, and adds gradients to. Element -1 is the embedding, 0 … L-1 the
// blocks, L the loss (final norm, head, cross-entropy), which reads the vocabulary only when the head is tied.
std::vector<int> units_of_element(const TransformerConfig& config, int element);

// The same in segments: their positions in declare().
class ElementSegments {
 public:
  ElementSegments(const TransformerConfig& config, Segmentation segmentation);

  const std::vector<int>& of(int element) const { return of_[static_cast<size_t>(element + 1)]; }
  int last() const { return static_cast<int>(of_.size()) - 2; }  // the loss
  // Of elements `first` … `last`, ascending, each once.
  std::vector<int> of(int first, int last) const;

 private:
  std::vector<std::vector<int>> of_;  // [element + 1]
};

// Writes elements [first, first + count) of the tensor's initial value: a pure function of (seed, name, index).
void initial_values(const Tensor& tensor, uint64_t seed, int64_t first, int64_t count, float* values);

// Multiply-adds counted twice. Matrix products of forward and backward (6 per weight and token; embedding look-ups and
// biases not counted) and attention counted as causal: exact T (T + 1) / 2 pairs, 4 D FLOPs each per head forward and
// twice that backward. Recomputation is never counted: this is the numerator of MFU.
struct Flops {
  double products = 0;   // per token
  double attention = 0;  // per token, at this sequence length
  double per_token() const { return products + attention; }
};
Flops training_flops(const TransformerConfig& config, int64_t sequence);

}  // namespace ridgeline::model

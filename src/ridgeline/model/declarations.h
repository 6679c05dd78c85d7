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
#include "ridgeline/model/slice.h"
#include "ridgeline/model/transformer_config.h"

namespace ridgeline::model {

using Shape = std::vector<int64_t>;
int64_t element_count(const Shape& shape);

enum class Init { zeros, ones, normal };

// How the matrix of a product y = x W lies: [out][in], or [in][out].
enum class MatrixLayout : uint8_t { out_in, in_out };

struct Tensor {
  std::string name;  // global and stable: "block.3.attention.qkv.weight"
  Shape shape;       // global
  SplitBy split = SplitBy::nothing;
  int split_axis = -1;  // the axis that is split, -1 for none: first, or second behind an axis <= 3
  Range kept;           // indices of the split axis that lie here: all, or a slice's
  Init init = Init::zeros;
  float deviation = 0.0F;  // of Init::normal
  bool decay = false;      // hyper-group: weight decay applies (matrices only)
  MatrixLayout layout = MatrixLayout::out_in;
  int64_t offset = 0;  // first element inside the unit's segment, a multiple of kTensorAlignment

  // Elements of what lies here: `pieces()` stretches of the global tensor, each of `piece()` elements.
  int64_t count() const { return pieces() * piece(); }
  int64_t pieces() const { return split_axis == 1 ? shape[0] : 1; }
  int64_t piece() const { return split_axis < 0 ? element_count(shape) : kept.count * behind_split(); }
  // Where a stretch begins in the global tensor.
  int64_t piece_begin(int64_t number) const {
    return split_axis < 0 ? 0 : (number * shape[static_cast<size_t>(split_axis)] + kept.first) * behind_split();
  }
  // Of an element that lies here, its place in the global tensor.
  int64_t global(int64_t element) const { return piece_begin(element / piece()) + element % piece(); }
  int64_t behind_split() const;  // elements of one index of that axis
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
  int copies = 1;                   // how many slices, neighbours, hold the same
  bool here = true;                 // false: another pipeline stage's, of which this rank holds nothing
  bool counts = true;               // false: others hold the same, and one of them counts and writes it
  bool partial = false;  // each copy's gradient is a part of it, to be summed over the copies; else they are the same
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

// A matrix as products read it. Other forms of it that a device may want, made where weights change, are further
// layouts.
struct Weight {
  ConstRef values;
  MatrixLayout layout = MatrixLayout::out_in;
};
Weight find_weight(const PlacedSegments<ConstRef>& segments, std::string_view suffix);

// The tensors that meet elements [first, last) of a segment: f(tensor, first element inside the global tensor, count,
// offset in the segment), for contiguous elements of both. Alignment gaps belong to no tensor.
template <typename F>
void for_each_tensor_range(const Segment& segment, int64_t first, int64_t last, F&& f) {
  for (const Tensor& tensor : segment.tensors) {
    const int64_t begin = std::max(first, tensor.offset), end = std::min(last, tensor.offset + tensor.count());
    for (int64_t at = begin; at < end;) {
      const int64_t piece = tensor.piece(), number = (at - tensor.offset) / piece;
      const int64_t within = (at - tensor.offset) % piece, count = std::min(end - at, piece - within);
      f(tensor, tensor.piece_begin(number) + within, count, at);
      at += count;
    }
  }
}

// How a unit is cut into segments: tensors with equal numbers lie in one, in ascending order of numbers. Pure. What is
// computed does not depend on it, in any bit.
using Segmentation = int (*)(const Tensor& tensor);
// What tensor parallelism does not cut lies apart: norms, biases of what comes back to the residual stream, positions.
int uncut_apart(const Tensor& tensor);

// How the model is cut into segments, and these into slices.
struct Partition {
  Segmentation segmentation = nullptr;  // null: units are not cut
  int slices = 1;                       // tensor parallelism
  bool sequence = false;                // of slices: see Slice
};

// The segments of all units, one each without a segmentation, in forward order: vocabulary, positions where they are
// learned, block 0 … L-1, final norm, head where it is not the vocabulary matrix alone. With slices: those of slice
// `slice`; tensors of which several slices hold the same lie in segments of their own, as many in every slice. Tensors
// by unit, in brackets those that only some options have:
//   vocabulary  embedding.weight [V][C]
//   positions   positions.weight [T][C]
//   block       norm1.weight [C], (norm1.bias [C]); attention.qkv.weight [3][H][D][C], (.bias [3][H][D]), or with
//               fewer key heads attention.q.weight [H][D][C], (.bias), attention.kv.weight [2][KV][D][C], (.bias);
//               attention.out.weight [H][D][C], (.bias [C]); (norm2.weight, norm2.bias [C]);
//               mlp.up.weight [F][C], with SwiGLU [2][F][C] (gate, up), (.bias); mlp.down.weight [F][C], (.bias [C])
//   final_norm  final_norm.weight [C], (.bias [C])
//   head        (head.weight [V][C]), (head.bias [V])
std::vector<Segment> declare(const TransformerConfig& config, const Partition& partition = {}, int slice = 0);
// Block `layer` as one segment.
Segment declare_block(const TransformerConfig& config, int layer);
// A slice of a whole segment.
Segment sliced(Segment segment, const Slice& slice);

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
  ElementSegments(const TransformerConfig& config, const Partition& partition);

  const std::vector<int>& of(int element) const { return of_[static_cast<size_t>(element + 1)]; }
  int last() const { return static_cast<int>(of_.size()) - 2; }  // the loss
  // Of elements `first` … `last`, ascending, each once.
  std::vector<int> of(int first, int last) const;
  // Segment::partial
  bool partial(int segment) const { return partial_[static_cast<size_t>(segment)]; }

 private:
  std::vector<std::vector<int>> of_;  // [element + 1]
  std::vector<bool> partial_;         // [segment]
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
// Parts of it: one block, and the head.
Flops block_flops(const TransformerConfig& config, int64_t sequence);
Flops head_flops(const TransformerConfig& config);

}  // namespace ridgeline::model

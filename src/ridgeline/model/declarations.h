// What a model consists of, declared once and globally: units, their tensors, and how a unit lies in one flat segment.
// Offsets, shards, initial values, checkpoint headers, imports, exports, FLOPs and bytes all follow from this table by
// pure functions; nothing here knows ranks.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
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

// Parameters that are gathered, reduced and updated together: one flat buffer (segment), tensors of the decayed group
// first.
struct Unit {
  std::string name;  // "vocabulary", "positions", "block.3", "final_norm", "head"
  UnitKind kind = UnitKind::block;
  int layer = -1;  // of a block
  std::vector<Tensor> tensors;
  int64_t count = 0;    // elements with alignment gaps, before padding for shards
  int64_t decayed = 0;  // elements [0, decayed) belong to decayed tensors

  const Tensor& tensor(std::string_view suffix) const;  // by the end of its name ("attention.qkv.weight")
  const Tensor* find(std::string_view suffix) const;    // null when there is none
  // Elements when cut into `shards` equal parts, each a multiple of kShardBlock.
  int64_t padded(int64_t shards) const;
};

// Where a tensor lies in its unit's segment: of weights, or of f32 gradients. Null when the unit has none of this name.
ConstRef part_of(const Unit& unit, ConstRef segment, std::string_view suffix);
float* part_of(const Unit& unit, float* segment, std::string_view suffix);

// The tensors of a unit that meet elements [first, last) of its segment: f(tensor, first element inside the tensor,
// count, offset in the segment). Alignment gaps belong to no tensor.
template <typename F>
void for_each_tensor_range(const Unit& unit, int64_t first, int64_t last, F&& f) {
  for (const Tensor& tensor : unit.tensors) {
    const int64_t begin = std::max(first, tensor.offset), end = std::min(last, tensor.offset + tensor.count());
    if (begin < end) f(tensor, begin - tensor.offset, end - begin, begin);
  }
}

// In forward order: vocabulary, positions where they are learned, block 0 … L-1, final norm, head where it is not the
// vocabulary matrix alone. Tensors by unit, in brackets those that only some options have:
//   vocabulary  embedding.weight [V][C]
//   positions   positions.weight [T][C]
//   block       norm1.weight [C], (norm1.bias [C]); attention.qkv.weight [3][H][D][C], (.bias [3][H][D]), or with
//               fewer key heads attention.q.weight [H][D][C], (.bias), attention.kv.weight [2][KV][D][C], (.bias);
//               attention.out.weight [H][D][C], (.bias [C]); (norm2.weight, norm2.bias [C]);
//               mlp.up.weight [F][C], with SwiGLU [2][F][C] (gate, up), (.bias); mlp.down.weight [F][C], (.bias [C])
//   final_norm  final_norm.weight [C], (.bias [C])
//   head        (head.weight [V][C]), (head.bias [V])
std::vector<Unit> declare(const TransformerConfig& config);
// Block `layer` of declare().
Unit declare_block(const TransformerConfig& config, int layer);

// Where the units stand in declare(); -1: there is none.
struct UnitIndex {
  int vocabulary = 0, positions = -1, first_block = 0, final_norm = 0, head = -1;
  int count = 0;
};
UnitIndex unit_index(const TransformerConfig& config);

// Which units an element of the computation reads, and adds gradients to. Element -1 is the embedding, 0 … L-1 the
// blocks, L the loss (final norm, head, cross-entropy), which reads the vocabulary only when the head is tied.
std::vector<int> units_of_element(const TransformerConfig& config, int element);

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

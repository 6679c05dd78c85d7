// Where a block's weights, saved values and scratch lie.
#include "ridgeline/model/block_memory.h"

#include <algorithm>
#include <array>

#include "ridgeline/base/error.h"

namespace ridgeline::model {
namespace {

template <typename Result, typename Data, typename FindMatrix>
Result parts_of(const PlacedSegments<Data>& segments, FindMatrix&& matrix) {
  const auto at = [&](std::string_view suffix) { return find(segments, suffix); };
  return {.qkv_weight = matrix(segments, "attention.qkv.weight"),
          .q_weight = matrix(segments, "attention.q.weight"),
          .kv_weight = matrix(segments, "attention.kv.weight"),
          .out_weight = matrix(segments, "attention.out.weight"),
          .up_weight = matrix(segments, "mlp.up.weight"),
          .down_weight = matrix(segments, "mlp.down.weight"),
          .norm1_weight = at("norm1.weight"),
          .norm1_bias = at("norm1.bias"),
          .qkv_bias = at("attention.qkv.bias"),
          .q_bias = at("attention.q.bias"),
          .kv_bias = at("attention.kv.bias"),
          .out_bias = at("attention.out.bias"),
          .norm2_weight = at("norm2.weight"),
          .norm2_bias = at("norm2.bias"),
          .up_bias = at("mlp.up.bias"),
          .down_bias = at("mlp.down.bias")};
}

// All that element-wise operators cannot make again.
void carve_kept(Carver& carver, const LocalShape& shape, BlockSaved& saved) {
  const TransformerConfig& config = shape.config;
  const DType dtype = shape.batch.dtype;
  const int64_t n = shape.batch.tokens(), m = shape.tokens().count;
  const bool two_norms = has_second_norm(config.residual), mean = has_mean(config.norm);
  if (mean) saved.mean1 = carver.floats("norm1 mean", m);
  saved.rstd1 = carver.floats("norm1 rstd", m);
  saved.qkv = carver.take("qkv", n * shape.qkv_width(), dtype);
  saved.attention_out = carver.take("attention output", n * shape.attended(), dtype);
  saved.lse = carver.floats("attention log-sum-exp", n * shape.slice.heads.count);
  if (mlp_follows_attention(config.residual)) saved.residual = carver.take("residual", m * config.width, dtype);
  if (two_norms && mean) saved.mean2 = carver.floats("norm2 mean", m);
  if (two_norms) saved.rstd2 = carver.floats("norm2 rstd", m);
  saved.up = carver.take("mlp before activation", n * shape.up_width(), dtype);
}

}  // namespace

std::span<const std::string_view> words_of(Recompute /*type*/) {
  static constexpr std::array<std::string_view, 3> kWords = {"none", "selective", "full"};
  return kWords;
}

bool keeps_products(Recompute recompute) {
  switch (recompute) {
    case Recompute::none:
    case Recompute::selective:
      return true;
    case Recompute::full:
      return false;
  }
  RL_NO_CASE(recompute);
}
bool keeps_outputs(Recompute recompute) {
  switch (recompute) {
    case Recompute::none:
      return true;
    case Recompute::selective:
    case Recompute::full:
      return false;
  }
  RL_NO_CASE(recompute);
}

bool keeps_norms(const LocalShape& shape) {
  return keeps_outputs(shape.recompute) && !shape.slice.sequence;
}

BlockWeights block_weights(const PlacedSegments<ConstRef>& segments) {
  return parts_of<BlockWeights>(segments, find_weight);
}

BlockGradients block_gradients(const PlacedSegments<float*>& segments) {
  return parts_of<BlockGradients>(segments, find<float*>);
}

BlockSaved carve_block_saved(Carver& carver, const LocalShape& shape) {
  const DType dtype = shape.batch.dtype;
  const int64_t n = shape.batch.tokens(), c = shape.config.width;
  BlockSaved saved{};
  if (!keeps_products(shape.recompute)) return saved;
  carve_kept(carver, shape, saved);
  if (!keeps_outputs(shape.recompute)) return saved;
  const bool norms = keeps_norms(shape);
  if (norms) saved.norm1_out = carver.take("norm1 output", n * c, dtype);
  if (norms && has_second_norm(shape.config.residual)) saved.norm2_out = carver.take("norm2 output", n * c, dtype);
  saved.activation = carver.take("mlp after activation", n * shape.slice.ffn.count, dtype);
  return saved;
}

BlockWeightInputs carve_block_weight_inputs(Carver& carver, const LocalShape& shape) {
  const DType dtype = shape.batch.dtype;
  const int64_t n = shape.batch.tokens(), c = shape.config.width;
  BlockWeightInputs left{};
  left.mlp = carver.take("gradient of the MLP's output", n * c, dtype);
  left.up = carver.take("gradient before the activation", n * shape.up_width(), dtype);
  if (has_second_norm(shape.config.residual)) left.norm2 = carver.take("gradient of norm2's output", n * c, dtype);
  left.attention = carver.take("gradient of the attention's output", n * c, dtype);
  left.qkv = carver.take("gradient of qkv", n * shape.qkv_width(), dtype);
  left.norm1 = carver.take("gradient of norm1's output", n * c, dtype);
  return left;
}

BlockScratch carve_block_buffers(Carver& carver, const LocalShape& shape, Pass pass) {
  const TransformerConfig& config = shape.config;
  const DType dtype = shape.batch.dtype;
  const int64_t n = shape.batch.tokens(), c = config.width, f = shape.slice.ffn.count;
  const bool sequential = mlp_follows_attention(config.residual), gated = is_gated(config.mlp);
  const bool whole_forward = keeps_products(shape.recompute), outputs = keeps_outputs(shape.recompute);
  const bool norms = keeps_norms(shape);
  BlockScratch scratch{};
  if (!whole_forward) carve_kept(carver, shape, scratch.again);
  const auto carve_outputs = [&] {
    if (!norms) scratch.again.norm1_out = scratch.again.norm2_out = carver.take("norm output", n * c, dtype);
    if (!outputs) scratch.again.activation = carver.take("mlp after activation", n * f, dtype);
  };
  const auto carve_gradients = [&](bool mlp_narrow) {
    scratch.narrow = carver.take("gradient of a norm's output", n * std::max(c, shape.attended()), dtype);
    if (mlp_narrow) scratch.mlp_narrow = carver.take("gradient of the MLP's input", n * c, dtype);
    if (gated) scratch.dactivation = carver.take("gradient of SwiGLU", n * f, dtype);
  };
  switch (pass) {
    case Pass::forward:
      carve_outputs();
      break;
    case Pass::backward:
      scratch.wide = carver.take("wide gradient", n * std::max(shape.up_width(), shape.qkv_width()), dtype);
      carve_gradients(!sequential);
      // Each is read for the last time before a gradient takes its place.
      if (!norms) scratch.again.norm1_out = scratch.again.norm2_out = scratch.narrow;
      if (!outputs) scratch.again.activation = gated ? scratch.dactivation : scratch.wide;
      break;
    case Pass::backward_input:
      carve_gradients(!has_second_norm(config.residual));
      break;
    case Pass::backward_weight:
      carve_outputs();
      break;
  }
  // Of a forward, or where one is run again: a slice's part. With dropout, what passes its mask, backward too; as the
  // gradient that comes from all slices' tokens.
  const bool runs_forward = pass == Pass::forward || (pass == Pass::backward && !whole_forward);
  const bool drops = (shape.batch.dropout || shape.slice.sequence) && (pass == Pass::forward || pass == Pass::backward);
  if (drops || (!shape.is_whole() && runs_forward)) scratch.branch = carver.take("residual branch", n * c, dtype);
  return scratch;
}

}  // namespace ridgeline::model

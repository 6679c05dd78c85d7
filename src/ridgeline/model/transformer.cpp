#include "ridgeline/model/transformer.h"

#include <algorithm>

#include "ridgeline/model/operators.h"
#include "ridgeline/ops/cross_entropy.h"
#include "ridgeline/ops/embedding.h"

namespace ridgeline::model {
namespace {

template <typename Result, typename Data>
Result embedding_parts(const PlacedSegments<Data>& segments) {
  return {.vocabulary = find(segments, "embedding.weight"), .positions = find(segments, "positions.weight")};
}

template <typename Result, typename Data>
Result head_parts(const TransformerConfig& config, const PlacedSegments<Data>& segments) {
  return {.norm_weight = find(segments, "final_norm.weight"),
          .norm_bias = find(segments, "final_norm.bias"),
          .weight = find(segments, config.tied ? "embedding.weight" : "head.weight"),
          .bias = find(segments, "head.bias")};
}

void logits_of(Operators& operators, const TransformerConfig& config, int64_t n, const HeadWeights& weights,
               ConstRef input, const LossScratch& scratch) {
  operators.norm_forward(config, n, input, weights.norm_weight, weights.norm_bias, scratch.normed, scratch.mean,
                         scratch.rstd);
  operators.matmul(forward_out_in(n, config.width, config.vocab, scratch.normed, weights.weight, weights.bias,
                                  scratch.logits, scratch.ld));
}

// From the gradient of the logits to those of the input and the weights.
void logits_backward(Operators& operators, const TransformerConfig& config, int64_t n, const HeadWeights& weights,
                     ConstRef input, Ref gradient, const HeadGradients& gradients, const LossScratch& scratch) {
  const int64_t c = config.width, v = config.vocab;
  operators.matmul(
      weight_gradient(n, v, c, scratch.logits, scratch.ld, scratch.normed, gradients.weight, gradients.bias));
  operators.matmul(input_gradient_out_in(n, c, v, scratch.logits, scratch.ld, weights.weight, scratch.dnormed));
  operators.norm_backward(config, n, input, weights.norm_weight, scratch.mean, scratch.rstd, scratch.dnormed, {},
                          gradient, gradients.norm_weight, gradients.norm_bias);
}

int64_t loss_workspace_bytes(const TransformerConfig& config, const BatchShape& shape, int64_t chunk, int64_t ld,
                             bool with_gradient) {
  Operators operators(shape.team_size);
  const Ref any(placeholder(), shape.dtype);
  auto* const floats = static_cast<float*>(placeholder());
  const HeadWeights weights{any, any, any, config.head_bias ? ConstRef(any) : ConstRef()};
  const HeadGradients gradients{floats, floats, floats, config.head_bias ? floats : nullptr};
  const LossScratch scratch{any, floats, floats, any, ld, any, {}};
  // The last chunk may be shorter, and a smaller product may need more scratch than a larger one.
  for (const int64_t n : {chunk, shape.tokens() % chunk}) {
    if (n == 0) continue;
    logits_of(operators, config, n, weights, any, scratch);
    if (with_gradient) logits_backward(operators, config, n, weights, any, any, gradients, scratch);
  }
  return operators.workspace_bytes();
}

}  // namespace

EmbeddingWeights embedding_weights(const PlacedSegments<ConstRef>& segments) {
  return embedding_parts<EmbeddingWeights>(segments);
}

EmbeddingGradients embedding_gradients(const PlacedSegments<float*>& segments) {
  return embedding_parts<EmbeddingGradients>(segments);
}

HeadWeights head_weights(const TransformerConfig& config, const PlacedSegments<ConstRef>& segments) {
  return head_parts<HeadWeights>(config, segments);
}

HeadGradients head_gradients(const TransformerConfig& config, const PlacedSegments<float*>& segments) {
  return head_parts<HeadGradients>(config, segments);
}

int64_t rotary_table_floats(const TransformerConfig& config, int64_t positions) {
  return positions * config.rotated_width();
}

void fill_rotary_table(const TransformerConfig& config, int64_t positions, float* table) {
  if (!rotates(config.positions)) return;
  ops::fill_rotary_table(positions, config.rotated_width(), config.rotary_base, config.scaling(), table);
}

void embedding_forward(device::Stream& stream, const TransformerConfig& config, const BatchShape& shape,
                       const Batch& batch, const StepRandom& random, const EmbeddingWeights& weights, Ref output) {
  const int64_t n = shape.tokens(), c = config.width;
  ops::embedding_forward(stream, n, c, ops::IndexRange::all(config.vocab), config.context, batch.inputs,
                         batch.positions, weights.vocabulary, weights.positions, output);
  if (shape.dropout)
    ops::dropout_forward(stream, n, c, dropout_at(config, batch, random, kEmbeddingSite), output, {}, output);
}

ops::Workspace carve_embedding_scratch(Carver& carver, const TransformerConfig& config, const BatchShape& shape) {
  const int64_t n = shape.tokens();
  int64_t bytes = ops::embedding_backward_workspace_bytes(n, config.vocab, shape.team_size);
  if (has_position_table(config.positions))
    bytes = std::max(bytes, ops::embedding_backward_workspace_bytes(n, config.context, shape.team_size));
  return carver.workspace("embedding buckets", bytes);
}

void embedding_backward(device::Stream& stream, const TransformerConfig& config, const BatchShape& shape,
                        const Batch& batch, const StepRandom& random, Ref gradient, const EmbeddingGradients& gradients,
                        ops::Workspace scratch) {
  const int64_t n = shape.tokens(), c = config.width;
  if (shape.dropout)
    ops::dropout_backward(stream, n, c, dropout_at(config, batch, random, kEmbeddingSite), gradient, gradient);
  ops::embedding_backward(stream, n, c, ops::IndexRange::all(config.vocab), batch.inputs, gradient,
                          gradients.vocabulary, scratch);
  if (has_position_table(config.positions))
    ops::embedding_backward(stream, n, c, ops::IndexRange::all(config.context), batch.positions, gradient,
                            gradients.positions, scratch);
}

LossScratch carve_loss_scratch(Carver& carver, const TransformerConfig& config, const BatchShape& shape,
                               bool with_gradient) {
  const int64_t chunk = std::min(shape.head_chunk, shape.tokens()), c = config.width, v = config.vocab;
  LossScratch scratch{};
  scratch.ld = (v + kTensorAlignment - 1) / kTensorAlignment * kTensorAlignment;
  scratch.normed = carver.take("final norm output", chunk * c, shape.dtype);
  if (has_mean(config.norm)) scratch.mean = carver.floats("final norm mean", chunk);
  scratch.rstd = carver.floats("final norm rstd", chunk);
  scratch.logits = carver.take("logits", chunk * scratch.ld, shape.dtype);
  if (with_gradient) scratch.dnormed = carver.take("gradient of final norm", chunk * c, shape.dtype);
  scratch.workspace = carver.workspace("packing and partial sums",
                                       loss_workspace_bytes(config, shape, chunk, scratch.ld, with_gradient));
  return scratch;
}

LossScratch carve_logits_scratch(Carver& carver, const TransformerConfig& config, const BatchShape& shape) {
  const BatchShape one{.batch = 1, .sequence = 1, .dtype = shape.dtype, .head_chunk = 1, .team_size = shape.team_size};
  return carve_loss_scratch(carver, config, one, false);
}

void head_forward(device::Stream& stream, const TransformerConfig& config, int64_t n, const HeadWeights& weights,
                  ConstRef input, const LossScratch& scratch) {
  Operators operators(stream, scratch.workspace);
  logits_of(operators, config, n, weights, input, scratch);
}

void loss(device::Stream& stream, const TransformerConfig& config, const BatchShape& shape, const Batch& batch,
          const HeadWeights& weights, ConstRef input, float scale, Ref gradient, const HeadGradients& gradients,
          float* losses, const LossScratch& scratch) {
  const int64_t c = config.width;
  const bool with_gradient = static_cast<bool>(gradient);
  Operators operators(stream, scratch.workspace);
  for (int64_t first = 0; first < shape.tokens(); first += shape.head_chunk) {
    const int64_t n = std::min(shape.head_chunk, shape.tokens() - first);
    const ConstRef x = input.at(first * c);
    logits_of(operators, config, n, weights, x, scratch);
    ops::cross_entropy(stream, n, config.vocab, scratch.ld, scratch.logits, batch.labels + first, scale, with_gradient,
                       losses + first);
    if (with_gradient) logits_backward(operators, config, n, weights, x, gradient.at(first * c), gradients, scratch);
  }
}

}  // namespace ridgeline::model

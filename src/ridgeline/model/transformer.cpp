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

void logits_of(Operators& operators, const TransformerConfig& config, int64_t n, int64_t rows,
               const HeadWeights& weights, ConstRef input, const LossScratch& scratch) {
  operators.norm_forward(config, n, input, weights.norm_weight, weights.norm_bias, scratch.normed, scratch.mean,
                         scratch.rstd);
  if (rows == 0) return;
  operators.matmul(
      forward_out_in(n, config.width, rows, scratch.normed, weights.weight, weights.bias, scratch.logits, scratch.ld));
}

// From the gradient of the logits to those of the input and the weights.
void logits_backward(Operators& operators, const LocalShape& shape, int64_t n, const HeadWeights& weights,
                     ConstRef input, Ref gradient, const HeadGradients& gradients, const LossScratch& scratch) {
  const int64_t c = shape.config.width, v = shape.slice.rows;
  if (v > 0) {
    operators.matmul(
        weight_gradient(n, v, c, scratch.logits, scratch.ld, scratch.normed, gradients.weight, gradients.bias));
    operators.matmul(input_gradient_out_in(n, c, v, scratch.logits, scratch.ld, weights.weight, scratch.dnormed));
  } else {
    operators.apply([&](device::Stream& stream) {
      ops::zero(stream, scratch.dnormed.data, n * c * size_of(scratch.dnormed.dtype));
    });
  }
  if (!shape.is_whole()) operators.sum_over_slices(scratch.dnormed, n * c);
  operators.norm_backward(shape.config, n, input, weights.norm_weight, scratch.mean, scratch.rstd, scratch.dnormed, {},
                          gradient, gradients.norm_weight, gradients.norm_bias);
}

// From the logits to losses and, where wanted, the gradient of the logits. Slices tell each other what they know of
// every row.
void cross_entropy(Operators& operators, const LocalShape& shape, int64_t n, const int32_t* labels, float scale,
                   bool with_gradient, float* losses, const LossScratch& scratch) {
  if (shape.is_whole()) {
    return operators.apply([&](device::Stream& stream) {
      ops::cross_entropy(stream, n, shape.config.vocab, scratch.ld, scratch.logits, labels, scale, with_gradient,
                         losses);
    });
  }
  ops::RowStatistics* const all = scratch.statistics;
  operators.apply([&](device::Stream& stream) {
    ops::cross_entropy_statistics(stream, n, shape.rows(), scratch.ld, scratch.logits, labels,
                                  all + shape.slice.index * n);
  });
  operators.gather_from_slices(reinterpret_cast<std::byte*>(all), n * static_cast<int64_t>(sizeof *all));
  operators.apply([&](device::Stream& stream) {
    ops::cross_entropy_combine(stream, n, shape.slice.count, all, all);
    ops::cross_entropy_finish(stream, n, shape.rows(), scratch.ld, scratch.logits, labels, all, scale, with_gradient,
                              losses);
  });
}

int64_t loss_workspace_bytes(const LocalShape& shape, int64_t chunk, int64_t ld, bool with_gradient) {
  Operators operators(shape.batch.team_size);
  const TransformerConfig& config = shape.config;
  const Ref any(placeholder(), shape.batch.dtype);
  auto* const floats = static_cast<float*>(placeholder());
  const HeadWeights weights{any, any, any, config.head_bias ? ConstRef(any) : ConstRef()};
  const HeadGradients gradients{floats, floats, floats, config.head_bias ? floats : nullptr};
  const LossScratch scratch{any, floats, floats, any, ld, any, nullptr, {}};
  // The last chunk may be shorter, and a smaller product may need more scratch than a larger one.
  for (const int64_t n : {chunk, shape.batch.tokens() % chunk}) {
    if (n == 0) continue;
    logits_of(operators, config, n, shape.slice.rows, weights, any, scratch);
    if (with_gradient) logits_backward(operators, shape, n, weights, any, any, gradients, scratch);
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

void embedding_forward(Operators& operators, const LocalShape& shape, const Batch& batch, const StepRandom& random,
                       const EmbeddingWeights& weights, Ref output) {
  const TransformerConfig& config = shape.config;
  const int64_t n = shape.batch.tokens(), c = config.width;
  operators.apply([&](device::Stream& stream) {
    ops::embedding_forward(stream, n, c, shape.rows(), config.context, batch.inputs, batch.positions,
                           weights.vocabulary, shape.slice.first() ? weights.positions : ConstRef(), output);
  });
  if (!shape.is_whole()) operators.sum_over_slices(output, n * c);
  if (!shape.batch.dropout) return;
  operators.apply([&](device::Stream& stream) {
    ops::dropout_forward(stream, n, c, dropout_at(config, batch, random, kEmbeddingSite), output, {}, output);
  });
}

void embedding_backward(Operators& operators, const LocalShape& shape, const Batch& batch, const StepRandom& random,
                        Ref gradient, const EmbeddingGradients& gradients) {
  const TransformerConfig& config = shape.config;
  const int64_t n = shape.batch.tokens(), c = config.width;
  if (shape.batch.dropout) {
    operators.apply([&](device::Stream& stream) {
      ops::dropout_backward(stream, n, c, dropout_at(config, batch, random, kEmbeddingSite), gradient, gradient);
    });
  }
  operators.embedding_backward(n, c, shape.rows(), batch.inputs, gradient, gradients.vocabulary);
  if (!has_position_table(config.positions)) return;
  operators.embedding_backward(n, c, ops::IndexRange::all(config.context), batch.positions, gradient,
                               gradients.positions);
}

ops::Workspace carve_embedding_scratch(Carver& carver, const LocalShape& shape) {
  Operators operators(shape.batch.team_size);
  embedding_backward(operators, shape, {}, {}, {}, {});
  return carver.workspace("embedding buckets", operators.workspace_bytes());
}

LossScratch carve_loss_scratch(Carver& carver, const LocalShape& shape, bool with_gradient) {
  const DType dtype = shape.batch.dtype;
  const int64_t chunk = std::min(shape.batch.head_chunk, shape.batch.tokens());
  const int64_t c = shape.config.width, v = shape.slice.rows;
  LossScratch scratch{};
  scratch.ld = (v + kTensorAlignment - 1) / kTensorAlignment * kTensorAlignment;
  scratch.normed = carver.take("final norm output", chunk * c, dtype);
  if (has_mean(shape.config.norm)) scratch.mean = carver.floats("final norm mean", chunk);
  scratch.rstd = carver.floats("final norm rstd", chunk);
  scratch.logits = carver.take("logits", chunk * scratch.ld, dtype);
  if (with_gradient) scratch.dnormed = carver.take("gradient of final norm", chunk * c, dtype);
  if (!shape.is_whole()) {
    const auto words = static_cast<int64_t>(sizeof(ops::RowStatistics) / sizeof(float));
    scratch.statistics = reinterpret_cast<ops::RowStatistics*>(
        carver.floats("statistics of the logits", shape.slice.count * chunk * words));
  }
  scratch.workspace =
      carver.workspace("packing and partial sums", loss_workspace_bytes(shape, chunk, scratch.ld, with_gradient));
  return scratch;
}

LossScratch carve_logits_scratch(Carver& carver, const TransformerConfig& config, const BatchShape& shape) {
  const BatchShape one{.batch = 1, .sequence = 1, .dtype = shape.dtype, .head_chunk = 1, .team_size = shape.team_size};
  return carve_loss_scratch(carver, {config, one}, false);
}

void head_forward(Operators& operators, const TransformerConfig& config, int64_t n, const HeadWeights& weights,
                  ConstRef input, const LossScratch& scratch) {
  logits_of(operators, config, n, config.vocab, weights, input, scratch);
}

void loss(Operators& operators, const LocalShape& shape, const Batch& batch, const HeadWeights& weights, ConstRef input,
          float scale, Ref gradient, const HeadGradients& gradients, float* losses, const LossScratch& scratch) {
  const int64_t c = shape.config.width, tokens = shape.batch.tokens();
  const bool with_gradient = static_cast<bool>(gradient);
  for (int64_t first = 0; first < tokens; first += shape.batch.head_chunk) {
    const int64_t n = std::min(shape.batch.head_chunk, tokens - first);
    const ConstRef x = input.at(first * c);
    logits_of(operators, shape.config, n, shape.slice.rows, weights, x, scratch);
    cross_entropy(operators, shape, n, batch.labels + first, scale, with_gradient, losses + first, scratch);
    if (with_gradient) logits_backward(operators, shape, n, weights, x, gradient.at(first * c), gradients, scratch);
  }
}

}  // namespace ridgeline::model

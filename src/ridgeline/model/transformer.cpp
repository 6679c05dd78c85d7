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

template <typename Result, typename Data, typename FindMatrix>
Result head_parts(const TransformerConfig& config, const PlacedSegments<Data>& segments, FindMatrix&& matrix) {
  return {.weight = matrix(segments, config.tied ? "embedding.weight" : "head.weight"),
          .norm_weight = find(segments, "final_norm.weight"),
          .norm_bias = find(segments, "final_norm.bias"),
          .bias = find(segments, "head.bias")};
}

// Of M tokens of the residual stream, whose first is `first`, the loss takes `own` at once, from every slice where each
// has its own: `all` in the order of the slices.
struct HeadChunk {
  int64_t first, own, all;
};

// Logits of the slice's rows of the vocabulary.
void logits_of(Operators& operators, const LocalShape& shape, const HeadChunk& chunk, const HeadWeights& weights,
               ConstRef input, const LossScratch& scratch) {
  const int64_t c = shape.config.width, rows = shape.slice.rows.count;
  const bool sequence = shape.slice.sequence;
  operators.norm_forward(shape.config, chunk.own, input, weights.norm_weight, weights.norm_bias,
                         scratch.normed.at(sequence ? shape.slice.index * chunk.own * c : 0), scratch.mean,
                         scratch.rstd);
  if (sequence) operators.gather_from_slices(scratch.normed, chunk.own * c);
  if (rows == 0) return;
  operators.matmul(
      product_forward(chunk.all, c, rows, scratch.normed, weights.weight, weights.bias, scratch.logits, scratch.ld));
}

// From the gradient of the logits to those of the input and the weights.
void logits_backward(Operators& operators, const LocalShape& shape, const HeadChunk& chunk, const HeadWeights& weights,
                     ConstRef input, Ref gradient, const HeadGradients& gradients, const LossScratch& scratch) {
  const int64_t n = chunk.all, c = shape.config.width, v = shape.slice.rows.count;
  if (v > 0) {
    operators.matmul(
        weight_gradient(n, v, c, scratch.logits, scratch.ld, scratch.normed, gradients.weight, gradients.bias));
    operators.matmul(input_gradient(n, c, v, scratch.logits, scratch.ld, weights.weight, scratch.dnormed));
  } else {
    operators.apply([&](device::Stream& stream) {
      ops::zero(stream, scratch.dnormed.data, n * c * size_of(scratch.dnormed.dtype));
    });
  }
  Ref dnormed = scratch.dnormed;
  if (shape.slice.sequence) {
    operators.sum_parts_over_slices(dnormed, chunk.own * c);
    dnormed = dnormed.at(shape.slice.index * chunk.own * c);
  } else if (!shape.is_whole()) {
    operators.sum_over_slices(dnormed, n * c);
  }
  operators.norm_backward(shape.config, chunk.own, input, weights.norm_weight, scratch.mean, scratch.rstd, dnormed, {},
                          gradient, gradients.norm_weight, gradients.norm_bias);
}

// From the logits to losses and, where wanted, the gradient of the logits. Slices tell each other what they know of
// every row. labels, losses: of all N tokens.
void cross_entropy(Operators& operators, const LocalShape& shape, const HeadChunk& chunk, const int32_t* labels,
                   float scale, bool with_gradient, float* losses, const LossScratch& scratch) {
  if (shape.is_whole()) {
    return operators.apply([&](device::Stream& stream) {
      ops::cross_entropy(stream, chunk.all, shape.config.vocab, scratch.ld, scratch.logits, labels + chunk.first, scale,
                         with_gradient, losses + chunk.first);
    });
  }
  // Where slices have their own tokens, what one has of the chunk stands together.
  const int64_t runs = chunk.all / chunk.own, stride = shape.tokens().count;
  ops::RowStatistics* const all = scratch.statistics;
  operators.apply([&](device::Stream& stream) {
    for (int64_t run = 0; run < runs; ++run) {
      const int64_t row = run * chunk.own;
      ops::cross_entropy_statistics(stream, chunk.own, shape.rows(), scratch.ld, scratch.logits.at(row * scratch.ld),
                                    labels + run * stride + chunk.first, all + shape.slice.index * chunk.all + row);
    }
  });
  operators.gather_from_slices(Ref(reinterpret_cast<int32_t*>(all), DType::i32),
                               chunk.all * static_cast<int64_t>(sizeof *all / sizeof(int32_t)));
  operators.apply([&](device::Stream& stream) {
    ops::cross_entropy_combine(stream, chunk.all, shape.slice.count, all, all);
    for (int64_t run = 0; run < runs; ++run) {
      const int64_t row = run * chunk.own, token = run * stride + chunk.first;
      ops::cross_entropy_finish(stream, chunk.own, shape.rows(), scratch.ld, scratch.logits.at(row * scratch.ld),
                                labels + token, all + row, scale, with_gradient, losses + token);
    }
  });
}

// The tokens of the residual stream from `first` on that a chunk of `chunk` takes.
HeadChunk chunk_from(const LocalShape& shape, int64_t chunk, int64_t first) {
  const int64_t each = shape.slice.sequence ? shape.slice.count : 1;
  const int64_t own = std::min(chunk / each, shape.tokens().count - first);
  return {first, own, own * each};
}

int64_t loss_workspace_bytes(const LocalShape& shape, int64_t chunk, int64_t ld, bool with_gradient) {
  Operators operators(shape.batch.team_size);
  const TransformerConfig& config = shape.config;
  const Ref any(placeholder(), shape.batch.dtype);
  auto* const floats = static_cast<float*>(placeholder());
  const HeadWeights weights{{any}, any, any, config.head_bias ? ConstRef(any) : ConstRef()};
  const HeadGradients gradients{floats, floats, floats, config.head_bias ? floats : nullptr};
  const LossScratch scratch{chunk, any, floats, floats, any, ld, any, nullptr, {}};
  // The last chunk may be shorter, and a smaller product may need more scratch than a larger one.
  const HeadChunk full = chunk_from(shape, chunk, 0);
  const int64_t tokens = shape.tokens().count;
  for (const int64_t first : {int64_t{0}, tokens - tokens % full.own}) {
    if (first == tokens) continue;
    const HeadChunk of = chunk_from(shape, chunk, first);
    logits_of(operators, shape, of, weights, any, scratch);
    if (with_gradient) logits_backward(operators, shape, of, weights, any, any, gradients, scratch);
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
  return head_parts<HeadWeights>(config, segments, find_weight);
}

HeadGradients head_gradients(const TransformerConfig& config, const PlacedSegments<float*>& segments) {
  return head_parts<HeadGradients>(config, segments, find<float*>);
}

int64_t rotary_table_floats(const TransformerConfig& config, int64_t positions) {
  return positions * config.rotated_width();
}

void fill_rotary_table(const TransformerConfig& config, int64_t positions, float* table) {
  if (!rotates(config.positions)) return;
  ops::fill_rotary_table(positions, config.rotated_width(), config.rotary_base, config.scaling(), table);
}

EmbeddingScratch carve_embedding_scratch(Carver& carver, const LocalShape& shape, bool backward) {
  EmbeddingScratch scratch;
  if (shape.slice.sequence)
    scratch.all = carver.take("embedding of all tokens", shape.batch.tokens() * shape.config.width, shape.batch.dtype);
  if (!backward) return scratch;
  Operators operators(shape.batch.team_size);
  const Batch batch{.positions = static_cast<const int32_t*>(placeholder())};
  embedding_backward(operators, shape, batch, {}, {}, {}, {});
  scratch.workspace = carver.workspace("embedding buckets", operators.workspace_bytes());
  return scratch;
}

void embedding_forward(Operators& operators, const LocalShape& shape, const Batch& batch, const StepRandom& random,
                       const EmbeddingWeights& weights, Ref output, const EmbeddingScratch& scratch) {
  const TransformerConfig& config = shape.config;
  const int64_t n = shape.batch.tokens(), c = config.width;
  const Range own = shape.tokens();
  const bool sequence = shape.slice.sequence;
  const Ref all = sequence ? scratch.all : output;
  operators.apply([&](device::Stream& stream) {
    ops::embedding_forward(stream, n, c, shape.rows(), config.context, batch.inputs, batch.embedded_positions(),
                           weights.vocabulary, shape.slice.first() ? weights.positions : ConstRef(), all);
  });
  if (sequence) {
    operators.sum_parts_over_slices(all, own.count * c);
    operators.apply([&](device::Stream& stream) { ops::cast(stream, own.count * c, all.at(own.first * c), output); });
  } else if (!shape.is_whole()) {
    operators.sum_over_slices(output, n * c);
  }
  if (!shape.batch.dropout) return;
  operators.apply([&](device::Stream& stream) {
    const ops::Dropout dropout = dropout_at(config, batch, random, kEmbeddingSite, own.first);
    ops::dropout_forward(stream, own.count, c, dropout, output, {}, output);
  });
}

void embedding_backward(Operators& operators, const LocalShape& shape, const Batch& batch, const StepRandom& random,
                        Ref gradient, const EmbeddingGradients& gradients, const EmbeddingScratch& scratch) {
  const TransformerConfig& config = shape.config;
  const int64_t n = shape.batch.tokens(), c = config.width;
  const Range own = shape.tokens();
  if (shape.batch.dropout) {
    operators.apply([&](device::Stream& stream) {
      const ops::Dropout dropout = dropout_at(config, batch, random, kEmbeddingSite, own.first);
      ops::dropout_backward(stream, own.count, c, dropout, gradient, gradient);
    });
  }
  Ref all = gradient;
  if (shape.slice.sequence) {
    all = scratch.all;
    operators.apply([&](device::Stream& stream) { ops::cast(stream, own.count * c, gradient, all.at(own.first * c)); });
    operators.gather_from_slices(all, own.count * c);
  }
  operators.embedding_backward(n, c, shape.rows(), batch.inputs, all, gradients.vocabulary);
  if (!has_position_table(config.positions)) return;
  operators.embedding_backward(own.count, c, ops::IndexRange::all(config.context),
                               batch.embedded_positions() + own.first, gradient, gradients.positions);
}

SliceTraffic embedding_traffic(const LocalShape& shape, bool backward) {
  Operators operators(shape.batch.team_size);
  const Ref any(placeholder(), shape.batch.dtype);
  const Batch batch{.positions = static_cast<const int32_t*>(placeholder())};
  if (backward) {
    embedding_backward(operators, shape, batch, {}, any, {}, {any, {}});
  } else {
    embedding_forward(operators, shape, batch, {}, {}, any, {any, {}});
  }
  return operators.traffic();
}

LossScratch carve_loss_scratch(Carver& carver, const LocalShape& shape, bool with_gradient) {
  const DType dtype = shape.batch.dtype;
  const int64_t c = shape.config.width, v = shape.slice.rows.count;
  LossScratch scratch{};
  scratch.chunk = std::min(shape.batch.head_chunk, shape.batch.tokens());
  // Of every slice the same.
  if (const int64_t each = shape.slice.count; shape.slice.sequence)
    scratch.chunk = std::max(scratch.chunk / each, int64_t{1}) * each;
  const int64_t chunk = scratch.chunk;
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

void head_forward(Operators& operators, const LocalShape& shape, const HeadWeights& weights, ConstRef input,
                  float* logits, const LossScratch& scratch) {
  const int64_t n = shape.batch.tokens(), v = shape.config.vocab;
  RL_CHECK(scratch.chunk, >=, n);
  logits_of(operators, shape, {0, shape.tokens().count, n}, weights, input, scratch);
  operators.apply([&](device::Stream& stream) {
    if (!shape.is_whole()) ops::zero(stream, logits, n * v * size_of(DType::f32));
    for (int64_t i = 0; i < n; ++i)
      ops::cast(stream, shape.slice.rows.count, scratch.logits.at(i * scratch.ld),
                Ref(logits + i * v + shape.slice.rows.first));
  });
  if (!shape.is_whole()) operators.sum_over_slices(Ref(logits), n * v);
}

void loss(Operators& operators, const LocalShape& shape, const Batch& batch, const HeadWeights& weights, ConstRef input,
          float scale, Ref gradient, const HeadGradients& gradients, float* losses, const LossScratch& scratch) {
  const int64_t c = shape.config.width;
  const bool with_gradient = static_cast<bool>(gradient);
  const int64_t tokens = shape.tokens().count;
  for (int64_t first = 0; first < tokens;) {
    const HeadChunk chunk = chunk_from(shape, scratch.chunk, first);
    const ConstRef x = input.at(first * c);
    logits_of(operators, shape, chunk, weights, x, scratch);
    cross_entropy(operators, shape, chunk, batch.labels, scale, with_gradient, losses, scratch);
    if (with_gradient) logits_backward(operators, shape, chunk, weights, x, gradient.at(first * c), gradients, scratch);
    first += chunk.own;
  }
}

SliceTraffic loss_traffic(const LocalShape& shape, bool with_gradient) {
  Operators operators(shape.batch.team_size);
  Carver carver(placeholder());
  const Ref any(placeholder(), shape.batch.dtype);
  auto* const floats = static_cast<float*>(placeholder());
  const Batch batch{.labels = static_cast<const int32_t*>(placeholder())};
  loss(operators, shape, batch, {{any}, any, any, {}}, any, 1, with_gradient ? any : Ref(), {}, floats,
       carve_loss_scratch(carver, shape, with_gradient));
  return operators.traffic();
}

}  // namespace ridgeline::model

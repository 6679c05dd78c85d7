#include "ridgeline/model/transformer.h"

#include <algorithm>
#include <cmath>

#include "ridgeline/ops/attention.h"
#include "ridgeline/ops/cross_entropy.h"
#include "ridgeline/ops/embedding.h"
#include "ridgeline/ops/matmul.h"
#include "ridgeline/ops/norm.h"

namespace ridgeline::model {
namespace {

using ops::Epilogue;
using ops::Layout;
using ops::Matmul;
using ops::Matrix;

constexpr uint32_t kEmbeddingSite = 0xFFFFFFFFU;
uint32_t attention_site(int layer) {
  return static_cast<uint32_t>(layer) * 4;
}
uint32_t mlp_site(int layer) {
  return static_cast<uint32_t>(layer) * 4 + 1;
}

Matrix rows(ConstRef data, int64_t ld) {
  return {data, Layout::row_major, ld};
}
Matrix columns(ConstRef data, int64_t ld) {
  return {data, Layout::column_major, ld};
}

// y [n][out] = x [n][in] W + b with W stored [out][in].
Matmul forward_out_in(int64_t n, int64_t in, int64_t out, ConstRef x, ConstRef w, ConstRef bias, Ref y) {
  return {.m = n, .n = out, .k = in, .a = rows(x, in), .b = columns(w, in), .c = y, .ldc = out, .bias = bias};
}
// y [n][out] = x [n][in] W + b with W stored [in][out].
Matmul forward_in_out(int64_t n, int64_t in, int64_t out, ConstRef x, ConstRef w, ConstRef bias, Ref y) {
  return {.m = n, .n = out, .k = in, .a = rows(x, in), .b = rows(w, out), .c = y, .ldc = out, .bias = bias};
}
// dx [n][in] = dy [n][out] W^T, W stored [out][in].
Matmul input_gradient_out_in(int64_t n, int64_t in, int64_t out, ConstRef dy, ConstRef w, Ref dx) {
  return {.m = n, .n = in, .k = out, .a = rows(dy, out), .b = rows(w, in), .c = dx, .ldc = in};
}
// dx [n][in] = dy [n][out] W^T, W stored [in][out].
Matmul input_gradient_in_out(int64_t n, int64_t in, int64_t out, ConstRef dy, ConstRef w, Ref dx) {
  return {.m = n, .n = in, .k = out, .a = rows(dy, out), .b = columns(w, out), .c = dx, .ldc = in};
}
// dW [rows][cols] += left^T right, left [n][rows], right [n][cols].
Matmul weight_gradient(int64_t n, int64_t row_count, int64_t column_count, ConstRef left, ConstRef right, float* dw) {
  return {.m = row_count,
          .n = column_count,
          .k = n,
          .a = columns(left, row_count),
          .b = rows(right, column_count),
          .c = Ref(dw),
          .ldc = column_count,
          .accumulate = true};
}

ops::Attention attention_shape(const TransformerConfig& config, const BatchShape& shape, const Batch& batch,
                               const StepRandom& random, int layer) {
  const int64_t c = config.width;
  ops::Attention attention{.batch = shape.batch,
                           .queries = shape.sequence,
                           .keys = shape.sequence,
                           .heads = config.heads,
                           .kv_heads = config.kv_heads,
                           .head_width = config.head_width(),
                           .scale = 1.0F / std::sqrt(static_cast<float>(config.head_width())),
                           .q_stride = 3 * c,
                           .kv_stride = 3 * c,
                           .out_stride = c};
  if (shape.dropout) {
    attention.dropout = {config.dropout, random.attention_dropout, static_cast<uint32_t>(layer), batch.sample_of_row};
  }
  return attention;
}

ops::Dropout dropout_at(const TransformerConfig& config, const Batch& batch, const StepRandom& random, uint32_t site) {
  return {config.dropout, random.dropout, site, {batch.samples, batch.positions}};
}

int64_t block_workspace_bytes(const TransformerConfig& config, const BatchShape& shape, Pass pass) {
  const int64_t n = shape.tokens(), c = config.width, f = config.ffn;
  const Ref any(nullptr, shape.dtype);
  float* const none = nullptr;
  const auto largest = [&](std::initializer_list<Matmul> products) {
    int64_t bytes = 0;
    for (const Matmul& product : products)
      bytes = std::max(bytes, ops::matmul_workspace_bytes(product, shape.team_size));
    return bytes;
  };
  const uint32_t any_sample = 0;
  const ops::Attention attention = attention_shape(config, shape, {.sample_of_row = &any_sample}, {}, 0);
  if (pass == Pass::forward) {
    return std::max(largest({forward_out_in(n, c, 3 * c, any, any, {}, any), forward_in_out(n, c, c, any, any, {}, any),
                             forward_out_in(n, c, f, any, any, {}, any), forward_in_out(n, f, c, any, any, {}, any)}),
                    ops::attention_workspace_bytes(attention, shape.dtype, shape.team_size));
  }
  return std::max(
      {largest({input_gradient_in_out(n, f, c, any, any, any), input_gradient_out_in(n, c, f, any, any, any),
                input_gradient_in_out(n, c, c, any, any, any), input_gradient_out_in(n, c, 3 * c, any, any, any),
                weight_gradient(n, f, c, any, any, none), weight_gradient(n, c, c, any, any, none),
                weight_gradient(n, 3 * c, c, any, any, none)}),
       ops::attention_workspace_bytes(attention, shape.dtype, shape.team_size),
       ops::layernorm_backward_workspace_bytes(n, c, shape.team_size),
       ops::column_sums_workspace_bytes(n, c, shape.team_size)});
}

}  // namespace

BlockWeights block_weights(const Unit& unit, ConstRef segment) {
  const auto at = [&](std::string_view suffix) { return segment.at(unit.tensor(suffix).offset); };
  return {at("norm1.weight"),         at("norm1.bias"),         at("attention.qkv.weight"), at("attention.qkv.bias"),
          at("attention.out.weight"), at("attention.out.bias"), at("norm2.weight"),         at("norm2.bias"),
          at("mlp.up.weight"),        at("mlp.up.bias"),        at("mlp.down.weight"),      at("mlp.down.bias")};
}

BlockGradients block_gradients(const Unit& unit, float* segment) {
  const auto at = [&](std::string_view suffix) { return segment + unit.tensor(suffix).offset; };
  return {at("norm1.weight"),         at("norm1.bias"),         at("attention.qkv.weight"), at("attention.qkv.bias"),
          at("attention.out.weight"), at("attention.out.bias"), at("norm2.weight"),         at("norm2.bias"),
          at("mlp.up.weight"),        at("mlp.up.bias"),        at("mlp.down.weight"),      at("mlp.down.bias")};
}

BlockSaved carve_block_saved(Carver& carver, const TransformerConfig& config, const BatchShape& shape) {
  const int64_t n = shape.tokens(), c = config.width, f = config.ffn;
  BlockSaved saved{};
  saved.norm1_out = carver.take("norm1 output", n * c, shape.dtype);
  saved.mean1 = carver.floats("norm1 mean", n);
  saved.rstd1 = carver.floats("norm1 rstd", n);
  saved.qkv = carver.take("qkv", n * 3 * c, shape.dtype);
  saved.attention_out = carver.take("attention output", n * c, shape.dtype);
  saved.lse = carver.floats("attention log-sum-exp", n * config.heads);
  saved.residual = carver.take("residual", n * c, shape.dtype);
  saved.norm2_out = carver.take("norm2 output", n * c, shape.dtype);
  saved.mean2 = carver.floats("norm2 mean", n);
  saved.rstd2 = carver.floats("norm2 rstd", n);
  saved.up = carver.take("mlp before GELU", n * f, shape.dtype);
  saved.activation = carver.take("mlp after GELU", n * f, shape.dtype);
  return saved;
}

BlockScratch carve_block_scratch(Carver& carver, const TransformerConfig& config, const BatchShape& shape, Pass pass) {
  const int64_t n = shape.tokens(), c = config.width;
  BlockScratch scratch{};
  if (pass == Pass::backward) {
    scratch.wide = carver.take("wide gradient", n * std::max(config.ffn, 3 * c), shape.dtype);
    scratch.narrow = carver.take("gradient of a norm's output", n * c, shape.dtype);
  }
  if (shape.dropout) {
    scratch.dropped = carver.take("dropped gradient", n * c, shape.dtype);
  }
  scratch.workspace = carver.bytes("packing and partial sums", block_workspace_bytes(config, shape, pass));
  return scratch;
}

void block_forward(device::Stream& stream, const TransformerConfig& config, const BatchShape& shape, int layer,
                   const Batch& batch, const StepRandom& random, const BlockWeights& weights, ConstRef input,
                   const BlockSaved& saved, Ref output, const BlockScratch& scratch) {
  const int64_t n = shape.tokens(), c = config.width, f = config.ffn;
  void* const workspace = scratch.workspace;

  // target = residual + dropout(x W + b), W stored [in][C].
  const auto project_into_residual = [&](int64_t in, ConstRef x, ConstRef w, ConstRef bias, ConstRef residual,
                                         uint32_t site, Ref target) {
    Matmul product = forward_in_out(n, in, c, x, w, bias, target);
    if (shape.dropout) {
      product.c = scratch.dropped;
      ops::matmul(stream, product, workspace);
      ops::dropout_forward(stream, n, c, dropout_at(config, batch, random, site), scratch.dropped, residual, target);
    } else {
      product.epilogue = Epilogue::residual;
      product.residual = residual;
      ops::matmul(stream, product, workspace);
    }
  };

  ops::layernorm_forward(stream, n, c, config.norm_epsilon, input, weights.norm1_weight, weights.norm1_bias,
                         saved.norm1_out, saved.mean1, saved.rstd1);
  ops::matmul(stream, forward_out_in(n, c, 3 * c, saved.norm1_out, weights.qkv_weight, weights.qkv_bias, saved.qkv),
              workspace);
  ops::attention_forward(stream, attention_shape(config, shape, batch, random, layer), saved.qkv, saved.qkv.at(c),
                         saved.qkv.at(2 * c), saved.attention_out, saved.lse, workspace);
  project_into_residual(c, saved.attention_out, weights.out_weight, weights.out_bias, input, attention_site(layer),
                        saved.residual);

  ops::layernorm_forward(stream, n, c, config.norm_epsilon, saved.residual, weights.norm2_weight, weights.norm2_bias,
                         saved.norm2_out, saved.mean2, saved.rstd2);
  Matmul up = forward_out_in(n, c, f, saved.norm2_out, weights.up_weight, weights.up_bias, saved.activation);
  up.epilogue = Epilogue::gelu;
  up.pre_activation = saved.up;
  ops::matmul(stream, up, workspace);
  project_into_residual(f, saved.activation, weights.down_weight, weights.down_bias, saved.residual, mlp_site(layer),
                        output);
}

void block_backward(device::Stream& stream, const TransformerConfig& config, const BatchShape& shape, int layer,
                    const Batch& batch, const StepRandom& random, const BlockWeights& weights,
                    const BlockGradients& gradients, ConstRef input, const BlockSaved& saved, Ref gradient,
                    const BlockScratch& scratch) {
  const int64_t n = shape.tokens(), c = config.width, f = config.ffn;
  void* const workspace = scratch.workspace;

  // The gradient that reaches a projection behind dropout.
  const auto behind_dropout = [&](uint32_t site) -> Ref {
    if (!shape.dropout) return gradient;
    ops::dropout_backward(stream, n, c, dropout_at(config, batch, random, site), gradient, scratch.dropped);
    return scratch.dropped;
  };

  // MLP.
  const Ref dmlp = behind_dropout(mlp_site(layer));
  const Ref dup = scratch.wide;
  ops::matmul(stream, weight_gradient(n, f, c, saved.activation, dmlp, gradients.down_weight), workspace);
  ops::column_sums(stream, n, c, dmlp, c, gradients.down_bias, workspace);
  Matmul through_gelu = input_gradient_in_out(n, f, c, dmlp, weights.down_weight, dup);
  through_gelu.epilogue = Epilogue::gelu_grad;
  through_gelu.activation_input = saved.up;
  ops::matmul(stream, through_gelu, workspace);
  Matmul up_gradient = weight_gradient(n, f, c, dup, saved.norm2_out, gradients.up_weight);
  up_gradient.row_sums_of_a = gradients.up_bias;
  ops::matmul(stream, up_gradient, workspace);
  ops::matmul(stream, input_gradient_out_in(n, c, f, dup, weights.up_weight, scratch.narrow), workspace);
  ops::layernorm_backward(stream, n, c, saved.residual, weights.norm2_weight, saved.mean2, saved.rstd2, scratch.narrow,
                          gradient, gradient, gradients.norm2_weight, gradients.norm2_bias, workspace);

  // Attention.
  const Ref dprojection = behind_dropout(attention_site(layer));
  const Ref dqkv = scratch.wide;
  const Ref dattention = scratch.narrow;
  ops::matmul(stream, weight_gradient(n, c, c, saved.attention_out, dprojection, gradients.out_weight), workspace);
  ops::column_sums(stream, n, c, dprojection, c, gradients.out_bias, workspace);
  ops::matmul(stream, input_gradient_in_out(n, c, c, dprojection, weights.out_weight, dattention), workspace);
  ops::attention_backward(stream, attention_shape(config, shape, batch, random, layer), saved.qkv, saved.qkv.at(c),
                          saved.qkv.at(2 * c), saved.attention_out, dattention, saved.lse, dqkv, dqkv.at(c),
                          dqkv.at(2 * c), workspace);
  Matmul qkv_gradient = weight_gradient(n, 3 * c, c, dqkv, saved.norm1_out, gradients.qkv_weight);
  qkv_gradient.row_sums_of_a = gradients.qkv_bias;
  ops::matmul(stream, qkv_gradient, workspace);
  ops::matmul(stream, input_gradient_out_in(n, c, 3 * c, dqkv, weights.qkv_weight, scratch.narrow), workspace);
  ops::layernorm_backward(stream, n, c, input, weights.norm1_weight, saved.mean1, saved.rstd1, scratch.narrow, gradient,
                          gradient, gradients.norm1_weight, gradients.norm1_bias, workspace);
}

void embedding_forward(device::Stream& stream, const TransformerConfig& config, const BatchShape& shape,
                       const Batch& batch, const StepRandom& random, ConstRef vocabulary, ConstRef positions,
                       Ref output) {
  const int64_t n = shape.tokens(), c = config.width;
  ops::embedding_forward(stream, n, c, config.vocab, config.context, batch.inputs, batch.positions, vocabulary,
                         positions, output);
  if (shape.dropout)
    ops::dropout_forward(stream, n, c, dropout_at(config, batch, random, kEmbeddingSite), output, {}, output);
}

void* carve_embedding_scratch(Carver& carver, const TransformerConfig& config, const BatchShape& shape) {
  return carver.bytes(
      "embedding buckets",
      std::max(ops::embedding_backward_workspace_bytes(shape.tokens(), config.vocab, shape.team_size),
               ops::embedding_backward_workspace_bytes(shape.tokens(), config.context, shape.team_size)));
}

void embedding_backward(device::Stream& stream, const TransformerConfig& config, const BatchShape& shape,
                        const Batch& batch, const StepRandom& random, Ref gradient, float* dvocabulary,
                        float* dpositions, void* scratch) {
  const int64_t n = shape.tokens(), c = config.width;
  if (shape.dropout)
    ops::dropout_backward(stream, n, c, dropout_at(config, batch, random, kEmbeddingSite), gradient, gradient);
  ops::embedding_backward(stream, n, c, config.vocab, batch.inputs, gradient, dvocabulary, scratch);
  ops::embedding_backward(stream, n, c, config.context, batch.positions, gradient, dpositions, scratch);
}

LossScratch carve_loss_scratch(Carver& carver, const TransformerConfig& config, const BatchShape& shape,
                               bool with_gradient) {
  const int64_t chunk = std::min(shape.head_chunk, shape.tokens()), c = config.width, v = config.vocab;
  LossScratch scratch{};
  scratch.ld = (v + kTensorAlignment - 1) / kTensorAlignment * kTensorAlignment;
  scratch.normed = carver.take("final norm output", chunk * c, shape.dtype);
  scratch.mean = carver.floats("final norm mean", chunk);
  scratch.rstd = carver.floats("final norm rstd", chunk);
  scratch.logits = carver.take("logits", chunk * scratch.ld, shape.dtype);
  if (with_gradient) scratch.dnormed = carver.take("gradient of final norm", chunk * c, shape.dtype);
  const Ref any(nullptr, shape.dtype);
  float* const none = nullptr;
  int64_t bytes = 0;
  // The last chunk may be shorter, and a smaller product may need more scratch than a larger one.
  for (const int64_t n : {chunk, shape.tokens() % chunk}) {
    if (n == 0) continue;
    bytes = std::max(bytes, ops::matmul_workspace_bytes(forward_out_in(n, c, v, any, any, {}, any), shape.team_size));
    if (!with_gradient) continue;
    bytes =
        std::max({bytes, ops::matmul_workspace_bytes(input_gradient_out_in(n, c, v, any, any, any), shape.team_size),
                  ops::matmul_workspace_bytes(weight_gradient(n, v, c, any, any, none), shape.team_size),
                  ops::layernorm_backward_workspace_bytes(n, c, shape.team_size)});
  }
  scratch.workspace = carver.bytes("packing and partial sums", bytes);
  return scratch;
}

void head_forward(device::Stream& stream, const TransformerConfig& config, int64_t n, ConstRef final_norm,
                  ConstRef vocabulary, ConstRef input, const LossScratch& scratch) {
  const int64_t c = config.width;
  const int64_t bias_offset = (c + kTensorAlignment - 1) / kTensorAlignment * kTensorAlignment;
  ops::layernorm_forward(stream, n, c, config.norm_epsilon, input, final_norm, final_norm.at(bias_offset),
                         scratch.normed, scratch.mean, scratch.rstd);
  Matmul logits = forward_out_in(n, c, config.vocab, scratch.normed, vocabulary, {}, scratch.logits);
  logits.ldc = scratch.ld;
  ops::matmul(stream, logits, scratch.workspace);
}

void loss(device::Stream& stream, const TransformerConfig& config, const BatchShape& shape, const Batch& batch,
          ConstRef final_norm, ConstRef vocabulary, ConstRef input, float scale, Ref gradient, float* dfinal_norm,
          float* dvocabulary, float* losses, const LossScratch& scratch) {
  const int64_t c = config.width, v = config.vocab;
  const int64_t bias_offset = (c + kTensorAlignment - 1) / kTensorAlignment * kTensorAlignment;
  const bool with_gradient = static_cast<bool>(gradient);
  for (int64_t first = 0; first < shape.tokens(); first += shape.head_chunk) {
    const int64_t n = std::min(shape.head_chunk, shape.tokens() - first);
    const ConstRef x = input.at(first * c);
    head_forward(stream, config, n, final_norm, vocabulary, x, scratch);
    ops::cross_entropy(stream, n, v, scratch.ld, scratch.logits, batch.labels + first, scale, with_gradient,
                       losses + first);
    if (!with_gradient) continue;
    Matmul dvocab = weight_gradient(n, v, c, scratch.logits, scratch.normed, dvocabulary);
    dvocab.a.ld = scratch.ld;
    ops::matmul(stream, dvocab, scratch.workspace);
    Matmul dnormed = input_gradient_out_in(n, c, v, scratch.logits, vocabulary, scratch.dnormed);
    dnormed.a.ld = scratch.ld;
    ops::matmul(stream, dnormed, scratch.workspace);
    ops::layernorm_backward(stream, n, c, x, final_norm, scratch.mean, scratch.rstd, scratch.dnormed, {},
                            gradient.at(first * c), dfinal_norm, dfinal_norm + bias_offset, scratch.workspace);
  }
}

CachedScratch carve_cached_scratch(Carver& carver, const TransformerConfig& config, DType dtype, int64_t count,
                                   int team_size) {
  const int64_t c = config.width, f = config.ffn;
  CachedScratch scratch{};
  scratch.normed = carver.take("norm output", count * c, dtype);
  scratch.qkv = carver.take("qkv", count * 3 * c, dtype);
  scratch.attention_out = carver.take("attention output", count * c, dtype);
  scratch.wide = carver.take("mlp after GELU", count * f, dtype);
  scratch.pre = carver.take("mlp before GELU", count * f, dtype);
  // Any number of tokens up to `count` may come at once, and a smaller product may need more scratch than a larger one.
  int64_t bytes = 0;
  for (int64_t n = 1; n <= count; ++n) {
    const BatchShape shape{.batch = 1, .sequence = n, .dtype = dtype, .team_size = team_size};
    ops::Attention attention = attention_shape(config, shape, {}, {}, 0);
    attention.keys = config.context;
    attention.query_start = config.context - n;
    bytes = std::max({bytes, block_workspace_bytes(config, shape, Pass::forward),
                      ops::attention_workspace_bytes(attention, dtype, team_size)});
  }
  scratch.workspace = carver.bytes("packing and partial sums", bytes);
  return scratch;
}

void block_cached(device::Stream& stream, const TransformerConfig& config, int64_t start, int64_t count,
                  const BlockWeights& weights, Ref cache, Ref hidden, const CachedScratch& scratch) {
  const int64_t c = config.width, f = config.ffn;
  void* const workspace = scratch.workspace;
  ops::layernorm_forward(stream, count, c, config.norm_epsilon, hidden, weights.norm1_weight, weights.norm1_bias,
                         scratch.normed, nullptr, nullptr);
  ops::matmul(stream,
              forward_out_in(count, c, 3 * c, scratch.normed, weights.qkv_weight, weights.qkv_bias, scratch.qkv),
              workspace);
  for (int64_t i = 0; i < count; ++i) {
    ops::cast(stream, 2 * c, scratch.qkv.at(i * 3 * c + c), cache.at((start + i) * 2 * c));
  }
  const BatchShape shape{.batch = 1, .sequence = count, .dtype = hidden.dtype};
  ops::Attention attention = attention_shape(config, shape, {}, {}, 0);
  attention.keys = start + count;
  attention.query_start = start;
  attention.kv_stride = 2 * c;
  ops::attention_forward(stream, attention, scratch.qkv, cache, cache.at(c), scratch.attention_out, nullptr, workspace);
  Matmul out = forward_in_out(count, c, c, scratch.attention_out, weights.out_weight, weights.out_bias, hidden);
  out.epilogue = Epilogue::residual;
  out.residual = hidden;
  ops::matmul(stream, out, workspace);

  ops::layernorm_forward(stream, count, c, config.norm_epsilon, hidden, weights.norm2_weight, weights.norm2_bias,
                         scratch.normed, nullptr, nullptr);
  Matmul up = forward_out_in(count, c, f, scratch.normed, weights.up_weight, weights.up_bias, scratch.wide);
  up.epilogue = Epilogue::gelu;
  up.pre_activation = scratch.pre;
  ops::matmul(stream, up, workspace);
  Matmul down = forward_in_out(count, f, c, scratch.wide, weights.down_weight, weights.down_bias, hidden);
  down.epilogue = Epilogue::residual;
  down.residual = hidden;
  ops::matmul(stream, down, workspace);
}

}  // namespace ridgeline::model

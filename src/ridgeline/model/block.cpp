#include "ridgeline/model/block.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "ridgeline/base/error.h"
#include "ridgeline/model/operators.h"

namespace ridgeline::model {
namespace {

using ops::Epilogue;
using ops::Matmul;

uint32_t attention_site(int layer) {
  return static_cast<uint32_t>(layer) * 4;
}
uint32_t mlp_site(int layer) {
  return static_cast<uint32_t>(layer) * 4 + 1;
}

ops::Attention attention_shape(const TransformerConfig& config, const BatchShape& shape, const Batch& batch,
                               const StepRandom& random, int layer) {
  ops::Attention attention{.batch = shape.batch,
                           .queries = shape.sequence,
                           .keys = shape.sequence,
                           .heads = config.heads,
                           .kv_heads = config.kv_heads,
                           .head_width = config.head_width(),
                           .scale = 1.0F / std::sqrt(static_cast<float>(config.head_width())),
                           .q_stride = config.qkv_width(),
                           .kv_stride = config.qkv_width(),
                           .out_stride = config.heads * config.head_width()};
  if (shape.dropout) {
    attention.dropout = {config.dropout, random.attention_dropout, static_cast<uint32_t>(layer), batch.sample_of_row};
  }
  return attention;
}

// What Recompute leaves of a forward: what products and attention made, and what element-wise operators made of it.
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

ops::RotaryPairing pairing_of(Pairing option) {
  switch (option) {
    case Pairing::interleaved:
      return ops::RotaryPairing::interleaved;
    case Pairing::half_split:
      return ops::RotaryPairing::half_split;
  }
  RL_NO_CASE(option);
}

// One of the products that make queries, keys and values out of a norm's output.
struct Projection {
  ConstRef weight, bias;
  float *weight_gradient, *bias_gradient;
  int64_t first, out;  // columns of qkv
};

// The members of `kept`, or where it has none those of `again`.
BlockSaved merged(const BlockSaved& kept, const BlockSaved& again) {
  const auto ref = [](Ref a, Ref b) { return a ? a : b; };
  const auto floats = [](float* a, float* b) { return a != nullptr ? a : b; };
  return {.norm1_out = ref(kept.norm1_out, again.norm1_out),
          .mean1 = floats(kept.mean1, again.mean1),
          .rstd1 = floats(kept.rstd1, again.rstd1),
          .qkv = ref(kept.qkv, again.qkv),
          .attention_out = ref(kept.attention_out, again.attention_out),
          .lse = floats(kept.lse, again.lse),
          .residual = ref(kept.residual, again.residual),
          .norm2_out = ref(kept.norm2_out, again.norm2_out),
          .mean2 = floats(kept.mean2, again.mean2),
          .rstd2 = floats(kept.rstd2, again.rstd2),
          .up = ref(kept.up, again.up),
          .activation = ref(kept.activation, again.activation)};
}

// The work of one block on one micro-batch; every step of it is described once, for the pass that runs it and for the
// one that counts workspace.
class Work {
 public:
  Work(Operators& operators, const TransformerConfig& config, const BatchShape& shape, int layer, const Batch& batch,
       const StepRandom& random, const BlockWeights& weights)
      : do_(operators),
        config_(config),
        shape_(shape),
        layer_(layer),
        batch_(batch),
        random_(random),
        w_(weights),
        n_(shape.tokens()),
        attended_(config.heads * config.head_width()),
        sequential_(mlp_follows_attention(config.residual)),
        one_norm_(!has_second_norm(config.residual)) {}

  void forward(ConstRef input, const BlockSaved& saved, Ref output, const BlockScratch& scratch) {
    const BlockSaved s = merged(saved, scratch.again);
    const Ref after_attention = sequential_ ? s.residual : output;
    norm1(input, s.norm1_out, s.mean1, s.rstd1);
    attend(s.norm1_out, s);
    into_residual(attended_, s.attention_out, w_.out_weight, w_.out_bias, input, attention_site(layer_),
                  after_attention, scratch.dropped);
    if (!one_norm_) norm2(sequential_ ? ConstRef(s.residual) : input, s.norm2_out, s.mean2, s.rstd2);
    up(one_norm_ ? s.norm1_out : s.norm2_out, s.up, s.activation);
    into_residual(config_.ffn, s.activation, w_.down_weight, w_.down_bias, after_attention, mlp_site(layer_), output,
                  scratch.dropped);
  }

  void backward(ConstRef input, const BlockSaved& saved, Ref gradient, const BlockGradients& gradients,
                const BlockScratch& scratch, Recompute recompute) {
    const BlockSaved s = merged(saved, scratch.again);
    if (!keeps_products(recompute)) again(input, s, scratch);
    // Where norm outputs are not kept they are made again just before they are read.
    const bool renew = !keeps_outputs(recompute);
    mlp_backward(input, s, gradient, gradients, scratch, renew);
    attention_backward(input, s, gradient, gradients, scratch, renew);
  }

  void cached(int64_t start, Ref cache, Ref hidden, const CachedScratch& s) {
    norm1(hidden, s.normed, nullptr, nullptr);
    const Ref mlp_normed = one_norm_ ? s.normed : s.mlp_normed;
    if (!sequential_ && !one_norm_) norm2(hidden, mlp_normed, nullptr, nullptr);
    project_qkv(s.normed, s.qkv);
    const int64_t kv = config_.kv_heads * config_.head_width(), qkv = config_.qkv_width();
    do_.apply([&](device::Stream& stream) {
      for (int64_t i = 0; i < n_; ++i)
        ops::cast(stream, 2 * kv, s.qkv.at(i * qkv + attended_), cache.at((start + i) * 2 * kv));
    });
    ops::Attention attention = attention_shape(config_, shape_, batch_, random_, layer_);
    attention.keys = start + n_;
    attention.query_start = start;
    attention.kv_stride = 2 * kv;
    do_.attention_forward(attention, s.qkv, cache, cache.at(kv), s.attention_out, nullptr);
    into_residual(attended_, s.attention_out, w_.out_weight, w_.out_bias, hidden, 0, hidden, {});
    if (sequential_) norm2(hidden, mlp_normed, nullptr, nullptr);
    up(mlp_normed, s.up, s.activation);
    into_residual(config_.ffn, s.activation, w_.down_weight, w_.down_bias, hidden, 0, hidden, {});
  }

 private:
  void norm1(ConstRef x, Ref y, float* mean, float* rstd) {
    do_.norm_forward(config_, n_, x, w_.norm1_weight, w_.norm1_bias, y, mean, rstd);
  }
  void norm2(ConstRef x, Ref y, float* mean, float* rstd) {
    do_.norm_forward(config_, n_, x, w_.norm2_weight, w_.norm2_bias, y, mean, rstd);
  }

  // One product for queries, keys and values, or one for queries and one for keys and values.
  template <typename F>
  void for_each_projection(const BlockGradients& g, F&& f) const {
    const int64_t qkv = config_.qkv_width();
    if (config_.grouped_query()) {
      f(Projection{w_.q_weight, w_.q_bias, g.q_weight, g.q_bias, 0, attended_});
      f(Projection{w_.kv_weight, w_.kv_bias, g.kv_weight, g.kv_bias, attended_, qkv - attended_});
    } else {
      f(Projection{w_.qkv_weight, w_.qkv_bias, g.qkv_weight, g.qkv_bias, 0, qkv});
    }
  }

  void project_qkv(ConstRef normed, Ref qkv) {
    for_each_projection({}, [&](const Projection& p) {
      do_.matmul(
          forward_out_in(n_, config_.width, p.out, normed, p.weight, p.bias, qkv.at(p.first), config_.qkv_width()));
    });
    rotate(qkv, false);
  }

  // Turns queries and keys, which stand side by side, by their positions.
  void rotate(Ref qkv, bool inverse) {
    if (!rotates(config_.positions)) return;
    do_.apply([&](device::Stream& stream) {
      ops::rotary(stream,
                  {.tokens = n_,
                   .heads = config_.heads + config_.kv_heads,
                   .head_width = config_.head_width(),
                   .rotary_width = config_.rotated_width(),
                   .stride = config_.qkv_width(),
                   .pairing = pairing_of(config_.rotary_pairing),
                   .positions = batch_.positions,
                   .table = batch_.rotary,
                   .inverse = inverse},
                  qkv);
    });
  }

  void attend(ConstRef normed, const BlockSaved& s) {
    project_qkv(normed, s.qkv);
    do_.attention_forward(attention_shape(config_, shape_, batch_, random_, layer_), s.qkv, keys(s.qkv), values(s.qkv),
                          s.attention_out, s.lse);
  }
  Ref keys(Ref qkv) const { return qkv.at(attended_); }
  Ref values(Ref qkv) const { return qkv.at(attended_ + config_.kv_heads * config_.head_width()); }

  // target = residual + dropout(x W + b), W stored [in][C]. target may be residual.
  void into_residual(int64_t in, ConstRef x, ConstRef w, ConstRef bias, ConstRef residual, uint32_t site, Ref target,
                     Ref dropped) {
    Matmul product = forward_in_out(n_, in, config_.width, x, w, bias, target);
    if (shape_.dropout) {
      product.c = dropped;
      do_.matmul(product);
      do_.apply([&](device::Stream& stream) {
        ops::dropout_forward(stream, n_, config_.width, dropout_at(config_, batch_, random_, site), dropped, residual,
                             target);
      });
    } else {
      product.epilogue = Epilogue::residual;
      product.residual = residual;
      do_.matmul(product);
    }
  }

  // before = normed Wup^T + b, after = f(before). `after` null: only the product.
  void up(ConstRef normed, Ref before, Ref after) {
    Matmul product = forward_out_in(n_, config_.width, config_.up_width(), normed, w_.up_weight, w_.up_bias, before,
                                    config_.up_width());
    if (after && config_.mlp == Mlp::gelu_tanh) {  // the one that a product can end in
      product.epilogue = Epilogue::gelu;
      product.pre_activation = before;
      product.c = after;
      return do_.matmul(product);
    }
    do_.matmul(product);
    if (after) activate(before, after);
  }

  void activate(ConstRef before, Ref after) {
    do_.apply([&](device::Stream& stream) {
      switch (config_.mlp) {
        case Mlp::gelu_tanh:
          return ops::activation_forward(stream, ops::Activation::gelu_tanh, n_ * config_.ffn, before, after);
        case Mlp::gelu_erf:
          return ops::activation_forward(stream, ops::Activation::gelu_erf, n_ * config_.ffn, before, after);
        case Mlp::swiglu:
          return ops::swiglu_forward(stream, n_, config_.ffn, before, after);
      }
      RL_NO_CASE(config_.mlp);
    });
  }

  // The forward once more, up to what the backward reads: neither the activation, which it makes itself, nor the last
  // product.
  void again(ConstRef input, const BlockSaved& s, const BlockScratch& scratch) {
    norm1(input, s.norm1_out, s.mean1, s.rstd1);
    if (one_norm_) up(s.norm1_out, s.up, {});
    attend(s.norm1_out, s);
    if (sequential_) {
      into_residual(attended_, s.attention_out, w_.out_weight, w_.out_bias, input, attention_site(layer_), s.residual,
                    scratch.dropped);
    }
    if (one_norm_) return;
    norm2(sequential_ ? ConstRef(s.residual) : input, s.norm2_out, s.mean2, s.rstd2);
    up(s.norm2_out, s.up, {});
  }

  // The gradient that reaches a projection behind dropout.
  Ref behind_dropout(Ref gradient, uint32_t site, Ref dropped) {
    if (!shape_.dropout) return gradient;
    do_.apply([&](device::Stream& stream) {
      ops::dropout_backward(stream, n_, config_.width, dropout_at(config_, batch_, random_, site), gradient, dropped);
    });
    return dropped;
  }

  // Gradient of the activation's input, from that of the MLP's output.
  void through_activation(ConstRef dmlp, ConstRef before, Ref dup, Ref dactivation) {
    const int64_t f = config_.ffn;
    Matmul product = input_gradient_in_out(n_, f, config_.width, dmlp, w_.down_weight, dup);
    switch (config_.mlp) {
      case Mlp::gelu_tanh:
        product.epilogue = Epilogue::gelu_grad;
        product.activation_input = before;
        return do_.matmul(product);
      case Mlp::gelu_erf:
        do_.matmul(product);
        return do_.apply([&](device::Stream& stream) {
          ops::activation_backward(stream, ops::Activation::gelu_erf, n_ * f, before, dup, dup);
        });
      case Mlp::swiglu:
        product.c = dactivation;
        do_.matmul(product);
        return do_.apply(
            [&](device::Stream& stream) { ops::swiglu_backward(stream, n_, f, before, dactivation, dup); });
    }
    RL_NO_CASE(config_.mlp);
  }

  void mlp_backward(ConstRef input, const BlockSaved& s, Ref gradient, const BlockGradients& g,
                    const BlockScratch& scratch, bool renew) {
    const int64_t c = config_.width, f = config_.ffn, u = config_.up_width();
    const ConstRef norm_input = sequential_ ? ConstRef(s.residual) : input;
    if (renew) activate(s.up, s.activation);
    const Ref dmlp = behind_dropout(gradient, mlp_site(layer_), scratch.dropped);
    do_.matmul(weight_gradient(n_, f, c, s.activation, f, dmlp, g.down_weight, nullptr));
    do_.bias_gradient(n_, c, dmlp, g.down_bias);
    const Ref dup = scratch.wide;
    through_activation(dmlp, s.up, dup, scratch.dactivation);
    if (renew && one_norm_) norm1(input, s.norm1_out, nullptr, nullptr);
    if (renew && !one_norm_) norm2(norm_input, s.norm2_out, nullptr, nullptr);
    do_.matmul(weight_gradient(n_, u, c, dup, u, one_norm_ ? s.norm1_out : s.norm2_out, g.up_weight, g.up_bias));
    const Ref dnormed = sequential_ ? scratch.narrow : scratch.mlp_narrow;
    do_.matmul(input_gradient_out_in(n_, c, u, dup, u, w_.up_weight, dnormed));
    // In parallel the attention still needs the gradient of the block's output as it is.
    if (sequential_) norm2_backward(norm_input, s, dnormed, gradient, g);
  }

  void norm2_backward(ConstRef x, const BlockSaved& s, ConstRef dnormed, Ref gradient, const BlockGradients& g) {
    do_.norm_backward(config_, n_, x, w_.norm2_weight, s.mean2, s.rstd2, dnormed, gradient, gradient, g.norm2_weight,
                      g.norm2_bias);
  }

  void attention_backward(ConstRef input, const BlockSaved& s, Ref gradient, const BlockGradients& g,
                          const BlockScratch& scratch, bool renew) {
    const int64_t c = config_.width, qkv = config_.qkv_width();
    const Ref dprojection = behind_dropout(gradient, attention_site(layer_), scratch.dropped);
    const Ref dattention = scratch.narrow, dqkv = scratch.wide;
    do_.matmul(weight_gradient(n_, attended_, c, s.attention_out, attended_, dprojection, g.out_weight, nullptr));
    do_.bias_gradient(n_, c, dprojection, g.out_bias);
    do_.matmul(input_gradient_in_out(n_, attended_, c, dprojection, w_.out_weight, dattention));
    do_.attention_backward(attention_shape(config_, shape_, batch_, random_, layer_), s.qkv, keys(s.qkv), values(s.qkv),
                           s.attention_out, dattention, s.lse, dqkv, keys(dqkv), values(dqkv));
    rotate(dqkv, true);
    if (renew) norm1(input, s.norm1_out, nullptr, nullptr);
    for_each_projection(g, [&](const Projection& p) {
      do_.matmul(weight_gradient(n_, p.out, c, dqkv.at(p.first), qkv, s.norm1_out, p.weight_gradient, p.bias_gradient));
    });
    const Ref dnormed = scratch.narrow;
    // What the sum starts with: with one norm, its gradient by way of the MLP.
    Ref sum = one_norm_ ? scratch.mlp_narrow : Ref();
    for_each_projection(g, [&](const Projection& p) {
      Matmul product = input_gradient_out_in(n_, c, p.out, dqkv.at(p.first), qkv, p.weight, dnormed);
      if (sum) {
        product.epilogue = Epilogue::residual;
        product.residual = sum;
      }
      do_.matmul(product);
      sum = dnormed;
    });
    if (!sequential_ && !one_norm_) norm2_backward(input, s, scratch.mlp_narrow, gradient, g);
    do_.norm_backward(config_, n_, input, w_.norm1_weight, s.mean1, s.rstd1, dnormed, gradient, gradient,
                      g.norm1_weight, g.norm1_bias);
  }

  Operators& do_;
  const TransformerConfig& config_;
  const BatchShape& shape_;
  const int layer_;
  const Batch& batch_;
  const StepRandom& random_;
  const BlockWeights& w_;
  const int64_t n_, attended_;  // N, H D
  const bool sequential_, one_norm_;
};

// All that element-wise operators cannot make again.
void carve_kept(Carver& carver, const TransformerConfig& config, const BatchShape& shape, BlockSaved& saved) {
  const int64_t n = shape.tokens();
  const bool two_norms = has_second_norm(config.residual), mean = has_mean(config.norm);
  if (mean) saved.mean1 = carver.floats("norm1 mean", n);
  saved.rstd1 = carver.floats("norm1 rstd", n);
  saved.qkv = carver.take("qkv", n * config.qkv_width(), shape.dtype);
  saved.attention_out = carver.take("attention output", n * config.heads * config.head_width(), shape.dtype);
  saved.lse = carver.floats("attention log-sum-exp", n * config.heads);
  if (mlp_follows_attention(config.residual)) saved.residual = carver.take("residual", n * config.width, shape.dtype);
  if (two_norms && mean) saved.mean2 = carver.floats("norm2 mean", n);
  if (two_norms) saved.rstd2 = carver.floats("norm2 rstd", n);
  saved.up = carver.take("mlp before activation", n * config.up_width(), shape.dtype);
}

// Everything but the workspace.
BlockScratch carve_buffers(Carver& carver, const TransformerConfig& config, const BatchShape& shape, Pass pass,
                           Recompute recompute) {
  const int64_t n = shape.tokens(), c = config.width, f = config.ffn, attended = config.heads * config.head_width();
  BlockScratch scratch{};
  if (!keeps_products(recompute)) carve_kept(carver, config, shape, scratch.again);
  if (pass == Pass::backward) {
    scratch.wide = carver.take("wide gradient", n * std::max(config.up_width(), config.qkv_width()), shape.dtype);
    scratch.narrow = carver.take("gradient of a norm's output", n * std::max(c, attended), shape.dtype);
    if (!mlp_follows_attention(config.residual))
      scratch.mlp_narrow = carver.take("gradient of the MLP's input", n * c, shape.dtype);
    if (is_gated(config.mlp)) scratch.dactivation = carver.take("gradient of SwiGLU", n * f, shape.dtype);
    if (!keeps_outputs(recompute)) {
      // Each is read for the last time before a gradient takes its place.
      scratch.again.norm1_out = scratch.again.norm2_out = scratch.narrow;
      scratch.again.activation = is_gated(config.mlp) ? scratch.dactivation : scratch.wide;
    }
  } else if (!keeps_outputs(recompute)) {
    scratch.again.norm1_out = scratch.again.norm2_out = carver.take("norm output", n * c, shape.dtype);
    scratch.again.activation = carver.take("mlp after activation", n * f, shape.dtype);
  }
  if (shape.dropout) scratch.dropped = carver.take("dropped gradient", n * c, shape.dtype);
  return scratch;
}

int64_t workspace_bytes(const TransformerConfig& config, const BatchShape& shape, Pass pass, Recompute recompute) {
  Operators operators(shape.team_size);
  Carver carver(placeholder());
  const Segment segment = declare_block(config, 0);
  const BlockWeights weights = block_weights({{&segment, ConstRef(placeholder(), shape.dtype)}});
  const BlockSaved saved = carve_block_saved(carver, config, shape, recompute);
  const BlockScratch scratch = carve_buffers(carver, config, shape, pass, recompute);
  const Ref any(placeholder(), shape.dtype);
  const Batch batch{.sample_of_row = static_cast<const uint32_t*>(placeholder())};
  const StepRandom random;
  Work work(operators, config, shape, 0, batch, random, weights);
  if (pass == Pass::forward) {
    work.forward(any, saved, any, scratch);
  } else {
    work.backward(any, saved, any, block_gradients({{&segment, static_cast<float*>(placeholder())}}), scratch,
                  recompute);
  }
  return operators.workspace_bytes();
}

template <typename Result, typename Data>
Result parts_of(const PlacedSegments<Data>& segments) {
  const auto at = [&](std::string_view suffix) { return find(segments, suffix); };
  return {.norm1_weight = at("norm1.weight"),
          .norm1_bias = at("norm1.bias"),
          .qkv_weight = at("attention.qkv.weight"),
          .qkv_bias = at("attention.qkv.bias"),
          .q_weight = at("attention.q.weight"),
          .q_bias = at("attention.q.bias"),
          .kv_weight = at("attention.kv.weight"),
          .kv_bias = at("attention.kv.bias"),
          .out_weight = at("attention.out.weight"),
          .out_bias = at("attention.out.bias"),
          .norm2_weight = at("norm2.weight"),
          .norm2_bias = at("norm2.bias"),
          .up_weight = at("mlp.up.weight"),
          .up_bias = at("mlp.up.bias"),
          .down_weight = at("mlp.down.weight"),
          .down_bias = at("mlp.down.bias")};
}

}  // namespace

BlockWeights block_weights(const PlacedSegments<ConstRef>& segments) {
  return parts_of<BlockWeights>(segments);
}

BlockGradients block_gradients(const PlacedSegments<float*>& segments) {
  return parts_of<BlockGradients>(segments);
}

BlockSaved carve_block_saved(Carver& carver, const TransformerConfig& config, const BatchShape& shape,
                             Recompute recompute) {
  const int64_t n = shape.tokens();
  BlockSaved saved{};
  if (!keeps_products(recompute)) return saved;
  carve_kept(carver, config, shape, saved);
  if (!keeps_outputs(recompute)) return saved;
  saved.norm1_out = carver.take("norm1 output", n * config.width, shape.dtype);
  if (has_second_norm(config.residual)) saved.norm2_out = carver.take("norm2 output", n * config.width, shape.dtype);
  saved.activation = carver.take("mlp after activation", n * config.ffn, shape.dtype);
  return saved;
}

BlockScratch carve_block_scratch(Carver& carver, const TransformerConfig& config, const BatchShape& shape, Pass pass,
                                 Recompute recompute) {
  BlockScratch scratch = carve_buffers(carver, config, shape, pass, recompute);
  scratch.workspace = carver.workspace("packing and partial sums", workspace_bytes(config, shape, pass, recompute));
  return scratch;
}

std::span<const std::string_view> words_of(Recompute /*type*/) {
  static constexpr std::array<std::string_view, 3> kWords = {"none", "selective", "full"};
  return kWords;
}

void block_forward(device::Stream& stream, const TransformerConfig& config, const BatchShape& shape, int layer,
                   const Batch& batch, const StepRandom& random, const BlockWeights& weights, ConstRef input,
                   const BlockSaved& saved, Ref output, const BlockScratch& scratch, Recompute /*recompute*/) {
  Operators operators(stream, scratch.workspace);
  Work(operators, config, shape, layer, batch, random, weights).forward(input, saved, output, scratch);
}

void block_backward(device::Stream& stream, const TransformerConfig& config, const BatchShape& shape, int layer,
                    const Batch& batch, const StepRandom& random, const BlockWeights& weights,
                    const BlockGradients& gradients, ConstRef input, const BlockSaved& saved, Ref gradient,
                    const BlockScratch& scratch, Recompute recompute) {
  Operators operators(stream, scratch.workspace);
  Work(operators, config, shape, layer, batch, random, weights)
      .backward(input, saved, gradient, gradients, scratch, recompute);
}

CachedScratch carve_cached_scratch(Carver& carver, const TransformerConfig& config, DType dtype, int64_t count,
                                   int64_t cached, int team_size) {
  CachedScratch scratch{};
  scratch.normed = carver.take("norm output", count * config.width, dtype);
  scratch.mlp_normed = has_second_norm(config.residual) && !mlp_follows_attention(config.residual)
                           ? carver.take("norm output for the MLP", count * config.width, dtype)
                           : scratch.normed;
  scratch.qkv = carver.take("qkv", count * config.qkv_width(), dtype);
  scratch.attention_out = carver.take("attention output", count * config.heads * config.head_width(), dtype);
  scratch.up = carver.take("mlp before activation", count * config.up_width(), dtype);
  scratch.activation = carver.take("mlp after activation", count * config.ffn, dtype);
  // Any number of tokens up to `count` may come at once, and a smaller product may need more scratch than a larger one.
  Operators operators(team_size);
  const Segment segment = declare_block(config, 0);
  const Ref any(placeholder(), dtype);
  const BlockWeights weights = block_weights({{&segment, any}});
  const CachedScratch places{any, any, any, any, any, any, {}};
  for (int64_t n = 1; n <= count; ++n) {
    const BatchShape shape{.batch = 1, .sequence = n, .dtype = dtype, .team_size = team_size};
    const Batch batch;
    const StepRandom random;
    // Attention asks for more at the start of a sequence, where a backward is possible, or at its end.
    for (const int64_t start : {int64_t{0}, cached - n})
      Work(operators, config, shape, 0, batch, random, weights).cached(start, any, any, places);
  }
  scratch.workspace = carver.workspace("packing and partial sums", operators.workspace_bytes());
  return scratch;
}

void block_cached(device::Stream& stream, const TransformerConfig& config, const Batch& batch, int64_t start,
                  int64_t count, const BlockWeights& weights, Ref cache, Ref hidden, const CachedScratch& scratch) {
  const BatchShape shape{.batch = 1, .sequence = count, .dtype = hidden.dtype};
  const StepRandom random;
  Operators operators(stream, scratch.workspace);
  Work(operators, config, shape, 0, batch, random, weights).cached(start, cache, hidden, scratch);
}

}  // namespace ridgeline::model

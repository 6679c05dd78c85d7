#include "ridgeline/model/block.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "ridgeline/base/error.h"
#include "ridgeline/model/block_memory.h"
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

ops::Attention attention_of(const LocalShape& shape, const BlockContext& context) {
  const TransformerConfig& config = shape.config;
  ops::Attention attention{.batch = shape.batch.batch,
                           .queries = shape.batch.sequence,
                           .keys = shape.batch.sequence,
                           .heads = shape.slice.heads.count,
                           .kv_heads = shape.slice.kv_heads.count,
                           .head_width = config.head_width(),
                           .scale = 1.0F / std::sqrt(static_cast<float>(config.head_width())),
                           .first_keys = context.batch.first_keys,
                           .q_stride = shape.qkv_width(),
                           .kv_stride = shape.qkv_width(),
                           .out_stride = shape.attended()};
  if (shape.batch.dropout) {
    const auto first_head = static_cast<uint32_t>(context.layer * config.heads + shape.slice.heads.first);
    attention.dropout = {config.dropout, context.random.attention_dropout, first_head, context.batch.sample_of_row};
  }
  return attention;
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
  Weight weight;
  ConstRef bias;
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
class BlockWork {
 public:
  BlockWork(Operators& operators, const LocalShape& shape, const BlockContext& context, const BlockWeights& weights)
      : do_(operators),
        shape_(shape),
        context_(context),
        config_(shape.config),
        w_(weights),
        n_(shape.batch.tokens()),
        m_(shape.tokens().count),
        f_(shape.slice.ffn.count),
        attended_(shape.attended()),
        sequential_(mlp_follows_attention(config_.residual)),
        one_norm_(!has_second_norm(config_.residual)) {}

  void forward(ConstRef input, const BlockSaved& saved, Ref output, const BlockScratch& scratch) {
    const BlockSaved s = merged(saved, scratch.again);
    const Ref after_attention = sequential_ ? s.residual : output;
    norm1(input, s.norm1_out, s.mean1, s.rstd1);
    attend(s.norm1_out, s);
    into_residual(attended_, s.attention_out, w_.out_weight, w_.out_bias, input, attention_site(context_.layer),
                  after_attention, scratch.branch);
    if (!one_norm_) norm2(sequential_ ? ConstRef(s.residual) : input, s.norm2_out, s.mean2, s.rstd2);
    up(one_norm_ ? s.norm1_out : s.norm2_out, s.up, s.activation);
    into_residual(f_, s.activation, w_.down_weight, w_.down_bias, after_attention, mlp_site(context_.layer), output,
                  scratch.branch);
  }

  void backward(ConstRef input, const BlockSaved& saved, Ref gradient, const BlockGradients& gradients,
                const BlockScratch& scratch) {
    const BlockSaved s = merged(saved, scratch.again);
    if (!keeps_products(shape_.recompute)) again(input, s, scratch);
    const Ref behind = shape_.batch.dropout || shape_.slice.sequence ? scratch.branch : gradient;
    const Ref mlp_narrow = sequential_ ? scratch.narrow : scratch.mlp_narrow;
    const Gradients all{.output = gradient,
                        .residual = gradient,
                        .input = gradient,
                        .of = {.mlp = behind,
                               .up = scratch.wide,
                               .norm2 = mlp_narrow,
                               .attention = behind,
                               .qkv = scratch.wide,
                               .norm1 = scratch.narrow},
                        .mlp_input = mlp_narrow,
                        .attended = scratch.narrow,
                        .activation = scratch.dactivation};
    run_backward({.input = true, .weight = true}, input, s, all, gradients);
  }

  void backward_input(ConstRef input, const BlockSaved& s, ConstRef output_gradient, Ref input_gradient,
                      const BlockWeightInputs& left, const BlockScratch& scratch) {
    // Behind the attention's branch stands what the MLP made of the gradient, or the gradient itself.
    const Gradients all{.output = output_gradient,
                        .residual = sequential_ ? ConstRef(input_gradient) : output_gradient,
                        .input = input_gradient,
                        .of = left,
                        .mlp_input = one_norm_ ? scratch.mlp_narrow : left.norm2,
                        .attended = scratch.narrow,
                        .activation = scratch.dactivation};
    run_backward({.input = true, .weight = false}, input, s, all, {});
  }

  void backward_weight(ConstRef input, const BlockSaved& saved, const BlockWeightInputs& left,
                       const BlockGradients& gradients, const BlockScratch& scratch) {
    run_backward({.input = false, .weight = true}, input, merged(saved, scratch.again), {.of = left}, gradients);
  }

  void cached(int64_t start, Ref cache, ConstRef input, Ref output, const CachedScratch& s) {
    norm1(input, s.normed, nullptr, nullptr);
    const Ref mlp_normed = one_norm_ ? s.normed : s.mlp_normed;
    if (!sequential_ && !one_norm_) norm2(input, mlp_normed, nullptr, nullptr);
    project_qkv(s.normed, s.qkv);
    const int64_t kv = shape_.slice.kv_heads.count * config_.head_width(), qkv = shape_.qkv_width();
    do_.apply([&](device::Stream& stream) {
      for (int64_t i = 0; i < n_; ++i)
        ops::cast(stream, 2 * kv, s.qkv.at(i * qkv + attended_), cache.at((start + i) * 2 * kv));
    });
    ops::Attention attention = attention_of(shape_, context_);
    attention.keys = start + n_;
    attention.query_start = start;
    attention.kv_stride = 2 * kv;
    do_.attention_forward(attention, s.qkv, cache, cache.at(kv), s.attention_out, nullptr);
    into_residual(attended_, s.attention_out, w_.out_weight, w_.out_bias, input, 0, output, s.branch);
    if (sequential_) norm2(output, mlp_normed, nullptr, nullptr);
    up(mlp_normed, s.up, s.activation);
    into_residual(f_, s.activation, w_.down_weight, w_.down_bias, output, 0, output, s.branch);
  }

 private:
  // Which part of a backward runs.
  struct Parts {
    bool input, weight;
  };
  // Where the gradients of a backward lie. Some may share memory where both parts run together.
  struct Gradients {
    ConstRef output, residual;  // of the block, and of what the attention's branch was added to
    Ref input;
    BlockWeightInputs of;
    Ref mlp_input, attended, activation;  // of the MLP's input, of attention's output, of SwiGLU's
  };

  // From the residual stream's tokens to all of them, which products read.
  void norm1(ConstRef x, Ref y, float* mean, float* rstd) {
    do_.norm_forward(config_, m_, x, w_.norm1_weight, w_.norm1_bias, own(y), mean, rstd);
    enter(y);
  }
  void norm2(ConstRef x, Ref y, float* mean, float* rstd) {
    do_.norm_forward(config_, m_, x, w_.norm2_weight, w_.norm2_bias, own(y), mean, rstd);
    enter(y);
  }
  // Of [N][C] the residual stream's tokens.
  template <typename AnyRef>
  AnyRef own(AnyRef all) const {
    return all.at(shape_.tokens().first * config_.width);
  }
  // [N][C], of which every slice has its own tokens, comes to all of them.
  void enter(Ref all) {
    if (shape_.slice.sequence) do_.gather_from_slices(all, m_ * config_.width);
  }
  // [N][C], of which every slice has computed a part: the sum, of the residual stream's tokens, after
  // do_.finish_sums().
  void leave(Ref all) {
    if (shape_.slice.sequence) return do_.sum_parts_over_slices(all, m_ * config_.width);
    if (!shape_.is_whole()) do_.start_sum_over_slices(all, n_ * config_.width);
  }
  // The same of what the product makes: where sums travel, in chunks of rows, each while the next is computed.
  void leave_by_chunks(const Matmul& product) {
    constexpr int64_t kChunks = 4, kFewest = 8;
    if (do_.counting() || !do_.sums_travel()) do_.matmul(product);
    if (!do_.counting() && !do_.sums_travel()) return leave(product.c);
    const int64_t rows = std::max((n_ + kChunks - 1) / kChunks, kFewest);
    for (int64_t first = 0; first < n_; first += rows) {
      Matmul part = product;
      part.m = std::min(rows, n_ - first);
      part.a.data = product.a.data.at(first * product.a.ld);
      part.c = product.c.at(first * product.ldc);
      do_.matmul(part);
      do_.start_sum_over_slices(part.c, part.m * config_.width);
    }
  }
  // The sum of a gradient over the slices starts before what else needs no sum, where both have their places.
  bool input_first() const { return keeps_norms(shape_) && do_.sums_travel(); }

  // One product for queries, keys and values, or one for queries and one for keys and values.
  template <typename F>
  void for_each_projection(const BlockGradients& g, F&& f) const {
    const int64_t qkv = shape_.qkv_width();
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
          product_forward(n_, config_.width, p.out, normed, p.weight, p.bias, qkv.at(p.first), shape_.qkv_width()));
    });
    rotate(qkv, false);
  }

  // Turns queries and keys, which stand side by side, by their positions.
  void rotate(Ref qkv, bool inverse) {
    if (!rotates(config_.positions)) return;
    do_.apply([&](device::Stream& stream) {
      ops::rotary(stream,
                  {.tokens = n_,
                   .heads = shape_.slice.heads.count + shape_.slice.kv_heads.count,
                   .head_width = config_.head_width(),
                   .rotary_width = config_.rotated_width(),
                   .stride = shape_.qkv_width(),
                   .pairing = pairing_of(config_.rotary_pairing),
                   .positions = context_.batch.embedded_positions(),
                   .table = context_.batch.rotary,
                   .inverse = inverse},
                  qkv);
    });
  }

  void attend(ConstRef normed, const BlockSaved& s) {
    project_qkv(normed, s.qkv);
    do_.attention_forward(attention_of(shape_, context_), s.qkv, keys(s.qkv), values(s.qkv), s.attention_out, s.lse);
  }
  Ref keys(Ref qkv) const { return qkv.at(attended_); }
  Ref values(Ref qkv) const { return qkv.at(attended_ + shape_.slice.kv_heads.count * config_.head_width()); }

  // target = residual + dropout(x W + b), W [in][C]. target may be residual. The whole product ends in the sum
  // where there is no dropout; else it goes to `branch` before.
  void into_residual(int64_t in, ConstRef x, const Weight& w, ConstRef bias, ConstRef residual, uint32_t site,
                     Ref target, Ref branch) {
    Matmul product =
        product_forward(n_, in, config_.width, x, w, shape_.slice.first() ? bias : ConstRef(), target, config_.width);
    if (shape_.is_whole() && !shape_.batch.dropout) {
      product.epilogue = Epilogue::residual;
      product.residual = residual;
      return do_.matmul(product);
    }
    product.c = branch;
    if (shape_.is_whole() || shape_.slice.sequence) {
      do_.matmul(product);
      leave(branch);
    } else {
      leave_by_chunks(product);
    }
    do_.finish_sums();
    do_.apply([&](device::Stream& stream) {
      ops::dropout_forward(stream, m_, config_.width, dropout(site), own(branch), residual, target);
    });
  }
  ops::Dropout dropout(uint32_t site) const {
    ops::Dropout dropout = dropout_at(config_, context_.batch, context_.random, site, shape_.tokens().first);
    if (!shape_.batch.dropout) dropout.probability = 0.0F;
    return dropout;
  }

  // before = normed Wup^T + b, after = f(before). `after` null: only the product.
  void up(ConstRef normed, Ref before, Ref after) {
    Matmul product = product_forward(n_, config_.width, shape_.up_width(), normed, w_.up_weight, w_.up_bias, before,
                                     shape_.up_width());
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
          return ops::activation_forward(stream, ops::Activation::gelu_tanh, n_ * f_, before, after);
        case Mlp::gelu_erf:
          return ops::activation_forward(stream, ops::Activation::gelu_erf, n_ * f_, before, after);
        case Mlp::swiglu:
          return ops::swiglu_forward(stream, n_, f_, before, after);
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
      into_residual(attended_, s.attention_out, w_.out_weight, w_.out_bias, input, attention_site(context_.layer),
                    s.residual, scratch.branch);
    }
    if (one_norm_) return;
    norm2(sequential_ ? ConstRef(s.residual) : input, s.norm2_out, s.mean2, s.rstd2);
    up(s.norm2_out, s.up, {});
  }

  // The gradient that reaches a projection behind dropout: `to`, which is `gradient` itself where nothing is dropped,
  // nothing is left for a weight part, and all tokens are here.
  void behind_dropout(ConstRef gradient, uint32_t site, Ref to) {
    if (to.data == gradient.data) return;
    do_.apply([&](device::Stream& stream) {
      ops::dropout_backward(stream, m_, config_.width, dropout(site), gradient, own(to));
    });
    enter(to);
  }

  // Gradient of the activation's input, from that of the MLP's output.
  void through_activation(ConstRef dmlp, ConstRef before, Ref dup, Ref dactivation) {
    const int64_t f = f_;
    Matmul product = input_gradient(n_, f, config_.width, dmlp, config_.width, w_.down_weight, dup);
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

  // Either part alone runs its share of the same operators in the same order. Where norm outputs and activations are
  // not kept they are made again just before the weight part reads them.
  void run_backward(Parts parts, ConstRef input, const BlockSaved& s, const Gradients& d, const BlockGradients& g) {
    mlp_backward(parts, input, s, d, g);
    attention_backward(parts, input, s, d, g);
  }

  void mlp_backward(Parts parts, ConstRef input, const BlockSaved& s, const Gradients& d, const BlockGradients& g) {
    const int64_t c = config_.width, u = shape_.up_width();
    const ConstRef norm_input = sequential_ ? ConstRef(s.residual) : input;
    if (parts.input) behind_dropout(d.output, mlp_site(context_.layer), d.of.mlp);
    if (parts.weight) {
      if (!keeps_outputs(shape_.recompute)) activate(s.up, s.activation);
      do_.matmul(weight_gradient(n_, f_, c, s.activation, f_, d.of.mlp, g.down_weight, nullptr));
      do_.bias_gradient(m_, c, own(d.of.mlp), g.down_bias);
    }
    if (parts.input) through_activation(d.of.mlp, s.up, d.of.up, d.activation);
    const bool weight_first = !input_first();
    const auto weights = [&] {
      if (!parts.weight) return;
      const bool renew = !keeps_norms(shape_);
      if (renew && one_norm_) norm1(input, s.norm1_out, nullptr, nullptr);
      if (renew && !one_norm_) norm2(norm_input, s.norm2_out, nullptr, nullptr);
      do_.matmul(weight_gradient(n_, u, c, d.of.up, u, one_norm_ ? s.norm1_out : s.norm2_out, g.up_weight, g.up_bias));
    };
    if (weight_first) weights();
    if (parts.input) {
      do_.matmul(input_gradient(n_, c, u, d.of.up, u, w_.up_weight, d.mlp_input));
      // With one norm it is a part of the sum that reaches that.
      if (!one_norm_) leave(d.mlp_input);
    }
    if (!weight_first) weights();
    do_.finish_sums();
    // In parallel the attention still needs the gradient of the block's output as it is.
    if (sequential_) norm2_backward(parts, norm_input, s, d, d.output, g);
  }

  void norm2_backward(Parts parts, ConstRef x, const BlockSaved& s, const Gradients& d, ConstRef past,
                      const BlockGradients& g) {
    do_.norm_backward(config_, m_, x, w_.norm2_weight, s.mean2, s.rstd2, own(d.of.norm2), past,
                      parts.input ? d.input : Ref(), parts.weight ? g.norm2_weight : nullptr,
                      parts.weight ? g.norm2_bias : nullptr);
  }

  void attention_backward(Parts parts, ConstRef input, const BlockSaved& s, const Gradients& d,
                          const BlockGradients& g) {
    const int64_t c = config_.width, qkv = shape_.qkv_width();
    if (parts.input) behind_dropout(d.residual, attention_site(context_.layer), d.of.attention);
    if (parts.weight) {
      do_.matmul(weight_gradient(n_, attended_, c, s.attention_out, attended_, d.of.attention, g.out_weight, nullptr));
      do_.bias_gradient(m_, c, own(d.of.attention), g.out_bias);
    }
    if (parts.input) {
      do_.matmul(input_gradient(n_, attended_, c, d.of.attention, c, w_.out_weight, d.attended));
      do_.attention_backward(attention_of(shape_, context_), s.qkv, keys(s.qkv), values(s.qkv), s.attention_out,
                             d.attended, s.lse, d.of.qkv, keys(d.of.qkv), values(d.of.qkv));
      rotate(d.of.qkv, true);
    }
    const bool weight_first = !input_first();
    const auto weights = [&] {
      if (!parts.weight) return;
      if (!keeps_norms(shape_)) norm1(input, s.norm1_out, nullptr, nullptr);
      for_each_projection(g, [&](const Projection& p) {
        do_.matmul(
            weight_gradient(n_, p.out, c, d.of.qkv.at(p.first), qkv, s.norm1_out, p.weight_gradient, p.bias_gradient));
      });
    };
    if (weight_first) weights();
    if (parts.input) {
      // What the sum starts with: with one norm, its gradient by way of the MLP.
      Ref sum = one_norm_ ? d.mlp_input : Ref();
      for_each_projection(g, [&](const Projection& p) {
        Matmul product = input_gradient(n_, c, p.out, d.of.qkv.at(p.first), qkv, p.weight, d.of.norm1);
        if (sum) {
          product.epilogue = Epilogue::residual;
          product.residual = sum;
        }
        do_.matmul(product);
        sum = d.of.norm1;
      });
      leave(d.of.norm1);
    }
    if (!weight_first) weights();
    do_.finish_sums();
    const bool parallel_norm2 = !sequential_ && !one_norm_;
    if (parallel_norm2) norm2_backward(parts, input, s, d, d.output, g);
    // The gradient that reaches the input past norm1 has come as far as d.input, unless nothing was added to it yet.
    do_.norm_backward(config_, m_, input, w_.norm1_weight, s.mean1, s.rstd1, own(d.of.norm1),
                      one_norm_ ? d.output : ConstRef(d.input), parts.input ? d.input : Ref(),
                      parts.weight ? g.norm1_weight : nullptr, parts.weight ? g.norm1_bias : nullptr);
  }

  Operators& do_;
  const LocalShape shape_;
  const BlockContext context_;
  const TransformerConfig& config_;
  const BlockWeights& w_;
  const int64_t n_, m_, f_, attended_;  // N, M, F, H D
  const bool sequential_, one_norm_;
};

// What a pass asks of them.
Operators counted(const LocalShape& shape, Pass pass) {
  Operators operators(shape.batch.team_size);
  Carver carver(placeholder());
  const Segment segment = declare_block(shape.config, 0);
  const BlockWeights weights = block_weights({{&segment, ConstRef(placeholder(), shape.batch.dtype)}});
  const BlockGradients gradients = block_gradients({{&segment, static_cast<float*>(placeholder())}});
  const BlockSaved saved = carve_block_saved(carver, shape);
  const BlockScratch scratch = carve_block_buffers(carver, shape, pass);
  const Ref any(placeholder(), shape.batch.dtype);
  const Batch batch{.sample_of_row = static_cast<const uint32_t*>(placeholder())};
  const StepRandom random;
  BlockWork work(operators, shape, {0, batch, random}, weights);
  switch (pass) {
    case Pass::forward:
      work.forward(any, saved, any, scratch);
      break;
    case Pass::backward:
      work.backward(any, saved, any, gradients, scratch);
      break;
    case Pass::backward_input:
      work.backward_input(any, saved, any, any, carve_block_weight_inputs(carver, shape), scratch);
      break;
    case Pass::backward_weight:
      work.backward_weight(any, saved, carve_block_weight_inputs(carver, shape), gradients, scratch);
      break;
  }
  return operators;
}

}  // namespace

BlockScratch carve_block_scratch(Carver& carver, const LocalShape& shape, Pass pass) {
  BlockScratch scratch = carve_block_buffers(carver, shape, pass);
  scratch.workspace = carver.workspace("packing and partial sums", counted(shape, pass).workspace_bytes());
  return scratch;
}

SliceTraffic block_traffic(const LocalShape& shape, Pass pass) {
  return counted(shape, pass).traffic();
}

void block_forward(Operators& operators, const LocalShape& shape, const BlockContext& context,
                   const BlockWeights& weights, ConstRef input, const BlockSaved& saved, Ref output,
                   const BlockScratch& scratch) {
  BlockWork(operators, shape, context, weights).forward(input, saved, output, scratch);
}

void block_backward(Operators& operators, const LocalShape& shape, const BlockContext& context,
                    const BlockWeights& weights, const BlockGradients& gradients, ConstRef input,
                    const BlockSaved& saved, Ref gradient, const BlockScratch& scratch) {
  BlockWork(operators, shape, context, weights).backward(input, saved, gradient, gradients, scratch);
}

void block_backward_input(Operators& operators, const LocalShape& shape, const BlockContext& context,
                          const BlockWeights& weights, ConstRef input, const BlockSaved& saved,
                          ConstRef output_gradient, Ref input_gradient, const BlockWeightInputs& left,
                          const BlockScratch& scratch) {
  RL_REQUIRE(keeps_products(shape.recompute), "a block that is computed again has no backward in two parts");
  BlockWork(operators, shape, context, weights)
      .backward_input(input, saved, output_gradient, input_gradient, left, scratch);
}

void block_backward_weight(Operators& operators, const LocalShape& shape, const BlockContext& context,
                           const BlockWeights& weights, const BlockGradients& gradients, ConstRef input,
                           const BlockSaved& saved, const BlockWeightInputs& left, const BlockScratch& scratch) {
  RL_REQUIRE(keeps_products(shape.recompute), "a block that is computed again has no backward in two parts");
  BlockWork(operators, shape, context, weights).backward_weight(input, saved, left, gradients, scratch);
}

CachedScratch carve_cached_scratch(Carver& carver, const LocalShape& shape, int64_t cached) {
  const TransformerConfig& config = shape.config;
  const DType dtype = shape.batch.dtype;
  const int64_t count = shape.batch.sequence;
  const int team_size = shape.batch.team_size;
  CachedScratch scratch{};
  scratch.normed = carver.take("norm output", count * config.width, dtype);
  scratch.mlp_normed = has_second_norm(config.residual) && !mlp_follows_attention(config.residual)
                           ? carver.take("norm output for the MLP", count * config.width, dtype)
                           : scratch.normed;
  scratch.qkv = carver.take("qkv", count * shape.qkv_width(), dtype);
  scratch.attention_out = carver.take("attention output", count * shape.attended(), dtype);
  scratch.up = carver.take("mlp before activation", count * shape.up_width(), dtype);
  scratch.activation = carver.take("mlp after activation", count * shape.slice.ffn.count, dtype);
  if (!shape.is_whole()) scratch.branch = carver.take("residual branch", count * config.width, dtype);
  // Any number of tokens up to `count` may come at once, and a smaller product may need more scratch than a larger one.
  Operators operators(team_size);
  const Segment segment = declare_block(config, 0);
  const Ref any(placeholder(), dtype);
  const BlockWeights weights = block_weights({{&segment, any}});
  const CachedScratch places{any, any, any, any, any, any, any, {}};
  for (int64_t n = 1; n <= count; ++n) {
    const BatchShape tokens{.batch = 1, .sequence = n, .dtype = dtype, .team_size = team_size};
    const Batch batch;
    const StepRandom random;
    // Attention asks for more at the start of a sequence, where a backward is possible, or at its end.
    for (const int64_t start : {int64_t{0}, cached - n})
      BlockWork(operators, {config, tokens, Recompute::none, shape.slice}, {0, batch, random}, weights)
          .cached(start, any, any, any, places);
  }
  scratch.workspace = carver.workspace("packing and partial sums", operators.workspace_bytes());
  return scratch;
}

void block_cached(Operators& operators, const LocalShape& shape, const BlockContext& context, int64_t start,
                  const BlockWeights& weights, Ref cache, ConstRef input, Ref output, const CachedScratch& scratch) {
  RL_REQUIRE(!shape.slice.sequence && !shape.batch.dropout, "generation runs all tokens, without dropout");
  BlockWork(operators, shape, context, weights).cached(start, cache, input, output, scratch);
}

}  // namespace ridgeline::model

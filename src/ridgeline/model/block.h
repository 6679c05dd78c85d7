// Forward and backward of one block, written out. Functions on views: they never learn who calls them, when, or how
// anything is sharded.
//
// Letters: B micro-batch, T sequence, N = B T tokens, M those of the residual stream that lie here (N, or with
// Slice::sequence the slice's), C width, H heads, KV key heads, D head width, F feed-forward width, U = F, or 2 F with
// SwiGLU. A block's input, its output and their gradients are [M][C] in the activation dtype; weights have the same
// dtype; gradients of weights accumulate in f32; statistics are f32.
//
// Pre-norm block (Radford et al. 2019; options and sources in transformer_config.h):
//   r = x + dropout(attention(norm1(x)) Wout + b),   y = r + dropout(f(norm2(z) Wup^T + b) Wdown + b)
// with z = r (sequential) or x (parallel), and norm2 = norm1 where there is one norm.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "ridgeline/model/batch.h"
#include "ridgeline/model/carver.h"
#include "ridgeline/model/declarations.h"
#include "ridgeline/model/slice.h"
#include "ridgeline/ops/index_range.h"

namespace ridgeline::model {

class Operators;

// A block's tensors inside its segment: weights (activation dtype) or gradients (f32). Null: this model has none.
// Either qkv or both q and kv.
struct BlockWeights {
  Weight qkv_weight, q_weight, kv_weight, out_weight, up_weight, down_weight;
  ConstRef norm1_weight, norm1_bias, qkv_bias, q_bias, kv_bias, out_bias, norm2_weight, norm2_bias, up_bias, down_bias;
};
struct BlockGradients {
  float *qkv_weight, *q_weight, *kv_weight, *out_weight, *up_weight, *down_weight;
  float *norm1_weight, *norm1_bias, *qkv_bias, *q_bias, *kv_bias, *out_bias, *norm2_weight, *norm2_bias, *up_bias,
      *down_bias;
};
BlockWeights block_weights(const PlacedSegments<ConstRef>& segments);
BlockGradients block_gradients(const PlacedSegments<float*>& segments);

// What a block keeps between its forward and its backward; the rest is computed again by the backward, with the same
// bits.
enum class Recompute : uint8_t {
  none,       // everything that the backward reads
  selective,  // not what element-wise operators make again: norm outputs and the activation's output (attention never
              // keeps T x T anyway)
  full        // only the block's input: the backward runs the forward again, without the last product
};
std::span<const std::string_view> words_of(Recompute);

// What one rank computes of a model, on a micro-batch. H, KV, F, U and V below are the slice's.
struct LocalShape {
  const TransformerConfig& config;
  const BatchShape& batch;
  Recompute recompute = Recompute::none;
  Slice slice = whole(config);

  Range tokens() const { return slice.tokens(batch.tokens()); }                 // M
  int64_t attended() const { return slice.heads.count * config.head_width(); }  // H D
  int64_t qkv_width() const {
    return (slice.heads.count + 2 * slice.kv_heads.count) * config.head_width();
  }                                                                                                  // (H + 2 KV) D
  int64_t up_width() const { return is_gated(config.mlp) ? 2 * slice.ffn.count : slice.ffn.count; }  // U
  bool is_whole() const { return slice.count == 1; }
  // The same of other tokens.
  LocalShape with(const BatchShape& other) const { return {config, other, recompute, slice}; }
  ops::IndexRange rows() const { return {slice.rows.first, slice.rows.count, config.vocab}; }
};

// Which block it is, of which tokens, in which step.
struct BlockContext {
  int layer = 0;
  const Batch& batch;
  const StepRandom& random;
};

// What a block's forward leaves for its backward. Null: not kept, or this model has none.
struct BlockSaved {
  Ref norm1_out;         // [N][C]; not kept with Slice::sequence
  float *mean1, *rstd1;  // [M]; no mean with RMS norm
  Ref qkv;               // [N][(H + 2 KV) D]: q, k, v; q and k after rotation
  Ref attention_out;     // [N][H][D]
  float* lse;            // [B][H][T]
  Ref residual;          // [M][C], r; sequential only
  Ref norm2_out;         // [N][C]; not kept with Slice::sequence
  float *mean2, *rstd2;  // [M]
  Ref up;                // [N][U], before the activation
  Ref activation;        // [N][F]
};
BlockSaved carve_block_saved(Carver& carver, const LocalShape& shape);

// What the input part of a backward leaves for the weight part: gradients of what products made.
struct BlockWeightInputs {
  Ref mlp;        // [N][C] of the MLP's output
  Ref up;         // [N][U] before the activation
  Ref norm2;      // [N][C] of norm2's output
  Ref attention;  // [N][C] of the attention's output
  Ref qkv;        // [N][(H + 2 KV) D]
  Ref norm1;      // [N][C] of norm1's output
};
BlockWeightInputs carve_block_weight_inputs(Carver& carver, const LocalShape& shape);

// Scratch of one pass over a block; contents undefined before and after.
struct BlockScratch {
  Ref wide;                  // [N][max(U, (H + 2 KV) D)], backward: gradients of up and of qkv
  Ref narrow;                // [N][max(C, H D)], backward and its input part
  Ref mlp_narrow;            // [N][C], backward of a parallel residual; its input part with one norm
  Ref dactivation;           // [N][F], backward of SwiGLU and its input part
  Ref branch;                // [N][C], of a residual branch, or its gradient: with dropout, and of a slice
  BlockSaved again;          // what is not kept between forward and backward
  ops::Workspace workspace;  // for the operators that run the pass
};
enum class Pass : uint8_t { forward, backward, backward_input, backward_weight };
BlockScratch carve_block_scratch(Carver& carver, const LocalShape& shape, Pass pass);
// What a pass shares with the other slices.
SliceTraffic block_traffic(const LocalShape& shape, Pass pass);

// output = block(input). `output` must not alias input. `saved` and `scratch` are carved for the same shape. Of a slice
// all slices run at the same time; each has the whole output, or its tokens of it.
void block_forward(Operators& operators, const LocalShape& shape, const BlockContext& context,
                   const BlockWeights& weights, ConstRef input, const BlockSaved& saved, Ref output,
                   const BlockScratch& scratch);

// On entry `gradient` [M][C] is the gradient of the block's output, on return that of its input. Gradients accumulate.
// The bits of all results are the same for each `recompute`. Of a slice: gradients of its part of the tensors that are
// cut, and the whole gradients of the others, the same in every slice, or its tokens' part of them (Segment::partial).
void block_backward(Operators& operators, const LocalShape& shape, const BlockContext& context,
                    const BlockWeights& weights, const BlockGradients& gradients, ConstRef input,
                    const BlockSaved& saved, Ref gradient, const BlockScratch& scratch);

// The same in two parts, with the same bits; not with Recompute::full, whose weight part would need another forward.
// gradient of the output [M][C] -> of the input, which must not alias it.
void block_backward_input(Operators& operators, const LocalShape& shape, const BlockContext& context,
                          const BlockWeights& weights, ConstRef input, const BlockSaved& saved,
                          ConstRef output_gradient, Ref input_gradient, const BlockWeightInputs& left,
                          const BlockScratch& scratch);
void block_backward_weight(Operators& operators, const LocalShape& shape, const BlockContext& context,
                           const BlockWeights& weights, const BlockGradients& gradients, ConstRef input,
                           const BlockSaved& saved, const BlockWeightInputs& left, const BlockScratch& scratch);

// Generation: one block over the `count` new tokens, shape.batch.sequence, of one sequence that stand at positions
// start … start + count - 1 (batch.positions, where these are rotary), with a cache of keys and values
// [cached][2][KV][D] of this layer and slice that already holds `start` positions and receives the new ones. input,
// output [count][C] must not alias. scratch: carved for at least `count` tokens and a cache of at least start + count
// positions.
struct CachedScratch {
  Ref normed, mlp_normed, qkv, attention_out, up, activation;
  Ref branch;  // of a slice
  ops::Workspace workspace;
};
// shape.batch.sequence: the most tokens at once.
CachedScratch carve_cached_scratch(Carver& carver, const LocalShape& shape, int64_t cached);
void block_cached(Operators& operators, const LocalShape& shape, const BlockContext& context, int64_t start,
                  const BlockWeights& weights, Ref cache, ConstRef input, Ref output, const CachedScratch& scratch);

}  // namespace ridgeline::model

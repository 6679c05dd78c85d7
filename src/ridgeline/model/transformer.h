// Forward and backward of a decoder-only transformer, written out: embedding, block, loss. Functions on views: they
// never learn who calls them, when, or how anything is sharded.
//
// Letters: B micro-batch, T sequence, N = B T tokens, C width, H heads, D head width, F feed-forward width, V
// vocabulary. Activations and their gradients are [N][C] (or as said) in the activation dtype (f32 or bf16); weights
// have the same dtype; gradients of weights accumulate in f32; statistics are f32.
//
// Pre-norm block (Radford et al. 2019):
//   r = x + dropout(attention(norm1(x)) Wout + b),   y = r + dropout(gelu(norm2(r) Wup^T + b) Wdown + b)
#pragma once

#include <cstdint>

#include "ridgeline/device/stream.h"
#include "ridgeline/model/carver.h"
#include "ridgeline/model/declarations.h"
#include "ridgeline/model/transformer_config.h"
#include "ridgeline/ops/elementwise.h"

namespace ridgeline::model {

// The extents of one micro-batch on one rank.
struct BatchShape {
  int64_t batch = 0;          // B
  int64_t sequence = 0;       // T
  DType dtype = DType::f32;   // of activations and weights
  int64_t head_chunk = 1024;  // tokens per chunk of the loss head
  int team_size = 1;
  bool dropout = false;  // config.dropout > 0 and training

  int64_t tokens() const { return batch * sequence; }
};

// One micro-batch: what the tokens are and where they stand.
struct Batch {
  const int32_t* inputs = nullptr;          // [N]
  const int32_t* labels = nullptr;          // [N], ops::kIgnoredLabel where there is none
  const int32_t* positions = nullptr;       // [N] position in the sequence
  const uint32_t* samples = nullptr;        // [N] global sample number
  const uint32_t* sample_of_row = nullptr;  // [B]
};

// Keys of this step's randomness (random_key(seed, step, purpose)).
struct StepRandom {
  uint64_t dropout = 0;
  uint64_t attention_dropout = 0;
};

// A unit's tensors inside its segment: weights (activation dtype) or gradients (f32).
struct BlockWeights {
  ConstRef norm1_weight, norm1_bias, qkv_weight, qkv_bias, out_weight, out_bias, norm2_weight, norm2_bias, up_weight,
      up_bias, down_weight, down_bias;
};
struct BlockGradients {
  float *norm1_weight, *norm1_bias, *qkv_weight, *qkv_bias, *out_weight, *out_bias, *norm2_weight, *norm2_bias,
      *up_weight, *up_bias, *down_weight, *down_bias;
};
BlockWeights block_weights(const Unit& unit, ConstRef segment);
BlockGradients block_gradients(const Unit& unit, float* segment);

// What a block's forward leaves for its backward.
struct BlockSaved {
  Ref norm1_out;         // [N][C]
  float *mean1, *rstd1;  // [N]
  Ref qkv;               // [N][3][H][D]
  Ref attention_out;     // [N][H][D]
  float* lse;            // [B][H][T]
  Ref residual;          // [N][C], r
  Ref norm2_out;         // [N][C]
  float *mean2, *rstd2;  // [N]
  Ref up;                // [N][F], before GELU
  Ref activation;        // [N][F], after GELU
};
BlockSaved carve_block_saved(Carver& carver, const TransformerConfig& config, const BatchShape& shape);

// Scratch of one block's forward or backward; contents undefined before and after.
struct BlockScratch {
  Ref wide;     // [N][max(F, 3C)], backward only: gradients of up and of qkv
  Ref narrow;   // [N][C], backward only
  Ref dropped;  // [N][C], only with dropout
  void* workspace;
};
enum class Pass { forward, backward };
BlockScratch carve_block_scratch(Carver& carver, const TransformerConfig& config, const BatchShape& shape, Pass pass);

// output = block(input). `output` must not alias input.
void block_forward(device::Stream& stream, const TransformerConfig& config, const BatchShape& shape, int layer,
                   const Batch& batch, const StepRandom& random, const BlockWeights& weights, ConstRef input,
                   const BlockSaved& saved, Ref output, const BlockScratch& scratch);

// On entry `gradient` [N][C] is the gradient of the block's output, on return that of its input. Gradients accumulate.
void block_backward(device::Stream& stream, const TransformerConfig& config, const BatchShape& shape, int layer,
                    const Batch& batch, const StepRandom& random, const BlockWeights& weights,
                    const BlockGradients& gradients, ConstRef input, const BlockSaved& saved, Ref gradient,
                    const BlockScratch& scratch);

// output[n] = embedding[inputs[n]] + positions[positions[n]], then dropout. segments: of units 0 and 1.
void embedding_forward(device::Stream& stream, const TransformerConfig& config, const BatchShape& shape,
                       const Batch& batch, const StepRandom& random, ConstRef vocabulary, ConstRef positions,
                       Ref output);

void* carve_embedding_scratch(Carver& carver, const TransformerConfig& config, const BatchShape& shape);
// `gradient` is overwritten (dropout's mask is applied in place).
void embedding_backward(device::Stream& stream, const TransformerConfig& config, const BatchShape& shape,
                        const Batch& batch, const StepRandom& random, Ref gradient, float* dvocabulary,
                        float* dpositions, void* scratch);

struct LossScratch {
  Ref normed;          // [chunk][C]
  float *mean, *rstd;  // [chunk]
  Ref logits;          // [chunk][V], rows `ld` apart
  int64_t ld = 0;
  Ref dnormed;  // [chunk][C]
  void* workspace;
};
LossScratch carve_loss_scratch(Carver& carver, const TransformerConfig& config, const BatchShape& shape,
                               bool with_gradient);

// Final norm, head and cross-entropy, forward and backward per chunk of tokens: logits are never whole and the head is
// never computed twice. losses f32 [N] (0 where the label is ignored). With `gradient` (may be null: evaluation) it
// receives scale * dloss/dx [N][C], the weight gradients accumulate scale * theirs. final_norm, vocabulary: segments of
// their units.
void loss(device::Stream& stream, const TransformerConfig& config, const BatchShape& shape, const Batch& batch,
          ConstRef final_norm, ConstRef vocabulary, ConstRef input, float scale, Ref gradient, float* dfinal_norm,
          float* dvocabulary, float* losses, const LossScratch& scratch);

// logits f32 or bf16 [n][ld] of n tokens whose block output is `input` [n][C]: final norm and head only. For generation
// and tests. scratch: carved with head_chunk >= n.
void head_forward(device::Stream& stream, const TransformerConfig& config, int64_t n, ConstRef final_norm,
                  ConstRef vocabulary, ConstRef input, const LossScratch& scratch);

// Generation: one block over `count` new tokens of one sequence that stand at positions start … start + count - 1, with
// a cache of keys and values [context][2][H][D] of this layer that already holds `start` positions and receives the new
// ones. hidden [count][C] is replaced by the block's output. scratch: carved for a batch of `count` tokens.
struct CachedScratch {
  Ref normed, qkv, attention_out, wide, pre;
  void* workspace;
};
CachedScratch carve_cached_scratch(Carver& carver, const TransformerConfig& config, DType dtype, int64_t count,
                                   int team_size);
void block_cached(device::Stream& stream, const TransformerConfig& config, int64_t start, int64_t count,
                  const BlockWeights& weights, Ref cache, Ref hidden, const CachedScratch& scratch);

}  // namespace ridgeline::model

// Forward and backward of a decoder-only transformer around its blocks (block.h): embedding and loss, written out.
//
// Letters: B micro-batch, T sequence, N = B T tokens, M those of the residual stream that lie here (block.h), C width,
// V vocabulary. Activations and their gradients are [M][C] in the activation dtype; weights have the same dtype;
// gradients of weights accumulate in f32.
#pragma once

#include <cstdint>

#include "ridgeline/model/batch.h"
#include "ridgeline/model/block.h"
#include "ridgeline/model/carver.h"
#include "ridgeline/model/declarations.h"
#include "ridgeline/model/transformer_config.h"
#include "ridgeline/ops/cross_entropy.h"

namespace ridgeline::model {

// What the embedding reads: vocabulary [V][C], positions [T][C] (null with rotary positions); f32 gradients.
struct EmbeddingWeights {
  ConstRef vocabulary, positions;
};
struct EmbeddingGradients {
  float *vocabulary = nullptr, *positions = nullptr;
};
// What the loss reads: weight [V][C] (the vocabulary matrix when tied), norm [C], bias [V]. Null: this model has none.
struct HeadWeights {
  Weight weight;
  ConstRef norm_weight, norm_bias, bias;
};
struct HeadGradients {
  float *weight = nullptr, *norm_weight = nullptr, *norm_bias = nullptr, *bias = nullptr;
};

// From the segments that the embedding, or the loss, reads.
EmbeddingWeights embedding_weights(const PlacedSegments<ConstRef>& segments);
EmbeddingGradients embedding_gradients(const PlacedSegments<float*>& segments);
HeadWeights head_weights(const TransformerConfig& config, const PlacedSegments<ConstRef>& segments);
HeadGradients head_gradients(const TransformerConfig& config, const PlacedSegments<float*>& segments);

struct EmbeddingScratch {
  Ref all;                   // [N][C]: with Slice::sequence
  ops::Workspace workspace;  // for the operators that run it
};
EmbeddingScratch carve_embedding_scratch(Carver& carver, const LocalShape& shape, bool backward);

// output[n] = vocabulary[inputs[n]] (+ positions[embedded_positions[n]]), then dropout. Of a slice all slices run at
// the same time; each has the whole output, or its tokens of it.
void embedding_forward(Operators& operators, const LocalShape& shape, const Batch& batch, const StepRandom& random,
                       const EmbeddingWeights& weights, Ref output, const EmbeddingScratch& scratch);

// What either shares with the other slices.
SliceTraffic embedding_traffic(const LocalShape& shape, bool backward);

// `gradient` is overwritten (dropout's mask is applied in place). Of a slice: the gradient of its rows, and the whole
// gradient of the positions, or its tokens' part of it.
void embedding_backward(Operators& operators, const LocalShape& shape, const Batch& batch, const StepRandom& random,
                        Ref gradient, const EmbeddingGradients& gradients, const EmbeddingScratch& scratch);

struct LossScratch {
  int64_t chunk = 0;   // tokens that are computed at once, of all slices
  Ref normed;          // [chunk][C]
  float *mean, *rstd;  // [chunk]; no mean with RMS norm
  Ref logits;          // [chunk][V], rows `ld` apart
  int64_t ld = 0;
  Ref dnormed;                     // [chunk][C]
  ops::RowStatistics* statistics;  // [slices][chunk]; null without slices
  ops::Workspace workspace;        // for the operators that run it
};
LossScratch carve_loss_scratch(Carver& carver, const LocalShape& shape, bool with_gradient);

// Final norm, head and cross-entropy, forward and backward per chunk of tokens: logits are never whole and the head is
// never computed twice. losses f32 [N] (0 where the label is ignored). With `gradient` (may be null: evaluation, then
// `gradients` are not read) it receives scale * dloss/dx [M][C], the weight gradients accumulate scale * theirs. Of a
// slice: its columns of the logits; the losses are whole in every slice, the gradient of the input too, or its tokens
// of it.
void loss(Operators& operators, const LocalShape& shape, const Batch& batch, const HeadWeights& weights, ConstRef input,
          float scale, Ref gradient, const HeadGradients& gradients, float* losses, const LossScratch& scratch);

// What it shares with the other slices, with gradients or without.
SliceTraffic loss_traffic(const LocalShape& shape, bool with_gradient);

// logits f32 [N][V] of shape.batch's tokens, whose block output is `input` [M][C]: final norm and head only. For
// generation and tests. scratch: carved with head_chunk = N. Of a slice: all of them, in every slice.
void head_forward(Operators& operators, const LocalShape& shape, const HeadWeights& weights, ConstRef input,
                  float* logits, const LossScratch& scratch);

}  // namespace ridgeline::model

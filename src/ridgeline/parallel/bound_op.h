// Operations bound to their buffers: each kind holds what it needs and nothing else.
#pragma once

#include <cstdint>
#include <variant>
#include <vector>

#include "ridgeline/comm/communicator.h"
#include "ridgeline/model/transformer.h"
#include "ridgeline/parallel/dataflow.h"
#include "ridgeline/parallel/rank_memory.h"

namespace ridgeline::parallel {

namespace bound {

struct Count {};
struct Agree {};
struct Gather {
  int segment;
  ConstRef own;  // this rank's part of the weights
  Ref whole;
};
struct Clear {
  Ref gradient;
  int64_t bytes;
};
struct Join {
  int segment;
  Ref gradient;  // the whole segment's
};
struct Pack {
  int64_t count;
  ConstRef gradient;
  Ref packed;
};
struct Reduce {
  int segment;
  Ref gradient;  // the whole segment's; the sum is left in it
};
struct Replicate {
  int segment;
  Ref sum;  // this rank's part
};
struct Accumulate {
  int segment;
  bool first;  // of the step: copied instead of added
  ConstRef sum;
};
struct Tie {
  int segment;
};
struct Measure {
  int segment;
};
struct Update {
  int segment;
};
struct EmbeddingForward {
  model::LocalShape shape;
  model::Batch batch;
  model::EmbeddingWeights weights;
  Ref output;
  model::EmbeddingScratch scratch;
};
struct EmbeddingBackward {
  model::LocalShape shape;
  model::Batch batch;
  Ref gradient;  // overwritten
  model::EmbeddingGradients gradients;
  model::EmbeddingScratch scratch;
};
struct BlockForward {
  model::LocalShape shape;
  model::Batch batch;
  int layer;
  model::BlockWeights weights;
  ConstRef input;
  model::BlockSaved saved;
  Ref output;
  model::BlockScratch scratch;
};
struct BlockCached {
  model::LocalShape shape;
  model::Batch batch;
  int layer;
  model::BlockWeights weights;
  Ref cache;
  ConstRef input;
  Ref output;
  model::CachedScratch scratch;
};
struct Predict {
  model::BatchShape one;  // token
  model::Slice slice;
  model::HeadWeights weights;
  ConstRef input;
  model::LossScratch scratch;
  float* logits;
};
struct BlockBackward {
  model::LocalShape shape;
  model::Batch batch;
  int layer;
  model::BlockWeights weights;
  model::BlockGradients gradients;
  ConstRef input;
  model::BlockSaved saved;
  Ref gradient;  // of the output; the input's when it is done
  model::BlockScratch scratch;
};
struct BlockBackwardInput {
  model::LocalShape shape;
  model::Batch batch;
  int layer;
  model::BlockWeights weights;
  ConstRef input;
  model::BlockSaved saved;
  ConstRef output_gradient;
  Ref input_gradient;
  model::BlockWeightInputs left;
  model::BlockScratch scratch;
};
struct BlockBackwardWeight {
  model::LocalShape shape;
  model::Batch batch;
  int layer;
  model::BlockWeights weights;
  model::BlockGradients gradients;
  ConstRef input;
  model::BlockSaved saved;
  model::BlockWeightInputs left;
  model::BlockScratch scratch;
};
struct Exchange {
  std::vector<comm::Send> sends;
  std::vector<comm::Receive> receives;
  std::vector<comm::Send> forward_sends;  // of outputs alone
  std::vector<comm::Receive> forward_receives;
};
struct Settle {};
struct Loss {
  model::LocalShape shape;
  model::Batch batch;
  bool trains;  // gradients too
  model::HeadWeights weights;
  model::HeadGradients gradients;
  ConstRef input;
  Ref gradient;
  float* losses;
  model::LossScratch scratch;
};

}  // namespace bound

using BoundOp = std::variant<bound::Count, bound::Agree, bound::Gather, bound::Clear, bound::Join, bound::Pack,
                             bound::Reduce, bound::Replicate, bound::Accumulate, bound::Tie, bound::Measure,
                             bound::Update, bound::EmbeddingForward, bound::EmbeddingBackward, bound::BlockForward,
                             bound::BlockCached, bound::BlockBackward, bound::BlockBackwardInput,
                             bound::BlockBackwardWeight, bound::Exchange, bound::Settle, bound::Loss, bound::Predict>;

// All operations of program number `program`, in order.
std::vector<BoundOp> bind(const RunShape& run, const std::vector<model::Segment>& segments,
                          const std::vector<Program>& programs, int program, const RankMemory& memory);

}  // namespace ridgeline::parallel

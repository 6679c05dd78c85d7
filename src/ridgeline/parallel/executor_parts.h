// What the executor's two halves share: memory (executor_memory.cpp) and running (executor.cpp).
#pragma once

#include <utility>
#include <vector>

#include "ridgeline/parallel/executor.h"

namespace ridgeline::parallel {

// Buffers of one operation.
struct Executor::Bound {
  model::Batch batch;
  ConstRef input;
  Ref output, gradient;
  model::EmbeddingWeights embedding_weights;
  model::EmbeddingGradients embedding_gradients;
  model::BlockWeights weights;
  model::BlockGradients gradients;
  model::HeadWeights head_weights;
  model::HeadGradients head_gradients;
  model::Recompute recompute = model::Recompute::none;
  model::BlockSaved saved;
  model::BlockScratch scratch;
  model::LossScratch loss_scratch;
  ops::Workspace embedding_scratch;
  float* losses = nullptr;
  Ref source, target;  // of an operation on a whole unit
};

// Where a unit's state lies. `part` of a buffer is this rank's shard of it.
struct Executor::UnitMemory {
  Extent extent;
  Range part, piece;
  Ref master;            // part; as the moments null where it lies in the file
  Ref whole_weights;     // what products read, where all of it always lies there; else null
  Ref own_weights;       // part of what products read
  Ref whole_gradient;    // accumulated gradient, where all of it lies there; else null
  Ref gradient;          // part of it
  Ref moment1, moment2;  // part
};

struct Executor::Updated {
  Ref master, moment1, moment2;
};

// All i64, so that one exact all-reduce over the world sums it.
struct Executor::Agreement {
  ExactSum squares;    // of gradients: each rank of its pieces, so that every parameter counts once
  ExactSum losses;     // of each data rank's tokens: of the last stage and one of its tensor ranks
  int64_t tokens = 0;  // likewise
  int64_t stop = 0;    // of every rank
};

}  // namespace ridgeline::parallel

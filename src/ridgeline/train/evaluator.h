// Loss on held-out data: every token of the documents predicted once, in windows shared by the ranks.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "ridgeline/data/sampler.h"
#include "ridgeline/data/tokenizer.h"
#include "ridgeline/parallel/executor.h"
#include "ridgeline/train/model_source.h"

namespace ridgeline::train {

struct Evaluation {
  double loss = 0;     // nats per predicted token
  int64_t tokens = 0;  // predicted
  struct Part {
    double loss = 0;  // likewise, of one dataset
    int64_t tokens = 0;
  };
  std::vector<Part> datasets;  // of each of several; where no window is of one, its tokens are 0
  bool stopped = false;        // a rank was asked to stop: what is here is of a part of the windows
  // A window whose loss is not a number; it was the last one. The executor still holds it.
  std::optional<int64_t> not_finite;
};

// Positions 0 … t-1 and the global sample number for row b of a micro-batch.
void place_row(const parallel::BatchBuffers& buffers, int64_t b, int64_t t, uint32_t sample);

// Where the buffers keep documents apart: those of row b, of whose t tokens begins[i] is the place in the row where the
// document begins.
void place_documents(const parallel::BatchBuffers& buffers, int64_t b, std::span<const int32_t> begins,
                     const data::DocumentRules& rules);

// The first `limit` windows by the executor's program number `program`, those of one dataset after those of another,
// as losses are those of a round of windows. Collective. `stop`, asked before each round of
// windows, says whether this rank was asked to stop; when any was, all ranks return after that round.
Evaluation evaluate_windows(parallel::Executor& executor, int program, const data::EvaluationWindows& windows,
                            int64_t limit, int64_t step, const std::function<bool()>& stop = {});

// Error when there is nothing to predict: a document or two of a single token.
void require_predictions(const data::EvaluationWindows& windows);

struct EvaluationSettings {
  int64_t sequence = 0;         // at most; windows are shorter when there are fewer tokens. Of blocks: theirs
  int64_t micro_batch = 0;      // windows at once on a rank; 0: 4, fewer where these are more than 8192 tokens
  parallel::Sharding sharding;  // of all ranks: sharding_of(ModelCut, …)
  int threads = 1;              // of each rank
  DType dtype = DType::f32;
  data::DocumentRules rules;               // of the windows
  bool guard = parallel::kGuardByDefault;  // every buffer is watched: parallel::MemoryGuard
  std::FILE* console = nullptr;
};
// The same for these documents: sequence and micro_batch as evaluate() takes them, no larger than there is text for.
EvaluationSettings fitted_to(EvaluationSettings settings, const std::shared_ptr<const data::IndexedDataset>& dataset,
                             data::DocumentRange documents, int64_t vocab);
// What a rank of evaluate() allocates for fitted settings: exactly, or, where that cannot be counted in 64 bits, about.
double evaluation_bytes(const model::TransformerConfig& model, const EvaluationSettings& settings);
// A stored model on documents of a dataset. Collective.
Evaluation evaluate(comm::World& world, const ModelSource& source,
                    const std::shared_ptr<const data::IndexedDataset>& dataset, data::DocumentRange documents,
                    const EvaluationSettings& settings);
// The same on thread ranks.
Evaluation evaluate(const ModelSource& source, const std::shared_ptr<const data::IndexedDataset>& dataset,
                    data::DocumentRange documents, const EvaluationSettings& settings);

// UTF-8 bytes of text per predicted token: exact over these documents when the tokenizer is known, else the whole data
// set's ratio from its note; 0 when neither is there. Bits per byte = nats per token / ln 2 / this. Of blocks, whose
// first tokens nobody predicts: bytes per token. Error when the data was prepared with another tokenizer.
double text_bytes_per_prediction(const data::IndexedDataset& dataset, data::DocumentRange documents,
                                 const std::optional<data::Tokenizer>& tokenizer);
// Of all parts together; 0 where it is unknown of one.
double text_bytes_per_prediction(const std::vector<data::BlendPart>& parts,
                                 const std::optional<data::Tokenizer>& tokenizer);

}  // namespace ridgeline::train

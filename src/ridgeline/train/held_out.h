// Which documents an evaluation of a stored model is about: those that its run held out, unless told otherwise.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "ridgeline/data/split.h"
#include "ridgeline/train/state.h"

namespace ridgeline::train {

struct DocumentsAsked {
  std::string split, split_rule;  // "": the run's own
  bool whole = false;             // all documents, no split
};

struct DocumentsChosen {
  data::DocumentRange documents;  // to evaluate
  data::DocumentRange train;      // the training part of the same split; empty without one
  int64_t trained = 0;            // of `documents`: those that the run trained on, as far as it is known
  std::string text;  // "documents 61 to 65 of 67: the validation part of the run's split 90,8,2 (cumulative)"
};

// `state` is of the model's checkpoint; none for a model of other tools: 98,2,0 then. The run's data.valid stands for
// the whole of another dataset. Error when there is nothing to evaluate, or when all documents are ones that the run
// trained on and no option asks for them.
DocumentsChosen choose_documents(const data::IndexedDataset& dataset, const std::optional<RunState>& state,
                                 const DocumentsAsked& asked);

}  // namespace ridgeline::train

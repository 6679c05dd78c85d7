// What `prepare` and `tokenizer train` say about the corpus that they read.
#pragma once

#include <string>
#include <vector>

#include "ridgeline/data/corpus.h"

namespace ridgeline::cli {

// Of CorpusInputs.
struct InputRemarks {
  const std::vector<std::string>&passed_over, &repeated;
};

// What was passed over, read twice, dropped, replaced, left out or looks like a mistake, on stdout. Incomplete when
// lines were skipped.
void report_corpus(const data::CorpusOptions& options, const data::CorpusCounts& counts, const InputRemarks& inputs);

}  // namespace ridgeline::cli

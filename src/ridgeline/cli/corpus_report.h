// What `prepare` and `tokenizer train` say about the corpus that they read.
#pragma once

#include "ridgeline/data/corpus.h"

namespace ridgeline::cli {

// What was replaced, left out or looks like a mistake, on stdout. Incomplete when lines were skipped.
void report_corpus(const data::CorpusOptions& options, const data::CorpusCounts& counts);

}  // namespace ridgeline::cli

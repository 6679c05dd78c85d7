// What `prepare` and `tokenizer train` say about the corpus that they read.
#pragma once

#include <string>
#include <vector>

#include "ridgeline/data/corpus.h"

namespace ridgeline::cli {

// What was passed over, dropped, replaced, left out or looks like a mistake, on stdout. Incomplete when lines were
// skipped. `passed_over`: of CorpusInputs.
void report_corpus(const data::CorpusOptions& options, const data::CorpusCounts& counts,
                   const std::vector<std::string>& passed_over);

}  // namespace ridgeline::cli

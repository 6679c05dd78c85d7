// Inputs of `prepare` that are token ids already: Megatron's .bin/.idx pairs, also those whose index omits the
// end-of-document tokens (indexed_dataset.h), and llm.c's files. They become one dataset, with their tokens as they
// are.
#pragma once

#include <filesystem>
#include <functional>
#include <span>

#include "ridgeline/data/prepare.h"

namespace ridgeline::data {

// Whether all of `inputs` are such. Error when only some are.
bool are_token_inputs(std::span<const std::filesystem::path> inputs);

// The dataset of all inputs, in order. Documents of a pair are its sequences. Those of a file of llm.c begin with its
// separator; what stands before the first one goes on with the last document of the file of llm.c before it, or is a
// document. The note names an end of document when every document ends with the tokenizer's. Error also: ids that are
// not the tokenizer's; a pair with the note of another tokenizer; a repaired pair whose documents do not end with the
// tokenizer's end; settings that are of text; several processes.
PrepareResult prepare_from_tokens(const Tokenizer& tokenizer, const PrepareSettings& settings,
                                  const std::function<void(const PrepareProgress&)>& progress = {});

}  // namespace ridgeline::data

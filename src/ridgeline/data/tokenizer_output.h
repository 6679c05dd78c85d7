// Where a tokenizer may be written.
#pragma once

#include <filesystem>
#include <span>

namespace ridgeline::data {

// Error unless a tokenizer can be written into `folder` without loss: there is no file of one (TokenizerFiles::is_one)
// yet, or the tokenizer.json beside them is what `tokenizer train` writes; and none is one of `inputs`.
void require_replaceable_tokenizer(const std::filesystem::path& folder, std::span<const std::filesystem::path> inputs);

}  // namespace ridgeline::data

// tokenizer.json, vocab.json, merges.txt and their companions: between files and BpeModel. Internal to the room.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "ridgeline/data/bpe_model.h"

namespace ridgeline::data {

// As Tokenizer::load.
BpeModel load_bpe_model(const std::filesystem::path& folder);

// The model in the text of a tokenizer.json, finished; `name` is for messages. No side files are read.
BpeModel parse_tokenizer_json(std::string_view text, std::string_view name);

// The text of its tokenizer.json: as it was read, if it was.
std::string tokenizer_json(const BpeModel& model);

// As Tokenizer::save.
void save_bpe_model(const BpeModel& model, const std::filesystem::path& folder, int64_t model_max_length);

}  // namespace ridgeline::data

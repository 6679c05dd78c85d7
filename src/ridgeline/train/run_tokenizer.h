// The tokenizer of a run: found, checked against the data, and carried. With it goes the one decision which id ends a
// document: `prepare` wrote it into the dataset's note, training checks it, and what is exported stops at it.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "ridgeline/data/indexed_dataset.h"
#include "ridgeline/data/tokenizer.h"
#include "ridgeline/train/config.h"
#include "ridgeline/train/sample_order.h"

namespace ridgeline::train {

struct RunTokenizer {
  data::TokenizerFiles files;                // kept in checkpoints; empty when there is no tokenizer
  std::optional<data::Tokenizer> tokenizer;  // nullopt also for one that Ridgeline cannot read
  std::optional<int32_t> end_of_document;    // of the training data
  std::string message;                       // where it was found, or why not, if no key names it; else ""
};

// The tokenizer that a dataset was prepared with, where its note names it (relative to the current folder), if it still
// is that one: hash and end of document are compared.
struct NotedTokenizer {
  std::string path;  // as noted
  data::TokenizerFiles files;
  std::optional<data::Tokenizer> tokenizer;  // nullopt: not there, or another one by now
  std::string message;                       // "" where there is no note, or nothing in that place
};
NotedTokenizer noted_tokenizer(const data::IndexedDataset& dataset);

// data.tokenizer, else what lies in train.init_from's folder (whose generation_config.json comes along either way),
// else the first dataset's noted_tokenizer() whose ids the model holds. Error: the data was prepared with another
// tokenizer, or with another end of document, or its datasets with different ones; the vocabulary does not hold the
// tokenizer's ids; nothing in data.tokenizer.
RunTokenizer open_tokenizer(const Config& config, const RunDocuments& documents);

// Error when a model that learned to end documents with `trained` (nullopt: not known) meets a tokenizer that ends them
// otherwise.
void require_same_end(std::optional<int32_t> trained, const data::Tokenizer& tokenizer);

// The ids in an exported folder.
struct ExportedIds {
  std::optional<int32_t> bos, pad;
  std::vector<int32_t> eos;  // the end of documents first
};
// From the tokenizer where it is readable, else from its generation_config.json, else from `model_config` (the
// config.json of a Hugging Face folder; may be null); and from what the run was trained with.
ExportedIds exported_ids(const data::TokenizerFiles& files, const std::optional<data::Tokenizer>& tokenizer,
                         std::optional<int32_t> trained_end, const nlohmann::json& model_config, int64_t vocabulary);
// config.json's *_token_id: each id, or null, so that no default of a model's class takes their place.
void set_ids(nlohmann::json& config, const ExportedIds& ids);
// generation_config.json: `files`' own with these ids, or a new one.
nlohmann::json generation_config(const data::TokenizerFiles& files, const ExportedIds& ids);

}  // namespace ridgeline::train

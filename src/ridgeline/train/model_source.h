// Where a trained model comes from: a checkpoint of ours, the folder of a run (its newest checkpoint), or a Hugging
// Face folder. What `eval`, `generate`, `export` and `inspect` open.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "ridgeline/checkpoint/hugging_face.h"
#include "ridgeline/checkpoint/manifest.h"
#include "ridgeline/data/tokenizer.h"
#include "ridgeline/model/transformer_config.h"

namespace ridgeline::train {

class ModelSource {
 public:
  // Whether `path` is one of the three, by the files that it holds.
  static bool is_model(const std::filesystem::path& path);
  // Error when `path` is none of the three; a damaged checkpoint is refused (sizes; checksums when `verify`).
  static ModelSource open(const std::filesystem::path& path, bool verify = true);

  const std::filesystem::path& folder() const { return folder_; }
  const model::TransformerConfig& config() const { return config_; }
  bool is_checkpoint() const { return reader_ != nullptr; }
  // Of a checkpoint; 0 for a Hugging Face folder.
  int64_t step() const { return reader_ ? reader_->step() : 0; }
  // Of a Hugging Face folder: what opening it had to say, and its dropout rates by name. Empty for a checkpoint.
  const std::vector<std::string>& notes() const { return notes_; }
  const model::DropoutRates& dropout_rates() const { return dropout_; }
  const checkpoint::CheckpointReader* reader() const { return reader_.get(); }

  // The tokenizer kept with the model, empty when there is none; `given` (a folder) takes precedence when not empty.
  data::TokenizerFiles tokenizer_files(const std::filesystem::path& given = {}) const;
  // The same, read; nullopt when there is none. Error as Tokenizer::from_files, and when it ends documents with another
  // id than the model learned.
  std::optional<data::Tokenizer> tokenizer(const std::filesystem::path& given = {}) const;
  // The id that ended each document of the training data, of a checkpoint that knows.
  std::optional<int32_t> end_of_document() const;

  // The same for whoever can do without: a tokenizer beside the model that cannot be read is none, and a note. One that
  // was read and ends documents otherwise is an Error here, too.
  std::optional<data::Tokenizer> tokenizer_if_readable(const std::filesystem::path& given,
                                                       std::vector<std::string>& notes) const;

  // Elements of a global tensor. Thread-safe.
  void read(std::string_view name, const std::vector<int64_t>& shape, int64_t first, int64_t count,
            Ref destination) const;

 private:
  std::filesystem::path folder_;
  model::TransformerConfig config_;
  std::vector<std::string> notes_;
  model::DropoutRates dropout_;
  std::shared_ptr<const checkpoint::CheckpointReader> reader_;
  std::shared_ptr<const checkpoint::HuggingFaceModel> hugging_face_;
};

}  // namespace ridgeline::train

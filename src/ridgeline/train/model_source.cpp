#include "ridgeline/train/model_source.h"

#include <fmt/format.h>

#include "ridgeline/base/error.h"
#include "ridgeline/checkpoint/lineage.h"
#include "ridgeline/train/hugging_face_folder.h"
#include "ridgeline/train/run_tokenizer.h"
#include "ridgeline/train/state.h"

namespace ridgeline::train {

namespace fs = std::filesystem;

bool ModelSource::is_model(const fs::path& path) {
  return fs::is_directory(path) && (checkpoint::checkpoint_of(path) || fs::exists(path / "config.json"));
}

ModelSource ModelSource::open(const fs::path& path, bool verify) {
  ModelSource source;
  if (!fs::exists(path))
    throw Error(fmt::format("'{}' does not exist", path.string()),
                "Name a checkpoint, a run's folder or a Hugging Face folder; a relative path is taken from the current "
                "folder.");
  const std::optional<fs::path> folder = fs::is_directory(path) ? checkpoint::checkpoint_of(path) : std::nullopt;
  if (folder) {
    source.folder_ = *folder;
    checkpoint::verify(*folder, verify ? checkpoint::Check::checksums : checkpoint::Check::sizes);
    source.reader_ = std::make_shared<checkpoint::CheckpointReader>(*folder);
    source.config_ = model_config_of(source.reader_->extra(), folder->string());
    return source;
  }
  if (!fs::exists(path / "config.json")) {
    if (fs::exists(path / "config.toml")) {
      throw Error(fmt::format("the run in '{}' has no checkpoint yet", path.string()),
                  "It saves every train.save_every steps, at its end, and when Ctrl-C or SIGTERM stops it.");
    }
    throw Error(
        fmt::format("'{}' is neither a checkpoint (manifest.json), nor a run (checkpoints/), nor a Hugging Face folder "
                    "(config.json)",
                    path.string()),
        "`ridgeline inspect` says what a file or folder is; `ridgeline fetch model` gets models of a hub.");
  }
  HuggingFaceFolder opened = open_hugging_face(path);
  source.folder_ = path;
  source.config_ = opened.config;
  source.notes_ = std::move(opened.notes);
  source.dropout_ = std::move(opened.dropout);
  source.hugging_face_ = std::move(opened.weights);
  return source;
}

data::TokenizerFiles ModelSource::tokenizer_files(const fs::path& given) const {
  if (!given.empty()) return data::TokenizerFiles::read(given);
  return reader_ ? tokenizer_of(*reader_, folder_) : data::TokenizerFiles::read(folder_);
}

std::optional<data::Tokenizer> ModelSource::tokenizer(const fs::path& given) const {
  const data::TokenizerFiles files = tokenizer_files(given);
  if (files.empty() && given.empty()) return std::nullopt;
  data::Tokenizer tokenizer = data::Tokenizer::from_files(files, given.empty() ? folder_ : given);
  require_same_end(end_of_document(), tokenizer);
  return tokenizer;
}

std::optional<int32_t> ModelSource::end_of_document() const {
  if (!reader_) return std::nullopt;
  return run_state_from_json(reader_->extra(), folder_.string()).end_of_document;
}

std::optional<data::Tokenizer> ModelSource::tokenizer_if_readable(const fs::path& given,
                                                                  std::vector<std::string>& notes) const {
  if (!given.empty()) return tokenizer(given);
  std::optional<data::Tokenizer> tokenizer;
  try {
    const data::TokenizerFiles files = tokenizer_files();
    if (files.empty()) return std::nullopt;
    tokenizer = data::Tokenizer::from_files(files, folder_);
  } catch (const Error& error) {
    notes.push_back("the tokenizer beside the model cannot be read: " + error.message());
    return std::nullopt;
  }
  require_same_end(end_of_document(), *tokenizer);
  return tokenizer;
}

void ModelSource::read(std::string_view name, const std::vector<int64_t>& shape, int64_t first, int64_t count,
                       Ref destination) const {
  if (reader_) {
    reader_->read_range(name, shape, first, count, destination);
  } else {
    hugging_face_->read_range(name, first, count, destination);
  }
}

}  // namespace ridgeline::train

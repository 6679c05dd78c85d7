#include "ridgeline/data/tokenizer_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"

namespace ridgeline::data {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kVocabularies[] = {
    "tokenizer.json", "vocab.json",  "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
    "vocab.txt",      "tekken.json", "vocab.bpe",       "encoder.json"};
constexpr std::string_view kCompanions[] = {
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",     "merges.txt",
    "chat_template.jinja",   "chat_template.json",      "generation_config.json"};

bool is_vocabulary(std::string_view name) {
  return std::find(std::begin(kVocabularies), std::end(kVocabularies), name) != std::end(kVocabularies) ||
         name.ends_with(".tiktoken");
}

}  // namespace

bool TokenizerFiles::is_one(std::string_view name) {
  if (name.find('/') != std::string_view::npos) return false;
  return is_vocabulary(name) ||
         std::find(std::begin(kCompanions), std::end(kCompanions), name) != std::end(kCompanions);
}

TokenizerFiles TokenizerFiles::read(const fs::path& path) {
  TokenizerFiles result;
  const bool is_file = fs::is_regular_file(path), is_model = is_file && path.extension() == ".model";
  fs::path folder = is_file ? path.parent_path() : path;
  if (folder.empty()) folder = ".";
  if (!fs::is_directory(folder)) return result;
  uint64_t bytes = 0;
  const auto take = [&](const std::string& name, const fs::path& file) {
    bytes += fs::file_size(file);
    if (bytes > static_cast<uint64_t>(kMostBytes)) {
      throw Error(fmt::format("the tokenizer's files in '{}' have more than {} MiB", folder.string(), kMostBytes >> 20),
                  "Name a folder that holds a tokenizer.");
    }
    result.files_[name] = read_text(file);
  };
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (!is_one(name) || !entry.is_regular_file()) continue;
    if (is_file && (is_model ? is_vocabulary(name) || name == "merges.txt" : name == "tokenizer.json")) continue;
    take(name, entry.path());
  }
  if (is_file) take(is_model ? "tokenizer.model" : "tokenizer.json", path);
  return result;
}

std::string TokenizerFiles::vocabulary_file() const {
  for (const std::string_view name : kVocabularies) {
    if (files_.contains(name)) return std::string(name);
  }
  const auto other =
      std::find_if(files_.begin(), files_.end(), [](const auto& file) { return is_vocabulary(file.first); });
  return other == files_.end() ? "" : other->first;
}

const std::string* TokenizerFiles::find(std::string_view name) const {
  const auto found = files_.find(name);
  return found == files_.end() ? nullptr : &found->second;
}

void TokenizerFiles::set(const std::string& name, std::string bytes) {
  RL_REQUIRE(is_one(name), "'{}' is no file of a tokenizer", name);
  files_[name] = std::move(bytes);
}

void TokenizerFiles::require_room(const fs::path& folder) const {
  if (!fs::is_directory(folder)) return;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (!is_one(name) || files_.contains(name)) continue;
    throw Error(fmt::format("'{}' belongs to another tokenizer than the one to be written", entry.path().string()),
                "Write to an empty folder, or move this file away.");
  }
}

void TokenizerFiles::write(const fs::path& folder) const {
  require_room(folder);
  make_folder(folder);
  constexpr const char* kLast = "tokenizer.json";
  for (const auto& [name, bytes] : files_) {
    if (name != kLast) write_atomically(folder / name, bytes);
  }
  if (const std::string* bytes = find(kLast)) write_atomically(folder / kLast, *bytes);
}

}  // namespace ridgeline::data

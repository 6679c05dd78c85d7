// The files of a tokenizer's folder, byte for byte: what a run carries into its checkpoints and its exports, so that a
// model never parts from its special tokens, chat template and generation settings. Nothing is parsed here: a tokenizer
// that Ridgeline cannot read travels like any other.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>

namespace ridgeline::data {

class TokenizerFiles {
 public:
  // What would not be a tokenizer any more: more bytes in all are refused.
  static constexpr int64_t kMostBytes = int64_t{128} << 20;

  // Whether a file of this name belongs to a tokenizer: tokenizer.json, vocab.json, merges.txt, added_tokens.json,
  // tokenizer_config.json, special_tokens_map.json, chat templates, generation_config.json, SentencePiece and tiktoken
  // vocabularies.
  static bool is_one(std::string_view name);

  TokenizerFiles() = default;
  // The files of `folder` of such names. A path to a tokenizer.json (under any name) stands for its folder, with this
  // file as its tokenizer.json; one to a *.model, with this file as its tokenizer.model and no other vocabulary. Empty
  // when there is none. Error: more than kMostBytes; unreadable files.
  static TokenizerFiles read(const std::filesystem::path& path);

  // The name of a file that holds a vocabulary (tokenizer.json where there is one); "" when there is none.
  std::string vocabulary_file() const;
  // True without a vocabulary: generation_config.json alone is no tokenizer.
  bool empty() const { return vocabulary_file().empty(); }
  // The bytes of a file; nullptr when there is none of this name.
  const std::string* find(std::string_view name) const;
  // RL_REQUIRE(is_one(name)).
  void set(const std::string& name, std::string bytes);
  const std::map<std::string, std::string, std::less<>>& all() const { return files_; }

  // Error when `folder` holds a file of such a name that is not one of these: it would become a part of this tokenizer.
  void require_room(const std::filesystem::path& folder) const;
  // require_room(), then writes each file atomically, tokenizer.json last: its presence says that the folder is whole.
  void write(const std::filesystem::path& folder) const;

 private:
  std::map<std::string, std::string, std::less<>> files_;
};

}  // namespace ridgeline::data

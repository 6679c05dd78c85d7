// Byte-level BPE: text to token ids and back, with the files of GPT-2, GPT-J, GPT-NeoX and Llama-3.
//
// Text is cut into pre-tokens by a fixed rule (see pretokenize.h), each pre-token starts as its bytes, and the adjacent
// pair with the lowest merge rank is merged (ties: leftmost) until no pair merges. Ids are equal to those of OpenAI's
// tiktoken and Hugging Face's tokenizers on every string. Source: Radford et al., "Language models are unsupervised
// multitask learners", 2019; formats as written by Hugging Face tokenizers.
//
// A Tokenizer is immutable after loading: share it between threads. Bytes that are not UTF-8 are accepted everywhere
// and come back unchanged: decode(encode(x)) == x for every byte string x.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ridgeline::data {

struct BpeModel;

// Whether the names of added tokens ("<|endoftext|>") inside a text are text like any other, or become their ids.
enum class Specials { as_text, recognise };

// A vocabulary and its merges, from which a Tokenizer can be made without files (the trainer's result).
struct TokenizerParts {
  std::vector<std::string> tokens;  // raw bytes of token id 0, 1, ...; must include all 256 single bytes
  std::vector<std::pair<int32_t, int32_t>> merges;  // in order of rank; the joined bytes must be a token
  std::string end_of_document = "<|endoftext|>";    // appended as an added token with the next free id
};

class Tokenizer {
 public:
  // Reads `folder`/tokenizer.json, or `folder`/vocab.json and merges.txt (and added_tokens.json when there is one).
  // `folder` may also name a tokenizer.json file. The end-of-document token is tokenizer_config.json's or
  // special_tokens_map.json's eos_token, else "<|endoftext|>", "<|end_of_text|>" or "</s>", whichever exists.
  // Error: nothing to read there, malformed files (with the entry at fault), or a feature of tokenizer.json that this
  // class does not implement (normalizers, other models or patterns), by name.
  static Tokenizer load(const std::filesystem::path& folder);
  static Tokenizer from_parts(const TokenizerParts& parts);
  // From the text of a tokenizer.json (a checkpoint keeps it); `name` is for messages. Errors as above. Without side
  // files the end-of-document token is the first of the usual names.
  static Tokenizer from_json(std::string_view text, std::string_view name);
  // The text of this tokenizer's tokenizer.json: from_json(to_json()) has the same hash.
  std::string to_json() const;

  // Writes tokenizer.json, vocab.json, merges.txt, tokenizer_config.json and special_tokens_map.json, so that
  // transformers.AutoTokenizer.from_pretrained(folder) works. What was loaded from a tokenizer.json is written back
  // byte for byte. `model_max_length`: the model's context, 0 = leave out.
  void save(const std::filesystem::path& folder, int64_t model_max_length = 0) const;

  // Highest id + 1, added tokens included. A model's embedding has at least this many rows.
  int32_t vocab_size() const;
  // The id that ends a document, if the files name one.
  std::optional<int32_t> end_of_document() const;
  // 16 hex digits that depend on ids, bytes, merges, added tokens and pre-tokenizer, and not on the form of the files.
  const std::string& hash() const;

  // Convenience for short texts; for many, keep an Encoder per thread.
  std::vector<int32_t> encode(std::string_view text, Specials specials = Specials::as_text) const;
  // The bytes of the ids, joined. Added tokens give their names. Error: an id outside [0, vocab_size()).
  std::string decode(std::span<const int32_t> ids) const;
  // The bytes of one id; empty for an id that no file names. Error as above.
  std::string_view token_bytes(int32_t id) const;
  // True for added tokens (end of document, ...): no part of any text.
  bool is_added(int32_t id) const;

 private:
  friend class Encoder;
  explicit Tokenizer(std::shared_ptr<const BpeModel> model);
  std::shared_ptr<const BpeModel> model_;
};

// Encodes many texts on one thread, remembering the ids of words seen before (bounded memory).
class Encoder {
 public:
  explicit Encoder(const Tokenizer& tokenizer);
  ~Encoder();
  Encoder(Encoder&&) noexcept;
  Encoder& operator=(Encoder&&) noexcept;

  // Appends the ids of `text` to `ids`.
  void encode(std::string_view text, std::vector<int32_t>& ids, Specials specials = Specials::as_text);

 private:
  struct Cache;
  std::shared_ptr<const BpeModel> model_;
  std::unique_ptr<Cache> cache_;
};

// Decodes generated ids one by one; what it returns is always whole UTF-8 characters, so that it can be printed at
// once. Bytes that can no longer become a character (a model may produce any) come out as U+FFFD.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  // The characters completed by `id`; often one word, sometimes "". Error: an id outside the vocabulary.
  std::string push(int32_t id);
  // What was still waiting, as U+FFFD; "" when nothing was.
  std::string finish();

 private:
  Tokenizer tokenizer_;
  std::string pending_;
};

}  // namespace ridgeline::data

// BPE: text to token ids and back. Byte-level, with the files of GPT-2, GPT-J, GPT-NeoX (Pythia, OLMo), Llama-3, Qwen2,
// StarCoder and others, and SentencePiece's, with a tokenizer.json or tokenizer.model of Llama-2, Mistral and others
// (docs/tokenizers.md).
//
// Text is brought into the normal form that the files ask for (none, NFC, replacements, SentencePiece's); added tokens
// are cut out of it; the rest is cut into pre-tokens (see pretokenize.h and normalizer.h; SentencePiece's BPE cuts
// nothing), each pre-token starts as its bytes, or its characters, and the adjacent pair with the lowest merge rank is
// merged (ties: leftmost) until no pair merges. Ids are equal to those of OpenAI's tiktoken, Hugging Face's tokenizers
// and SentencePiece on every string. Source: Radford et al., "Language models are unsupervised multitask learners",
// 2019; Kudo and Richardson, "SentencePiece", 2018; formats as these libraries write them.
//
// A Tokenizer is immutable after loading: share it between threads. Bytes that are not UTF-8 are accepted everywhere.
// decode(encode(x)) == x for every byte string x, except where the files ask for something else: a normal form changes
// text that is not in it, a prefix space is added, stripping tokens take white space, characters that a vocabulary
// lacks become its unknown token where it has none for bytes, U+2581 becomes a space where it stands for one, and a
// vocabulary without the 13 bytes that UTF-8 never uses (GPT-NeoX's) gets U+FFFD for each invalid sequence of a text
// that holds one of them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ridgeline/base/error.h"
#include "ridgeline/data/tokenizer_files.h"

namespace ridgeline::data {

struct BpeModel;

// Whether the names of special tokens ("<|endoftext|>") inside a text are text like any other, or become their ids.
// Added tokens that are not special (CodeGen's runs of spaces) always become their ids.
enum class Specials { as_text, recognise };

// The ids with a meaning, as the files of a tokenizer's folder name them.
struct SpecialTokens {
  std::optional<int32_t> end_of_document;  // eos_token, else "<|endoftext|>", "<|end_of_text|>" or "</s>"
  std::optional<int32_t> bos, pad;         // bos_token, pad_token
  std::vector<int32_t> before_text;        // what the tokenizer puts before a prompt: Llama 3's BOS
  std::vector<int32_t> stop;  // any of these ends what is generated: end_of_document and generation_config.json's eos
};

// A tokenizer of a kind that Tokenizer does not implement. Its files are still worth carrying (TokenizerFiles).
class UnsupportedTokenizer : public Error {
 public:
  using Error::Error;
};

// A vocabulary and its merges, from which a Tokenizer can be made without files (the trainer's result).
struct TokenizerParts {
  std::vector<std::string> tokens;  // raw bytes of token id 0, 1, ...; must include all 256 single bytes
  std::vector<std::pair<int32_t, int32_t>> merges;  // in order of rank; the joined bytes must be a token
  std::string end_of_document = "<|endoftext|>";    // appended as an added token with the next free id
};

class Tokenizer {
 public:
  // Reads the folder's tokenizer.json, or else vocab.json and merges.txt (and added_tokens.json when there is one), or
  // else tokenizer.model (SentencePiece, type BPE), and what tokenizer_config.json, special_tokens_map.json and
  // generation_config.json say of it. `folder` may also name a tokenizer.json or a .model file.
  // Error: nothing to read there; malformed files, with the entry at fault; an eos_token or bos_token that the
  // tokenizer does not have. UnsupportedTokenizer: a feature that this class does not implement, by name.
  static Tokenizer load(const std::filesystem::path& folder);
  // The same from files in memory (a checkpoint's); `where` they are, for messages.
  static Tokenizer from_files(const TokenizerFiles& files, const std::filesystem::path& where);
  static Tokenizer from_parts(const TokenizerParts& parts);
  // From the text of a tokenizer.json alone; `where` it is, for messages. Errors as above.
  static Tokenizer from_json(std::string_view text, std::string_view where);
  // The text of this tokenizer's tokenizer.json: from_json(to_json()) has the same hash. Error for a tokenizer that was
  // read from a tokenizer.model: the form of a tokenizer.json has no ranks that several merges share.
  std::string to_json() const;

  // The files with which transformers.AutoTokenizer gives the same ids: those that were read, byte for byte, and
  // whatever of tokenizer.json and tokenizer_config.json was not there (of a trained tokenizer also vocab.json,
  // merges.txt and special_tokens_map.json; beside a tokenizer.model nothing is made). `model_max_length`: the model's
  // context, for a tokenizer_config.json that is made; 0 = leave out.
  TokenizerFiles files(int64_t model_max_length = 0) const;
  // files().write(folder).
  void save(const std::filesystem::path& folder, int64_t model_max_length = 0) const;

  // Highest id + 1, added tokens included. A model's embedding has at least this many rows.
  int32_t vocab_size() const;
  const SpecialTokens& special() const;
  // The id that ends a document, if the files name one.
  std::optional<int32_t> end_of_document() const { return special().end_of_document; }
  // 16 hex digits that depend on ids, bytes, merges, added tokens, normalizer and pre-tokenizer, and not on the form of
  // the files, nor on special().
  const std::string& hash() const;

  // Convenience for one text; for many, keep an Encoder per thread.
  std::vector<int32_t> encode(std::string_view text, Specials specials = Specials::as_text) const;
  // The first place from `from` on at which `text`, valid UTF-8, may be cut in two: the ids of the parts, one after
  // another, are those of the whole. text.size() when there is none (always, for files that look for added tokens in a
  // normal form, or that put a space before a text).
  size_t next_cut(std::string_view text, size_t from, Specials specials = Specials::as_text) const;
  // A text to be continued: special().before_text (unless it begins so itself), then its ids with special tokens
  // recognised.
  std::vector<int32_t> encode_prompt(std::string_view text) const;
  // The bytes of the ids, joined; without the space that SentencePiece's tokenizers put before every text. Added tokens
  // give their names. Error: an id outside [0, vocab_size()).
  std::string decode(std::span<const int32_t> ids) const;
  // The bytes of one id; empty for an id that no file names. Error as above.
  std::string_view token_bytes(int32_t id) const;
  // True for special tokens (end of document, ...): no part of any text. Error as above.
  bool is_special(int32_t id) const;
  // Of every id the UTF-8 bytes of text that it stands for: none for special tokens.
  std::vector<int64_t> text_bytes_of_ids() const;

 private:
  template <typename Id>
  friend class EncoderOf;
  explicit Tokenizer(std::shared_ptr<const BpeModel> model);
  std::shared_ptr<const BpeModel> model_;
};

// Encodes many texts on one thread, remembering the ids of words seen before: in 2 MiB, which grow with the words of
// the texts up to 104 MiB (and 4 MiB more while they grow); then it starts anew. Beside that, and the ids, it needs
// memory only for a word of more than 256 bytes: some 100 bytes for each of its bytes.
//
// Id: int32_t, or uint16_t (as datasets keep them: with_token_id()), which moves half the bytes. Aborts when the
// vocabulary has ids that an Id cannot hold.
template <typename Id>
class EncoderOf {
 public:
  // none: every word is merged anew, and no memory taken. For few short texts.
  enum class Memory { pieces, none };

  explicit EncoderOf(const Tokenizer& tokenizer, Memory memory = Memory::pieces);
  ~EncoderOf();
  EncoderOf(EncoderOf&&) noexcept;
  EncoderOf& operator=(EncoderOf&&) noexcept;

  // Appends the ids of `text` to `ids`. A caller with one long text may reserve: there are never more ids than bytes
  // (after normalization, and one for a prefix space). Of 4 MiB and more that are reserved, what was not touched yet is
  // asked to be in huge pages. Error: a word of more than 4 GiB; `ids` may then have those of the text before it.
  void encode(std::string_view text, std::vector<Id>& ids, Specials specials = Specials::as_text);

 private:
  struct State;
  // Text between added tokens, normalized, with the cuts from `cut` on before it. `begins`: the whole text does so.
  void encode_stretch(std::string_view text, bool begins, size_t cut, std::vector<Id>& ids);
  void encode_words(std::string_view text, std::vector<Id>& ids);

  std::shared_ptr<const BpeModel> model_;
  std::unique_ptr<State> state_;
};
using Encoder = EncoderOf<int32_t>;

// Decodes generated ids one by one, as what goes on a text: a space at its begin stays. What it returns is always whole
// UTF-8 characters, so that it can be printed at once. Bytes that can no longer become a character (a model may produce
// any) come out as U+FFFD.
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

// Token datasets on disk: Megatron's memory-mapped format, PREFIX.bin (tokens, little-endian, back to back) and
// PREFIX.idx (lengths, offsets, documents), plus PREFIX.json, Ridgeline's small note of where the tokens came from.
//
// .idx, little-endian, unaligned: "MMIDIDX\0\0", u64 version 1, u8 dtype code, u64 S sequences, u64 D = documents + 1,
// i32 length[S] in tokens, i64 offset[S] in bytes of .bin, i64 document[D] (first sequence of each document, then S).
// Here, as in Megatron's GPT data, every sequence is one document. Source: Megatron-LM,
// core/datasets/indexed_dataset.py.
//
// Files of llm.c (token_file.h), which have tokens alone, are such datasets without an index or a note.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ridgeline/base/file.h"
#include "ridgeline/base/file_identity.h"
#include "ridgeline/base/lock_file.h"
#include "ridgeline/data/block_checksums.h"

namespace ridgeline {
class TemporaryFile;
}

namespace ridgeline::data {

struct LlmcTokens;
struct FindingStarts;

enum class TokenType : uint8_t { u8 = 1, i8 = 2, i16 = 3, i32 = 4, i64 = 5, u16 = 8 };  // the codes of the .idx format

constexpr int64_t size_of(TokenType type) {
  switch (type) {
    case TokenType::u8:
    case TokenType::i8:
      return 1;
    case TokenType::i16:
    case TokenType::u16:
      return 2;
    case TokenType::i32:
      return 4;
    case TokenType::i64:
      return 8;
  }
  return 0;
}

// u16 below 65,500 ids, else i32: Megatron's rule.
constexpr TokenType token_type_for(int64_t vocabulary) {
  return vocabulary < 65500 ? TokenType::u16 : TokenType::i32;
}

// f(id), whose value does not count: of the type in which a dataset of this vocabulary keeps ids.
template <typename F>
decltype(auto) with_token_id(int64_t vocabulary, F&& f) {
  return token_type_for(vocabulary) == TokenType::u16 ? f(uint16_t{}) : f(int32_t{});
}

// A shorter block would have nothing to predict.
constexpr int64_t kLeastBlock = 2;

// Of a dataset of blocks: each of its documents is a block of `tokens` consecutive tokens of one document of the
// corpus, and a sample of its own. What did not fill a block is not in the dataset, and counted here.
struct BlocksNote {
  int64_t tokens = 0;            // of every block; 0: the dataset holds whole documents
  int64_t corpus_documents = 0;  // that were cut
  int64_t short_documents = 0;   // of them: shorter than a block, of which nothing is left
  int64_t dropped_tokens = 0;    // of ends of documents, those of short documents among them

  bool operator==(const BlocksNote&) const = default;
};

// PREFIX.json: what `prepare` knows about a dataset and training must check.
struct DatasetNote {
  int64_t tokens = 0;  // end-of-document tokens included
  int64_t documents = 0;
  int64_t text_bytes = 0;  // UTF-8 bytes of the documents' text: bits per byte = nats / ln 2 / text_bytes
  BlocksNote blocks;
  int64_t vocabulary = 0;        // Tokenizer::vocab_size()
  int32_t end_of_document = -1;  // -1: none appended
  std::string tokenizer_hash;    // Tokenizer::hash()
  std::string tokenizer;         // the folder as given to `prepare`, for messages only
  // CRC-32C of every kChecksumBlock bytes of .bin, as they were written; none in notes of before.
  std::vector<uint32_t> checksums;
};

// A dataset mapped read-only. Immutable: share it between threads. Opening validates everything but the token values
// (O(S)); nothing read from the files is trusted.
class IndexedDataset {
 public:
  // A pair by its prefix, with or without ".bin" / ".idx"; where there is no such index, a token file of llm.c by its
  // name, or several by a pattern (* ? [): all that match, sorted, in a row, as `prepare` joins them. Each of their
  // documents begins with their separator; where nothing kept says where, they are read whole to find it, and it is
  // kept (document_starts.h; find_documents() does so on several threads). Error: missing or cut files, foreign magic,
  // impossible lengths; files whose lengths omit the end-of-document tokens (written by preprocess_data.py --append-eod
  // before August 2023) are named as such; a pattern that matches other files.
  static std::shared_ptr<const IndexedDataset> open(const std::filesystem::path& path);
  // Before open(): where it would read files of llm.c whole, that is done now, and what is found is kept. Nothing of a
  // pair, or where nothing is. Error as of open().
  static void find_documents(const std::filesystem::path& path, const FindingStarts& finding);
  // Whether open() would find files there. They may be damaged.
  static bool is_there(const std::filesystem::path& path);
  // Whether these would be files of llm.c, if they are files of one kind. Looks at the head of one file, and of a pair
  // at nothing but whether it is there.
  static bool is_llmc(const std::filesystem::path& path);
  // Files of llm.c in this order, of which one at least; `name` is theirs in messages.
  static std::shared_ptr<const IndexedDataset> of_llmc(const std::filesystem::path& name,
                                                       std::span<const std::filesystem::path> files);
  // Also of those: the last sequence of each document is one token longer than its length says. repaired() tells.
  static std::shared_ptr<const IndexedDataset> open_repairing(const std::filesystem::path& prefix);
  bool repaired() const { return repaired_; }

  int64_t documents() const { return static_cast<int64_t>(lengths_.size()); }  // S
  int64_t tokens() const { return tokens_; }
  TokenType token_type() const { return type_; }
  // Tokens of document d.
  int32_t length(int64_t document) const { return lengths_[static_cast<size_t>(document)]; }
  std::span<const int32_t> lengths() const { return lengths_; }
  // Position of the first token of document d in the concatenation of all; d == documents() gives tokens().
  int64_t begin(int64_t document) const { return begins_[static_cast<size_t>(document)]; }

  // tokens[i] = token `position + i` of the concatenation of all documents, for all i < tokens.size().
  // Error when an id is negative or >= `vocabulary`, naming file, document and position. Aborts when the range is
  // outside.
  void read(int64_t position, std::span<int32_t> tokens, int64_t vocabulary) const;
  // Those from `position` to `end`, in order, some at a time: for very many, which are read as read_bytes() has it.
  // Errors of both.
  void visit_tokens(int64_t position, int64_t end, int64_t vocabulary,
                    const std::function<void(std::span<const int32_t>)>& visit) const;

  // Tokens of every document where each is a block, and so one sample; 0: documents are whole, and samples are cut from
  // them all in a row.
  int64_t block() const { return note_ ? note_->blocks.tokens : 0; }

  // All tokens as they lie in the files, without what stands before them there: how many bytes, and some of them, span
  // by span. These are read, not mapped: whole ranges at a time, and nothing of them stays. Error: a file is no longer
  // the one that was opened.
  int64_t bytes() const { return tokens_ * size_of(type_); }
  void read_bytes(std::span<const ByteRange> ranges,
                  const std::function<void(std::span<const std::byte>)>& visit) const;
  // Those files: PREFIX.bin, or llm.c's, in order.
  std::vector<std::filesystem::path> files() const;
  // CRC-32C of every kChecksumBlock bytes of files()[file]: of llm.c's, as they were when it was read whole; of a pair
  // those of its note. None where they are not known.
  const std::vector<uint32_t>& checksums(size_t file) const;
  // The files, an index among them, as this machine knows them: the same text in two processes, the same dataset.
  std::string identity() const;

  // Absent when there is no PREFIX.json (a dataset of Megatron's own tools).
  const std::optional<DatasetNote>& note() const { return note_; }
  // Of a pair; of files of llm.c as they were named.
  const std::filesystem::path& prefix() const { return prefix_; }

  // Error unless the note (if any) names this tokenizer, vocabulary and end of document; `vocabulary` is the
  // tokenizer's vocab_size(). A dataset without ends of documents goes with any.
  void require_tokenizer(const std::string& tokenizer_hash, int64_t vocabulary,
                         std::optional<int32_t> end_of_document) const;

 private:
  // A file, and its tokens.
  struct Piece {
    MappedFile file;
    int64_t begin = 0;                // byte of the first one
    int64_t first = 0;                // its position among those of all files
    std::vector<uint32_t> checksums;  // of llm.c
  };

  IndexedDataset(const std::filesystem::path& prefix, bool repair);
  IndexedDataset(const std::filesystem::path& name, LlmcTokens tokens);
  static std::shared_ptr<const IndexedDataset> open(const std::filesystem::path& path, bool repair);
  static std::shared_ptr<const IndexedDataset> unchanged(std::span<const std::filesystem::path> files,
                                                         const std::function<IndexedDataset*()>& make);
  File reopened(size_t piece) const;
  size_t piece_of(int64_t position) const;
  void refuse_tokens(const Piece& piece, int64_t position, std::span<const std::byte> bytes, int64_t vocabulary) const;
  void require_note() const;
  std::filesystem::path prefix_;
  std::vector<Piece> pieces_;
  std::vector<FileIdentity> identities_;  // of pieces_, then of the index of a pair
  TokenType type_ = TokenType::u16;
  std::vector<int32_t> lengths_;
  std::vector<int64_t> begins_;  // S + 1
  int64_t tokens_ = 0;
  bool repaired_ = false;
  std::optional<DatasetNote> note_;
};

// Writes a dataset, over what stands there. Tokens go to a temporary file as they come; finish() puts .bin, .json and
// last .idx into place, so that a reader sees a whole dataset or none. Without finish() nothing remains. One writer at
// a time: an Error names the process that was first.
class IndexedDatasetWriter {
 public:
  IndexedDatasetWriter(const std::filesystem::path& prefix, int64_t vocabulary);
  ~IndexedDatasetWriter();
  IndexedDatasetWriter(const IndexedDatasetWriter&) = delete;
  IndexedDatasetWriter& operator=(const IndexedDatasetWriter&) = delete;

  // One document; ids in [0, vocabulary), else Error.
  void add_document(std::span<const int32_t> tokens);
  // `note` may be absent: then no PREFIX.json is written (and an old one is removed); its checksums are those of what
  // was written. Error: no document was added.
  void finish(const std::optional<DatasetNote>& note);

  int64_t documents() const { return static_cast<int64_t>(lengths_.size()); }
  int64_t tokens() const { return tokens_; }

 private:
  void flush();
  std::filesystem::path prefix_;
  std::unique_ptr<const LockFile> lock_;  // PREFIX.lock
  int64_t vocabulary_;
  TokenType type_;
  std::unique_ptr<TemporaryFile> bin_;
  int64_t written_ = 0;
  BlockChecksums checksums_;
  int64_t tokens_ = 0;
  std::vector<int32_t> lengths_;
  std::vector<std::byte> buffer_;
};

}  // namespace ridgeline::data

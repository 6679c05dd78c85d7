#include "ridgeline/data/dataset_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <system_error>

#include "ridgeline/base/checksum.h"
#include "ridgeline/base/error.h"
#include "ridgeline/base/json.h"
#include "ridgeline/base/temporary_file.h"
#include "ridgeline/data/dataset_output.h"

namespace ridgeline::data {
namespace {

namespace fs = std::filesystem;

constexpr size_t kWriteBytes = size_t{4} << 20;

std::string note_text(const DatasetNote& note) {
  nlohmann::ordered_json json = {{"tokens", note.tokens},
                                 {"documents", note.documents},
                                 {"text_bytes", note.text_bytes},
                                 {"vocabulary", note.vocabulary},
                                 {"end_of_document", note.end_of_document},
                                 {"tokenizer_hash", note.tokenizer_hash},
                                 {"tokenizer", note.tokenizer}};
  if (note.blocks.tokens != 0) {
    json[kNoteBlocks] = {{"tokens", note.blocks.tokens},
                         {"corpus_documents", note.blocks.corpus_documents},
                         {"short_documents", note.blocks.short_documents},
                         {"dropped_tokens", note.blocks.dropped_tokens}};
  }
  json[kNoteChecksums] = nlohmann::ordered_json::array();
  for (const uint32_t sum : note.checksums) json[kNoteChecksums].push_back(checksum_text(sum));
  return json_text(json, 2, NotUtf8::replace) + "\n";
}

// A file that is written from its start, some megabytes at a time.
class Appender {
 public:
  explicit Appender(File& file) : file_(file) { buffer_.reserve(kWriteBytes + sizeof(int64_t)); }
  void add(std::span<const std::byte> bytes) {
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
    if (buffer_.size() >= kWriteBytes) flush();
  }
  template <typename T>
  void add_value(T value) {
    add(std::as_bytes(std::span(&value, 1)));
  }
  void flush() {
    file_.write_at(written_, buffer_);
    written_ += static_cast<int64_t>(buffer_.size());
    buffer_.clear();
  }

 private:
  File& file_;
  std::vector<std::byte> buffer_;
  int64_t written_ = 0;
};

void write_index(File& file, TokenType type, int64_t documents, const LengthSource& lengths) {
  Appender out(file);
  out.add(bytes_of(kIndexMagic));
  out.add_value(uint64_t{1});
  out.add_value(static_cast<uint8_t>(type));
  out.add_value(static_cast<uint64_t>(documents));
  out.add_value(static_cast<uint64_t>(documents + 1));
  lengths([&](std::span<const int32_t> some) { out.add(bytes_of(some)); });
  int64_t offset = 0;
  lengths([&](std::span<const int32_t> some) {
    for (const int32_t length : some) {
      out.add_value(offset);
      offset += length * size_of(type);
    }
  });
  for (int64_t i = 0; i <= documents; ++i) out.add_value(i);
  out.flush();
}

// Writes `tokens` as T to `to`; returns the largest of them, where a negative one counts as larger than any.
template <typename T, typename Id>
uint32_t write_as(std::span<const Id> tokens, std::byte* to) {
  constexpr size_t kBlock = 64;  // of a fixed size, for which compilers use vectors
  uint32_t largest = 0;
  const auto some = [&](const Id* from, size_t count) __attribute__((always_inline)) {
    T written[kBlock];
    for (size_t i = 0; i < count; ++i) {
      written[i] = static_cast<T>(from[i]);
      largest = std::max(largest, static_cast<uint32_t>(from[i]));
    }
    std::memcpy(to, written, count * sizeof(T));  // little-endian
    to += count * sizeof(T);
  };
  size_t done = 0;
  for (; done + kBlock <= tokens.size(); done += kBlock) some(tokens.data() + done, kBlock);
  some(tokens.data() + done, tokens.size() - done);
  return largest;
}

}  // namespace

fs::path with_suffix(const fs::path& prefix, std::string_view suffix) {
  fs::path path = prefix;
  path += suffix;
  return path;
}

template <typename Id>
void append_tokens(std::span<const Id> tokens, TokenType type, int64_t vocabulary, int64_t document,
                   std::vector<std::byte>& to) {
  if (tokens.empty()) return;
  const size_t before = to.size();
  to.resize(before + tokens.size() * static_cast<size_t>(size_of(type)));
  std::byte* const begin = to.data() + before;
  RL_CHECK((size_of(type) == 2 || size_of(type) == 4), ==, true);
  const uint32_t largest = size_of(type) == 2 ? write_as<uint16_t>(tokens, begin) : write_as<int32_t>(tokens, begin);
  if (int64_t{largest} < vocabulary) return;
  to.resize(before);
  const auto bad =
      std::find_if(tokens.begin(), tokens.end(), [&](int64_t token) { return token < 0 || token >= vocabulary; });
  throw Error(fmt::format("document {}: token id {} is outside the vocabulary of {}", document, *bad, vocabulary));
}

template void append_tokens(std::span<const uint16_t> tokens, TokenType type, int64_t vocabulary, int64_t document,
                            std::vector<std::byte>& to);
template void append_tokens(std::span<const int32_t> tokens, TokenType type, int64_t vocabulary, int64_t document,
                            std::vector<std::byte>& to);

void require_countable(int64_t tokens, int64_t document) {
  if (tokens <= std::numeric_limits<int32_t>::max()) return;
  throw Error(fmt::format("document {} has {} tokens; the dataset format counts to 2^31-1", document, tokens),
              "Split the document.");
}

void place_dataset(const fs::path& prefix, TokenType type, int64_t documents, const LengthSource& lengths,
                   const std::optional<DatasetNote>& note, const std::function<void()>& place_tokens) {
  const fs::path note_file = with_suffix(prefix, ".json"), bin = with_suffix(prefix, ".bin"),
                 idx = with_suffix(prefix, ".idx");
  TemporaryFile index(idx);  // whole as the note is, before anything has its name: for lack of room nothing is lost
  write_index(index.file(), type, documents, lengths);
  index.file().sync();
  std::optional<TemporaryFile> whole_note;
  if (note) {
    whole_note.emplace(note_file).file().write_at(0, bytes_of(note_text(*note)));
    whole_note->file().sync();
  }
  // A process that is stopped from here on leaves all files of a new dataset or none.
  const bool is_new = !fs::exists(bin);
  const std::array<fs::path, 3> files = {note_file, bin, idx};
  std::optional<GoesWithProcess> parts;
  if (is_new) parts.emplace(files);
  // An old index must not meet new tokens: it goes first, and the new one comes last. The note goes before the tokens,
  // so that at any moment it says whose they are.
  std::error_code ignored;
  fs::remove(idx, ignored);
  if (whole_note) {
    whole_note->place();
  } else {
    fs::remove(note_file, ignored);
  }
  place_tokens();
  index.place();
}

IndexedDatasetWriter::IndexedDatasetWriter(const fs::path& prefix, int64_t vocabulary)
    : prefix_(dataset_prefix(prefix)), vocabulary_(vocabulary), type_(token_type_for(vocabulary)) {
  if (prefix_.has_parent_path()) make_folder(prefix_.parent_path());
  lock_ = std::make_unique<LockFile>(with_suffix(prefix_, ".lock"), fmt::format("the dataset '{}'", prefix_.string()),
                                     "ridgeline prepare");
  bin_ = std::make_unique<TemporaryFile>(with_suffix(prefix_, ".bin"));
  buffer_.reserve(kWriteBytes + (size_t{1} << 18));
}

IndexedDatasetWriter::~IndexedDatasetWriter() = default;

void IndexedDatasetWriter::flush() {
  bin_->file().write_at(written_, buffer_);
  checksums_.add(buffer_);
  written_ += static_cast<int64_t>(buffer_.size());
  buffer_.clear();
}

void IndexedDatasetWriter::add_document(std::span<const int32_t> tokens) {
  require_countable(static_cast<int64_t>(tokens.size()), documents());
  for (size_t done = 0; done < tokens.size();) {
    const std::span<const int32_t> part = tokens.subspan(done, std::min<size_t>(tokens.size() - done, 1 << 16));
    append_tokens(part, type_, vocabulary_, documents(), buffer_);
    done += part.size();
    if (buffer_.size() >= kWriteBytes) flush();
  }
  lengths_.push_back(static_cast<int32_t>(tokens.size()));
  tokens_ += static_cast<int64_t>(tokens.size());
}

void IndexedDatasetWriter::finish(const std::optional<DatasetNote>& note) {
  if (lengths_.empty()) throw Error(fmt::format("dataset '{}' would be empty: there is no document", prefix_.string()));
  flush();
  bin_->file().sync();  // the long part, before anything of the dataset has its name
  std::optional<DatasetNote> complete = note;
  if (complete) complete->checksums = checksums_.all();
  place_dataset(
      prefix_, type_, documents(), [&](const VisitLengths& visit) { visit(lengths_); }, complete,
      [&] { bin_->place(); });
  bin_.reset();
}

}  // namespace ridgeline::data

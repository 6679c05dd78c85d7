#include "ridgeline/data/indexed_dataset.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "ridgeline/base/checksum.h"
#include "ridgeline/base/error.h"
#include "ridgeline/base/json.h"
#include "ridgeline/data/corpus_inputs.h"
#include "ridgeline/data/dataset_output.h"
#include "ridgeline/data/dataset_writer.h"
#include "ridgeline/data/llmc_tokens.h"

namespace ridgeline::data {
namespace {

namespace fs = std::filesystem;
static_assert(std::endian::native == std::endian::little, "the format is little-endian and read as it lies");

constexpr uint64_t kHeaderBytes = 34;

template <typename T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

TokenType token_type_of(uint8_t code, const fs::path& path) {
  switch (code) {
    case 1:
    case 2:
    case 3:
    case 4:
    case 5:
    case 8:
      return static_cast<TokenType>(code);
    default:
      throw Error(fmt::format("'{}': the token type code {} is not one for whole numbers", path.string(), code),
                  "This index is damaged, or does not describe tokens.");
  }
}

struct Index {
  TokenType type{};
  std::vector<int32_t> lengths;
  std::vector<int64_t> begins;
  bool repaired = false;
};

class IndexParser {
 public:
  IndexParser(std::span<const std::byte> bytes, const fs::path& path) : bytes_(bytes), path_(path) {}

  // `repair`: lengths that omit the end of each document are put right.
  Index parse(uint64_t bin_bytes, bool repair) {
    read_header();
    Index index{type_, std::vector<int32_t>(sequences_), std::vector<int64_t>(sequences_ + 1)};
    // An index of no sequences has no place for lengths, which memcpy must not be given.
    if (sequences_ > 0) std::memcpy(index.lengths.data(), bytes_.data() + kHeaderBytes, sequences_ * 4);
    for (uint64_t i = 0; i < sequences_; ++i) {
      if (index.lengths[i] < 0) fail(fmt::format("document {} has {} tokens", i, index.lengths[i]));
    }
    sum_up(index);
    // 2^32 lengths below 2^31 cannot overflow 64 bits; bytes might, so compare in tokens.
    const auto item = static_cast<uint64_t>(size_of(type_));
    const auto total = static_cast<uint64_t>(index.begins.back());
    index.repaired = repair && omits_ends(total, item, bin_bytes);
    if (!index.repaired) check_total(total, item, bin_bytes);
    check_offsets(index, static_cast<int64_t>(item));
    check_documents();
    if (index.repaired) add_ends(index);
    return index;
  }

 private:
  [[noreturn]] void fail(const std::string& what, std::string next = "") const {
    if (next.empty()) next = "The index is damaged or cut short: prepare the dataset again.";
    throw Error(fmt::format("'{}': {}", path_.string(), what), next);
  }

  void read_header() {
    const std::string_view start(reinterpret_cast<const char*>(bytes_.data()), std::min<size_t>(bytes_.size(), 9));
    if (start.starts_with(std::string_view("TNTIDX\0\0", 8))) {
      fail("an index of Megatron's old 'lazy' or 'cached' kind", "Prepare the dataset again: ridgeline prepare.");
    }
    if (start != kIndexMagic)
      fail("not a token index (it does not start with MMIDIDX)", "Give the prefix of a .bin/.idx pair.");
    if (bytes_.size() < kHeaderBytes) fail(fmt::format("only {} bytes, less than a header", bytes_.size()));
    const auto version = load<uint64_t>(bytes_.data() + 9);
    if (version != 1) fail(fmt::format("version {}, and only 1 is known", version));
    type_ = token_type_of(load<uint8_t>(bytes_.data() + 17), path_);
    sequences_ = load<uint64_t>(bytes_.data() + 18);
    document_bounds_ = load<uint64_t>(bytes_.data() + 26);
    // Each count against the size first: a wild count must not overflow the sum.
    const uint64_t body = bytes_.size() - kHeaderBytes;
    const bool possible = sequences_ <= body / 12 && document_bounds_ <= body / 8;
    const uint64_t expected = possible ? 12 * sequences_ + 8 * document_bounds_ : 0;
    // Multimodal datasets end with one byte per sequence more.
    if (!possible || (body != expected && body != expected + sequences_)) {
      fail(fmt::format("{} bytes cannot hold {} sequences and {} document bounds", bytes_.size(), sequences_,
                       document_bounds_));
    }
    if (sequences_ > std::numeric_limits<uint32_t>::max()) fail(fmt::format("{} documents are too many", sequences_));
  }

  static void sum_up(Index& index) {
    int64_t total = 0;
    for (size_t i = 0; i < index.lengths.size(); ++i) {
      index.begins[i] = total;
      total += index.lengths[i];
    }
    index.begins.back() = total;
  }

  // Whether .bin has exactly one token more for each document.
  bool omits_ends(uint64_t total, uint64_t item, uint64_t bin_bytes) const {
    return bin_bytes % item == 0 && bin_bytes / item > total && bin_bytes / item - total == document_bounds_ - 1;
  }

  // The end stands behind the last sequence of each document.
  void add_ends(Index& index) const {
    const std::byte* bounds = bytes_.data() + kHeaderBytes + 12 * sequences_;
    for (uint64_t i = 1; i < document_bounds_; ++i) {
      const auto first = load<int64_t>(bounds + 8 * (i - 1)), end = load<int64_t>(bounds + 8 * i);
      if (end == first) fail(fmt::format("document {} has no sequence that could end with its token", i - 1));
      int32_t& length = index.lengths[static_cast<size_t>(end - 1)];
      if (length == std::numeric_limits<int32_t>::max()) fail(fmt::format("document {} is too long", i - 1));
      ++length;
    }
    sum_up(index);
  }

  void check_total(uint64_t total, uint64_t item, uint64_t bin_bytes) const {
    if (bin_bytes % item == 0 && bin_bytes / item == total) return;
    const std::string said = fmt::format("the lengths add up to {} tokens of {} bytes, but the .bin file has {} bytes",
                                         total, item, bin_bytes);
    if (omits_ends(total, item, bin_bytes)) {
      fail(said + ", exactly one token more per document",
           "Written by preprocess_data.py --append-eod before its lengths counted the end-of-document token (fixed in "
           "Megatron in August 2023). A new dataset of it with the right lengths: ridgeline prepare --tokenizer DIR "
           "--out "
           "PREFIX, and this one as the input.");
    }
    fail(said);
  }

  void check_offsets(const Index& index, int64_t item) const {
    const std::byte* at = bytes_.data() + kHeaderBytes + 4 * sequences_;
    for (uint64_t i = 0; i < sequences_; ++i, at += 8) {
      const auto offset = load<int64_t>(at);
      if (offset != index.begins[i] * item) {
        fail(fmt::format("document {} is said to start at byte {}, and by the lengths before it starts at {}", i,
                         offset, index.begins[i] * item));
      }
    }
  }

  void check_documents() const {
    const std::byte* at = bytes_.data() + kHeaderBytes + 12 * sequences_;
    int64_t previous = 0;
    for (uint64_t i = 0; i < document_bounds_; ++i, at += 8) {
      const auto bound = load<int64_t>(at);
      const bool last = i + 1 == document_bounds_;
      if ((i == 0 && bound != 0) || bound < previous || (last && bound != static_cast<int64_t>(sequences_))) {
        fail(fmt::format("document bound {} is {}", i, bound));
      }
      previous = bound;
    }
    if (document_bounds_ == 0) fail("no document bounds");
  }

  std::span<const std::byte> bytes_;
  const fs::path& path_;
  TokenType type_{};
  uint64_t sequences_ = 0, document_bounds_ = 0;
};

// Copies, widens and finds whether all lie in [0, vocabulary); vectorised by the compiler.
template <typename T>
bool copy_tokens(const std::byte* from, std::span<int32_t> to, int64_t vocabulary) {
  bool good = true;
  for (size_t i = 0; i < to.size(); ++i) {
    const T token = load<T>(from + i * sizeof(T));
    good &= static_cast<uint64_t>(static_cast<int64_t>(token)) < static_cast<uint64_t>(vocabulary);
    to[i] = static_cast<int32_t>(token);
  }
  return good;
}

int64_t token_at(TokenType type, const std::byte* from) {
  switch (type) {
    case TokenType::u8:
      return load<uint8_t>(from);
    case TokenType::i8:
      return load<int8_t>(from);
    case TokenType::i16:
      return load<int16_t>(from);
    case TokenType::i32:
      return load<int32_t>(from);
    case TokenType::i64:
      return load<int64_t>(from);
    case TokenType::u16:
      return load<uint16_t>(from);
  }
  return -1;
}

bool copy_tokens(TokenType type, const std::byte* from, std::span<int32_t> to, int64_t vocabulary) {
  switch (type) {
    case TokenType::u8:
      return copy_tokens<uint8_t>(from, to, vocabulary);
    case TokenType::i8:
      return copy_tokens<int8_t>(from, to, vocabulary);
    case TokenType::i16:
      return copy_tokens<int16_t>(from, to, vocabulary);
    case TokenType::i32:
      return copy_tokens<int32_t>(from, to, vocabulary);
    case TokenType::i64:
      return copy_tokens<int64_t>(from, to, vocabulary);
    case TokenType::u16:
      return copy_tokens<uint16_t>(from, to, vocabulary);
  }
  return false;
}

DatasetNote parse_note(const fs::path& path) {
  try {
    const auto json = parse_json(read_text(path));
    DatasetNote note;
    note.tokens = json.at("tokens").get<int64_t>();
    note.documents = json.at("documents").get<int64_t>();
    note.text_bytes = json.at("text_bytes").get<int64_t>();
    note.vocabulary = json.at("vocabulary").get<int64_t>();
    note.end_of_document = json.at("end_of_document").get<int32_t>();
    note.tokenizer_hash = json.at("tokenizer_hash").get<std::string>();
    note.tokenizer = json.at("tokenizer").get<std::string>();
    if (const auto blocks = json.find(kNoteBlocks); blocks != json.end()) {
      note.blocks = {.tokens = blocks->at("tokens").get<int64_t>(),
                     .corpus_documents = blocks->at("corpus_documents").get<int64_t>(),
                     .short_documents = blocks->at("short_documents").get<int64_t>(),
                     .dropped_tokens = blocks->at("dropped_tokens").get<int64_t>()};
    }
    for (const auto& sum : json.value(kNoteChecksums, nlohmann::json::array()))
      note.checksums.push_back(parse_checksum(sum.get<std::string>(), path.string()));
    return note;
  } catch (const nlohmann::json::exception& error) {
    fs::path prefix = path;
    prefix.replace_extension();
    throw Error(
        fmt::format("'{}' is not the note of the dataset '{}' beside it: {}", path.string(), prefix.string(),
                    error.what()),
        fmt::format("It may be a corpus: keep it. Give the dataset another name (mv {0}.bin OTHER.bin; mv {0}.idx "
                    "OTHER.idx), or prepare it again under one.",
                    prefix.string()));
  }
}

bool has_index(const fs::path& path) {
  return fs::exists(with_suffix(dataset_prefix(path), ".idx"));
}

// Files of llm.c that `path` names where no pair has that name; none.
std::vector<fs::path> llmc_files(const fs::path& path) {
  for (const fs::path& file : {path, with_suffix(path, ".bin")}) {
    if (is_llmc_file(file)) return {file};
  }
  if (!is_pattern(path)) return {};
  std::vector<fs::path> files = files_matching(path.string());
  for (const fs::path& file : files) {
    if (is_llmc_file(file)) continue;
    throw Error(
        fmt::format("'{}' matches '{}', and is no token file of llm.c", path.string(), file.string()),
        "Only those are read by a pattern. Several .bin/.idx pairs are a list: data.train = [[0.7, \"A\"], [0.3, "
        "\"B\"]], or one dataset: ridgeline prepare.");
  }
  return files;
}

}  // namespace

IndexedDataset::IndexedDataset(const fs::path& prefix, bool repair) : prefix_(prefix) {
  pieces_.push_back({.file = MappedFile(with_suffix(prefix, ".bin")), .checksums = {}});
  const fs::path path = with_suffix(prefix, ".idx");
  const MappedFile file(path, MappedFile::Access::sequential);
  Index index = IndexParser(file.bytes(), path).parse(pieces_.front().file.bytes().size(), repair);
  type_ = index.type;
  lengths_ = std::move(index.lengths);
  begins_ = std::move(index.begins);
  repaired_ = index.repaired;
  tokens_ = begins_.back();
  if (const fs::path note = with_suffix(prefix, ".json"); fs::exists(note)) {
    note_ = parse_note(note);
    require_note();
  }
}

IndexedDataset::IndexedDataset(const fs::path& name, LlmcTokens tokens)
    : prefix_(name), type_(tokens.type), lengths_(std::move(tokens.lengths)) {
  begins_.reserve(lengths_.size() + 1);
  for (const int32_t length : lengths_) {
    begins_.push_back(tokens_);
    tokens_ += length;
  }
  begins_.push_back(tokens_);
  int64_t first = 0;
  for (size_t i = 0; i < tokens.files.size(); ++i) {
    const int64_t held = std::ssize(tokens.files[i].bytes()) - tokens.begin;
    pieces_.push_back({std::move(tokens.files[i]), tokens.begin, first, std::move(tokens.checksums[i])});
    first += held / size_of(type_);
  }
  RL_CHECK(first, ==, tokens_);
}

// The note is that of these files.
void IndexedDataset::require_note() const {
  const auto refuse = [&](const std::string& what) {
    throw Error(fmt::format("'{}' speaks of {}", with_suffix(prefix_, ".json").string(), what),
                "The files do not belong together: prepare the dataset again.");
  };
  if (note_->tokens != tokens_ || note_->documents != documents())
    refuse(fmt::format("{} tokens in {} documents, but the dataset has {} in {}", note_->tokens, note_->documents,
                       tokens_, documents()));
  const int64_t block = note_->blocks.tokens;
  const bool all = std::all_of(lengths_.begin(), lengths_.end(), [&](int32_t length) { return length == block; });
  if (block != 0 && (block < kLeastBlock || !all))
    refuse(fmt::format("blocks of {} tokens, but the dataset's documents have other lengths", block));
  const int64_t blocks = checksum_blocks(bytes());
  if (!note_->checksums.empty() && static_cast<int64_t>(note_->checksums.size()) != blocks)
    refuse(fmt::format("checksums of {} blocks, but the dataset has {}", note_->checksums.size(), blocks));
}

std::shared_ptr<const IndexedDataset> IndexedDataset::open(const fs::path& path) {
  return open(path, false);
}

std::shared_ptr<const IndexedDataset> IndexedDataset::open_repairing(const fs::path& path) {
  return open(path, true);
}

bool IndexedDataset::is_there(const fs::path& path) {
  return has_index(path) || !llmc_files(path).empty();
}

bool IndexedDataset::is_llmc(const fs::path& path) {
  if (has_index(path)) return false;
  if (is_llmc_file(path) || is_llmc_file(with_suffix(path, ".bin"))) return true;
  const std::vector<fs::path> files = is_pattern(path) ? files_matching(path.string()) : std::vector<fs::path>();
  return !files.empty() && is_llmc_file(files.front());
}

// What `make` opens of `files`, none of which may be another one by then.
std::shared_ptr<const IndexedDataset> IndexedDataset::unchanged(std::span<const fs::path> files,
                                                                const std::function<IndexedDataset*()>& make) {
  std::vector<FileIdentity> identities;
  for (const fs::path& file : files) identities.push_back(identity_of(file));
  std::shared_ptr<IndexedDataset> dataset(make());
  for (size_t i = 0; i < files.size(); ++i) {
    if (identity_of(files[i]) == identities[i]) continue;
    throw Error(fmt::format("'{}' changes while it is opened", files[i].string()), "Wait until it is whole.");
  }
  dataset->identities_ = std::move(identities);
  return dataset;
}

void IndexedDataset::find_documents(const fs::path& path, const FindingStarts& finding) {
  if (has_index(path)) return;
  if (const std::vector<fs::path> files = llmc_files(path); !files.empty())
    document_starts(llmc_headers(files), finding);
}

std::shared_ptr<const IndexedDataset> IndexedDataset::of_llmc(const fs::path& name, std::span<const fs::path> files) {
  return unchanged(files, [&] { return new IndexedDataset(name, open_llmc(files)); });
}

std::shared_ptr<const IndexedDataset> IndexedDataset::open(const fs::path& path, bool repair) {
  const fs::path prefix = dataset_prefix(path);
  if (!has_index(path)) {
    if (const std::vector<fs::path> files = llmc_files(path); !files.empty()) return of_llmc(path, files);
    if (is_pattern(path)) refuse_pattern(path);
  }
  for (const char* suffix : {".idx", ".bin"}) {
    if (const fs::path file = with_suffix(prefix, suffix); !fs::exists(file)) {
      throw Error(fmt::format("no dataset at '{}': '{}' does not exist", prefix.string(), file.string()),
                  "Make one: ridgeline prepare --tokenizer DIR --out " + prefix.string() + " INPUT.");
    }
  }
  const std::array files = {with_suffix(prefix, ".bin"), with_suffix(prefix, ".idx")};
  return unchanged(files, [&] { return new IndexedDataset(prefix, repair); });
}

// Which file holds a token; of files without tokens none does.
size_t IndexedDataset::piece_of(int64_t position) const {
  const auto after = std::upper_bound(pieces_.begin(), pieces_.end(), position,
                                      [](int64_t place, const Piece& piece) { return place < piece.first; });
  return static_cast<size_t>(after - pieces_.begin()) - 1;
}

File IndexedDataset::reopened(size_t piece) const {
  File file(pieces_[piece].file.path(), File::Mode::read);
  if (identity_of(file) != identities_[piece])
    throw Error(fmt::format("'{}' has changed since it was opened", file.path().string()),
                "Leave the data alone while a run begins.");
  return file;
}

void IndexedDataset::read_bytes(std::span<const ByteRange> ranges,
                                const std::function<void(std::span<const std::byte>)>& visit) const {
  constexpr int64_t kMost = int64_t{1} << 20;
  const int64_t item = size_of(type_);
  std::vector<std::byte> buffer;
  std::optional<File> file;
  size_t open = 0;  // which piece's that is
  for (const ByteRange& range : ranges) {
    RL_CHECK(range.first, >=, 0);
    RL_CHECK(range.first + range.bytes, <=, bytes());
    const int64_t end = range.first + range.bytes;
    for (int64_t first = range.first; first < end;) {
      const size_t i = piece_of(first / item);
      const Piece& piece = pieces_[i];
      const int64_t at = piece.begin + first - piece.first * item;
      const int64_t held = std::ssize(piece.file.bytes()) - at;
      if (!file || open != i) file.emplace(reopened(i));
      open = i;
      buffer.resize(static_cast<size_t>(std::min({kMost, held, end - first})));
      file->read_at(at, buffer);
      visit(buffer);
      first += std::ssize(buffer);
    }
  }
}

std::string IndexedDataset::identity() const {
  std::string text;
  for (const FileIdentity& identity : identities_) text += to_text(identity) + "\n";
  return text;
}

std::vector<fs::path> IndexedDataset::files() const {
  std::vector<fs::path> paths;
  for (const Piece& piece : pieces_) paths.push_back(piece.file.path());
  return paths;
}

const std::vector<uint32_t>& IndexedDataset::checksums(size_t file) const {
  return note_ ? note_->checksums : pieces_[file].checksums;
}

void IndexedDataset::read(int64_t position, std::span<int32_t> tokens, int64_t vocabulary) const {
  RL_CHECK(position, >=, 0);
  RL_CHECK(position + static_cast<int64_t>(tokens.size()), <=, tokens_);
  // Ids are int32: a larger vocabulary than that allows no more.
  const int64_t item = size_of(type_), bound = std::min<int64_t>(vocabulary, int64_t{1} << 31);
  for (size_t i = tokens.empty() ? 0 : piece_of(position); !tokens.empty(); ++i) {
    const Piece& piece = pieces_[i];
    const int64_t at = piece.begin + (position - piece.first) * item;
    const int64_t held = (static_cast<int64_t>(piece.file.bytes().size()) - at) / item;
    const size_t take = std::min(static_cast<size_t>(held), tokens.size());
    const std::byte* const from = piece.file.bytes().data() + at;
    if (!copy_tokens(type_, from, tokens.first(take), bound)) [[unlikely]]
      refuse_tokens(piece, position, std::span(from, take * static_cast<size_t>(item)), vocabulary);
    position += static_cast<int64_t>(take);
    tokens = tokens.subspan(take);
  }
}

void IndexedDataset::visit_tokens(int64_t position, int64_t end, int64_t vocabulary,
                                  const std::function<void(std::span<const int32_t>)>& visit) const {
  RL_CHECK(position, >=, 0);
  RL_CHECK(end, <=, tokens_);
  const int64_t item = size_of(type_), bound = std::min<int64_t>(vocabulary, int64_t{1} << 31);
  const std::array ranges = {ByteRange{position * item, std::max<int64_t>(0, end - position) * item}};
  std::vector<int32_t> tokens;
  read_bytes(ranges, [&](std::span<const std::byte> bytes) {
    RL_CHECK(std::ssize(bytes) % item, ==, 0);
    tokens.resize(bytes.size() / static_cast<size_t>(item));
    if (!copy_tokens(type_, bytes.data(), tokens, bound)) [[unlikely]]
      refuse_tokens(pieces_[piece_of(position)], position, bytes, vocabulary);
    visit(tokens);
    position += std::ssize(tokens);
  });
}

// Names the first of the ids at `position`, which are these bytes of a file, that is none of `vocabulary`.
void IndexedDataset::refuse_tokens(const Piece& piece, int64_t position, std::span<const std::byte> bytes,
                                   int64_t vocabulary) const {
  const int64_t item = size_of(type_), bound = std::min<int64_t>(vocabulary, int64_t{1} << 31);
  for (size_t at = 0; at < bytes.size(); at += static_cast<size_t>(item), ++position) {
    const int64_t token = token_at(type_, bytes.data() + at);
    if (token >= 0 && token < bound) continue;
    const auto document = std::upper_bound(begins_.begin(), begins_.end(), position) - begins_.begin() - 1;
    throw Error(fmt::format("'{}': token id {} at position {} (document {}, token {}) is outside the vocabulary of {}",
                            piece.file.path().string(), token, position, document,
                            position - begins_[static_cast<size_t>(document)], vocabulary),
                "Set model.vocab to the vocabulary of the dataset's tokenizer, or prepare the data with this model's.");
  }
}

void IndexedDataset::require_tokenizer(const std::string& tokenizer_hash, int64_t vocabulary,
                                       std::optional<int32_t> end_of_document) const {
  if (!note_) return;
  if (note_->vocabulary != vocabulary) {
    throw Error(fmt::format("dataset '{}' was prepared with a vocabulary of {} (tokenizer '{}'), this tokenizer has {}",
                            prefix_.string(), note_->vocabulary, note_->tokenizer, vocabulary),
                "Train with the dataset's tokenizer, or prepare the dataset again with this one.");
  }
  if (note_->tokenizer_hash != tokenizer_hash) {
    throw Error(fmt::format("dataset '{}' was prepared with another tokenizer ('{}', hash {}) than this one (hash {})",
                            prefix_.string(), note_->tokenizer, note_->tokenizer_hash, tokenizer_hash),
                "Train with the dataset's tokenizer, or prepare the dataset again with this one.");
  }
  if (note_->end_of_document >= 0 && end_of_document != note_->end_of_document) {
    throw Error(
        fmt::format("dataset '{}' ends its documents with id {} (tokenizer '{}'), this tokenizer's eos_token is {}",
                    prefix_.string(), note_->end_of_document, note_->tokenizer,
                    end_of_document ? fmt::format("id {}", *end_of_document) : "not named"),
        "Name the same eos_token in tokenizer_config.json, or prepare the dataset again with this tokenizer.");
  }
}

}  // namespace ridgeline::data

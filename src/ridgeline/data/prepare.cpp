#include "ridgeline/data/prepare.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>
#include <thread>

#include "ridgeline/base/checksum.h"
#include "ridgeline/base/error.h"
#include "ridgeline/base/json.h"
#include "ridgeline/base/lock_file.h"
#include "ridgeline/base/temporary_file.h"
#include "ridgeline/data/dataset_output.h"
#include "ridgeline/data/dataset_writer.h"
#include "ridgeline/data/ordered_pipeline.h"
#include "ridgeline/data/partial_dataset.h"
#include "ridgeline/data/prepare_merge.h"
#include "ridgeline/data/sharing_rounds.h"

namespace ridgeline::data {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kStateVersion = 1;
constexpr size_t kPieceBytes = size_t{1} << 20;  // of a long document, for a thread
// File systems that hosts share may show what another one wrote only after a while.
constexpr std::chrono::seconds kVisibleWithin{90};
constexpr std::chrono::milliseconds kLookAgain{500};

template <typename Id>
struct TokenizedBatch {
  DocumentBatch documents;
  std::vector<Id> ids;       // of all that are not long, their ends included
  std::vector<size_t> ends;  // of each document in `ids`

  void clear() {  // but for the documents, which their reader overwrites
    clear_for_reuse(ids);
    clear_for_reuse(ends);
  }
};

// One per thread. Those of long documents, which are there while others are encoded, are made for the first of them.
template <typename Id>
struct Encoders {
  std::vector<EncoderOf<Id>> of_batches, of_long;

  static void fill(std::vector<EncoderOf<Id>>& encoders, int threads, const Tokenizer& tokenizer) {
    while (std::ssize(encoders) < threads) encoders.emplace_back(tokenizer);
  }
};

bool is_long(std::string_view document) {
  return document.size() > kLongDocument;
}

int32_t end_token(const Tokenizer& tokenizer, const PrepareSettings& settings) {
  if (!settings.end_of_document || settings.block > 0) return -1;
  if (const auto id = tokenizer.end_of_document()) return *id;
  throw Error(fmt::format("tokenizer '{}' names no end-of-document token", settings.tokenizer.string()),
              "Add \"eos_token\" to its tokenizer_config.json, or use --no-eod.");
}

// What a corpus should not hold as text: the names of special tokens.
std::vector<std::string> markers_of(const Tokenizer& tokenizer) {
  std::vector<std::string> markers;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (!tokenizer.is_special(id)) continue;
    const std::string_view name = tokenizer.token_bytes(id);
    if (name.size() > 2) markers.emplace_back(name);  // shorter ones are common text
  }
  return markers;
}

// Of a corpus that has documents and gave no block.
void require_a_block(int64_t block, const std::vector<StoredPart>& parts) {
  BlockCounts counts;
  for (const StoredPart& part : parts) counts.add(part.record.blocks);
  if (block == 0) return;
  throw Error(fmt::format("--blocks {}: none of the {} documents has so many tokens, the longest has {}", block,
                          counts.documents, counts.longest),
              counts.longest >= kLeastBlock
                  ? fmt::format("--blocks {} keeps something of that one; without --blocks all documents are kept.",
                                counts.longest)
                  : "Without --blocks all documents are kept.");
}

CorpusOptions corpus_options(const Tokenizer& tokenizer, const PrepareSettings& settings) {
  CorpusOptions options = settings.corpus;
  if (settings.specials == Specials::as_text) options.markers = markers_of(tokenizer);
  return options;
}

// All that decides what the parts are and what comes of them.
nlohmann::json state_of(const Tokenizer& tokenizer, const PrepareSettings& settings, const CorpusReader& reader,
                        int32_t end_of_document) {
  nlohmann::json inputs = nlohmann::json::array();
  for (const CorpusFile& file : reader.inputs().files)
    inputs.push_back({{"name", file.name}, {"bytes", file.bytes}, {"modified", file.modified}});
  const CorpusOptions& corpus = reader.options();
  const CorpusFilters& filters = corpus.filters;
  const auto number_or_null = [](const std::optional<double>& value) {
    return value ? nlohmann::json(*value) : nlohmann::json();
  };
  const nlohmann::json state = {{"written_by", "ridgeline prepare"},
                                {"version", kStateVersion},
                                {"tokenizer", tokenizer.hash()},
                                {"vocabulary", tokenizer.vocab_size()},
                                {"end_of_document", end_of_document},
                                {"specials", settings.specials == Specials::recognise},
                                {"key", corpus.key},
                                {"strict", corpus.strict},
                                {"max_document", corpus.longest_record},
                                {"markers", corpus.markers},
                                {"drop_quality_warnings", filters.drop_warnings},
                                {"min_harmful_pp", number_or_null(filters.min_harmful_pp)},
                                {"min_language_probability", number_or_null(filters.min_language_probability)},
                                {"block", settings.block},
                                {"part", settings.part_bytes},
                                {"inputs", inputs}};
  return parse_json(json_text(state, -1, NotUtf8::replace));  // as it will be read
}

class Preparation {
 public:
  Preparation(const Tokenizer& tokenizer, const PrepareSettings& settings)
      : tokenizer_(tokenizer),
        settings_(settings),
        sharing_(settings.sharing),
        end_of_document_(end_token(tokenizer, settings)),
        prefix_(dataset_prefix(settings.prefix)),
        reader_(settings.inputs, corpus_options(tokenizer, settings), settings.threads),
        parts_(parts_of(reader_.inputs(), settings.part_bytes)),
        dataset_(prefix_, token_type_for(tokenizer.vocab_size())),
        places_(2 * parts_.size()) {
    RL_CHECK(settings.threads, >=, 1);
    RL_REQUIRE(settings.block == 0 || settings.block >= kLeastBlock, "blocks of {} tokens", settings.block);
    require_replaceable_dataset(settings.prefix, reader_.inputs().paths());
    if (!alone() && reader_.inputs().standard_input) {
      throw Error("standard input (-) cannot be shared by several processes",
                  "Write it to a file first, or prepare it with one process.");
    }
  }

  PrepareResult run(const std::function<void(const PrepareProgress&)>& progress) {
    open();
    try {
      find_kept();
      tokenize(progress);
      return finish();
    } catch (...) {
      leave();
      throw;
    }
  }

 private:
  bool alone() const { return sharing_.count == 1; }
  bool leads() const { return sharing_.index == 0; }
  void say(const std::string& text) const {
    if (settings_.say) settings_.say(text);
  }

  // Where a part lies, so that all processes choose the same line of it.
  struct Place {
    int64_t stream_and_one = 0;  // 0: it is not done
    int64_t tokens_begin = 0;
  };
  Place place(size_t part) const { return {places_[2 * part], places_[2 * part + 1]}; }
  void set_place(size_t part, int stream, const PartRecord& record) {
    places_[2 * part] = stream + 1;
    places_[2 * part + 1] = record.tokens_begin;
  }
  int64_t bytes_of_part(const StoredPart& one) const {  // in the files of its stream
    return one.record.tokens * size_of(dataset_.type()) + one.record.documents * int64_t{sizeof(int32_t)};
  }
  std::optional<StoredPart> find(const std::vector<StoredPart>& stored, size_t part) const;
  std::vector<StoredPart> await_stored() const;

  void open();
  void let_it_go();
  void find_kept();
  void tokenize(const std::function<void(const PrepareProgress&)>& progress);
  // Id: of the type in which the dataset keeps them.
  template <typename Id>
  void tokenize_as(const std::function<void(const PrepareProgress&)>& progress);
  template <typename Id>
  void encode(EncoderOf<Id>& encoder, TokenizedBatch<Id>& batch) const;
  template <typename Id>
  void write(const TokenizedBatch<Id>& batch, Encoders<Id>& encoders, SharingRounds& rounds);
  template <typename Id>
  void write_long(std::string_view document, Encoders<Id>& encoders, SharingRounds& rounds);
  void finish_part();
  PrepareResult finish();
  PrepareResult result_of(std::vector<StoredPart>& parts) const;
  void leave();

  const Tokenizer& tokenizer_;
  const PrepareSettings& settings_;
  const PrepareSharing& sharing_;
  int32_t end_of_document_;
  fs::path prefix_;
  CorpusReader reader_;
  std::vector<CorpusPart> parts_;
  PartialDataset dataset_;
  std::unique_ptr<const LockFile> lock_;
  // What goes with this process as long as nothing of it is worth keeping.
  std::optional<GoesWithProcess> goes_;
  std::vector<int64_t> places_;
  std::vector<StoredPart> kept_;
  std::vector<size_t> share_;  // the parts that this process prepares, ascending
  std::vector<size_t> ends_;   // of each of them in the ranges that reader_ reads
  std::optional<PartialStream> stream_;
  bool nothing_kept_ = false;  // known
  size_t done_ = 0;            // of share_
};

// A stop of this process removes the folder.
void Preparation::let_it_go() {
  if (!alone() || goes_) return;
  std::vector<fs::path> files;
  for (const char* kind : {"tokens", "lengths", "parts"}) files.push_back(dataset_.file(kind, 0));
  files.push_back(dataset_.folder() / "state");
  files.push_back(dataset_.folder());
  goes_.emplace(files);
}

void Preparation::open() {
  nlohmann::json state = state_of(tokenizer_, settings_, reader_, end_of_document_);
  const fs::path lock = with_suffix(prefix_, ".lock");
  int64_t token = 0;
  if (leads()) {
    if (prefix_.has_parent_path()) make_folder(prefix_.parent_path());
    lock_ = std::make_unique<LockFile>(lock, fmt::format("the dataset '{}'", prefix_.string()), "ridgeline prepare");
    if (reader_.inputs().standard_input) state["once"] = lock_->token();  // what it held nobody can tell
    if (!fs::exists(dataset_.folder())) let_it_go();
    dataset_.begin(state, settings_.fresh);
    token = crc32c(bytes_of(lock_->token()));
  }
  sharing_.sum({&token, 1});
  if (leads()) return;
  // The same folder as the first process's, not one of that name.
  const auto until = std::chrono::steady_clock::now() + kVisibleWithin;
  while (crc32c(bytes_of(lock_token(lock))) != static_cast<uint32_t>(token)) {
    if (std::chrono::steady_clock::now() > until) {
      throw Error(fmt::format("--out {}: what the first process writes there cannot be seen here", prefix_.string()),
                  "Name a place on a file system that all hosts share.");
    }
    std::this_thread::sleep_for(kLookAgain);
  }
  dataset_.join(state);
  lock_ = std::make_unique<LockFile>(dataset_.file("lock", sharing_.index),
                                     fmt::format("part {} of the dataset '{}'", sharing_.index, prefix_.string()),
                                     "ridgeline prepare");
}

std::optional<StoredPart> Preparation::find(const std::vector<StoredPart>& stored, size_t part) const {
  const Place at = place(part);
  for (const StoredPart& one : stored) {
    if (one.record.part == static_cast<int64_t>(part) && one.stream + 1 == at.stream_and_one &&
        one.record.tokens_begin == at.tokens_begin)
      return one;
  }
  return std::nullopt;
}

// Each process verifies some of the parts of earlier starts.
void Preparation::find_kept() {
  const std::vector<StoredPart> stored = dataset_.stored();
  SharingRounds rounds(sharing_);
  std::vector<StoredPart> mine = stored;
  std::erase_if(mine, [&](const StoredPart& one) {
    return static_cast<size_t>(one.record.part) >= parts_.size() || one.record.part % sharing_.count != sharing_.index;
  });
  int64_t done = 0, total = 0;
  for (const StoredPart& one : mine) total += bytes_of_part(one);
  for (const StoredPart& one : mine) {
    rounds.go_on();
    const auto part = static_cast<size_t>(one.record.part);
    if (place(part).stream_and_one == 0 && dataset_.verify(one)) set_place(part, one.stream, one.record);
    done += bytes_of_part(one);
    if (settings_.verified) settings_.verified(done, total);
  }
  rounds.finish();
  sharing_.sum(places_);
  // What is missing all must see alike, or a part is done by two of them, or by none.
  std::vector<size_t> missing;
  for (size_t part = 0; part < parts_.size(); ++part) {
    if (place(part).stream_and_one == 0) missing.push_back(part);
  }
  kept_ = await_stored();
  sharing_.meet();  // nobody writes to these files before all have read them
  if (leads() && !stored.empty()) {
    say(fmt::format("going on: {} of {} parts are done and verified in '{}'{}", kept_.size(), parts_.size(),
                    dataset_.folder().string(),
                    kept_.size() < stored.size() ? "; the others there are damaged, and done again" : ""));
  }
  nothing_kept_ = kept_.empty();
  share_ = share_parts(parts_, missing, sharing_.count)[static_cast<size_t>(sharing_.index)];
}

template <typename Id>
void Preparation::encode(EncoderOf<Id>& encoder, TokenizedBatch<Id>& batch) const {
  const DocumentBatch& documents = batch.documents;
  size_t most = 0;  // never more ids than bytes; what is not used is never touched
  for (size_t i = 0; i < documents.size(); ++i) most += is_long(documents[i]) ? 0 : documents[i].size() + 2;
  batch.ids.reserve(most);
  for (size_t i = 0; i < documents.size(); ++i) {
    if (!is_long(documents[i])) {
      encoder.encode(documents[i], batch.ids, settings_.specials);
      if (end_of_document_ >= 0) batch.ids.push_back(static_cast<Id>(end_of_document_));
    }
    batch.ends.push_back(batch.ids.size());
  }
}

// By all threads at once: its ids go on as soon as they are there.
template <typename Id>
void Preparation::write_long(std::string_view document, Encoders<Id>& encoders, SharingRounds& rounds) {
  struct Piece {
    std::string_view text;
    std::vector<Id> ids;
  };
  encoders.fill(encoders.of_long, settings_.threads, tokenizer_);
  size_t begin = 0;
  ordered_pipeline<Piece>(
      settings_.threads,
      [&](Piece& piece) {
        piece.ids.clear();
        if (begin == document.size()) return false;
        const size_t end = document.size() - begin > kPieceBytes
                               ? tokenizer_.next_cut(document, begin + kPieceBytes, settings_.specials)
                               : document.size();
        piece.text = document.substr(begin, end - begin);
        begin = end;
        return true;
      },
      [](const Piece& piece) { return piece.text.size(); },
      [&](int worker, Piece& piece) {
        piece.ids.reserve(piece.text.size() + 1);
        encoders.of_long[static_cast<size_t>(worker)].encode(piece.text, piece.ids, settings_.specials);
      },
      [&](const Piece& piece) {
        stream_->append(std::span<const Id>(piece.ids));
        rounds.go_on();
      });
  if (end_of_document_ >= 0) stream_->append(std::span<const int32_t>(&end_of_document_, 1));
}

template <typename Id>
void Preparation::write(const TokenizedBatch<Id>& batch, Encoders<Id>& encoders, SharingRounds& rounds) {
  const DocumentBatch& documents = batch.documents;
  while (ends_[done_] <= documents.chunk.range) finish_part();
  reader_.add(documents);
  size_t begin = 0;
  for (size_t i = 0; i < documents.size(); ++i) {
    if (is_long(documents[i])) {
      write_long(documents[i], encoders, rounds);
    } else {
      stream_->append(std::span<const Id>(batch.ids).subspan(begin, batch.ends[i] - begin));
    }
    stream_->end_document();
    begin = batch.ends[i];
  }
}

void Preparation::finish_part() {
  const size_t part = share_[done_];
  // All of it has been read: what is written down is of the files as they were looked at, and cut.
  for (const CorpusRange& range : parts_[part].ranges) require_unchanged(reader_.inputs().files[range.file]);
  const PartRecord record =
      stream_->finish_part(static_cast<int64_t>(part), reader_.take_counts(), reader_.range_lines());
  set_place(part, sharing_.index, record);
  if (parts_.size() > 1) goes_.reset();
  ++done_;
}

void Preparation::tokenize(const std::function<void(const PrepareProgress&)>& progress) {
  std::vector<StoredPart> own;
  for (const StoredPart& one : kept_) {
    if (one.stream == sharing_.index) own.push_back(one);
  }
  if (kept_.empty()) let_it_go();
  BlockCut cut{.tokens = settings_.block, .bytes_of_ids = {}};
  if (cut.tokens > 0) cut.bytes_of_ids = tokenizer_.text_bytes_of_ids();
  stream_.emplace(dataset_, sharing_.index, tokenizer_.vocab_size(), own, std::move(cut));
  std::vector<CorpusRange> ranges;
  for (const size_t part : share_) {
    ranges.insert(ranges.end(), parts_[part].ranges.begin(), parts_[part].ranges.end());
    ends_.push_back(ranges.size());
  }
  reader_.read_only(std::move(ranges));
  with_token_id(tokenizer_.vocab_size(), [&](auto id) { tokenize_as<decltype(id)>(progress); });
}

template <typename Id>
void Preparation::tokenize_as(const std::function<void(const PrepareProgress&)>& progress) {
  Encoders<Id> encoders;
  encoders.fill(encoders.of_batches, settings_.threads, tokenizer_);
  SharingRounds rounds(sharing_);
  ordered_pipeline<TokenizedBatch<Id>>(
      settings_.threads,
      [&](TokenizedBatch<Id>& batch) {
        batch.clear();
        return reader_.next(batch.documents);
      },
      [](const TokenizedBatch<Id>& batch) { return batch.documents.chunk.bytes.size(); },
      [&](int worker, TokenizedBatch<Id>& batch) {
        reader_.parse(batch.documents);
        encode(encoders.of_batches[static_cast<size_t>(worker)], batch);
      },
      [&](const TokenizedBatch<Id>& batch) {
        write(batch, encoders, rounds);
        rounds.go_on();
        if (progress) progress({reader_.bytes_done(), reader_.bytes_total(), stream_->documents(), stream_->tokens()});
      });
  while (done_ < share_.size()) finish_part();
  stream_->close();
  stream_.reset();
  if (!leads()) lock_.reset();
  rounds.finish();
}

// The parts that have a place, in order; the line that another host wrote of one may not be seen here yet.
std::vector<StoredPart> Preparation::await_stored() const {
  const auto until = std::chrono::steady_clock::now() + kVisibleWithin;
  while (true) {
    std::vector<StoredPart> parts;
    const std::vector<StoredPart> stored = dataset_.stored();
    size_t part = 0;
    for (; part < parts_.size(); ++part) {
      if (place(part).stream_and_one == 0) continue;
      std::optional<StoredPart> one = find(stored, part);
      if (!one) break;
      parts.push_back(std::move(*one));
    }
    if (part == parts_.size()) return parts;
    if (alone() || std::chrono::steady_clock::now() > until) {
      throw Error(fmt::format("'{}' does not show part {}, which is done", dataset_.folder().string(), part),
                  "Is it on a file system that all hosts share, and did nobody else write there? Start again.");
    }
    std::this_thread::sleep_for(kLookAgain);
  }
}

PrepareResult Preparation::result_of(std::vector<StoredPart>& parts) const {
  PrepareResult result;
  BlockCounts blocks;
  int64_t lines = 0;  // of the file before the part
  for (StoredPart& one : parts) {
    PartRecord& record = one.record;
    const CorpusPart& part = parts_[static_cast<size_t>(record.part)];
    if (part.ranges.front().begin == 0) lines = 0;  // else the part is a piece of one file
    for (CorpusProblem& problem : record.counts.problems) problem.line += lines;
    lines += record.lines;
    result.corpus.add(record.counts);
    blocks.add(record.blocks);
    result.lengths.resize(std::max(result.lengths.size(), record.lengths.size()));
    for (size_t k = 0; k < record.lengths.size(); ++k) result.lengths[k] += record.lengths[k];
    result.note.tokens += record.tokens;
    result.note.documents += record.documents;
  }
  for (const StoredPart& one : kept_) {
    result.kept_documents += one.record.documents;
    result.kept_text_bytes += one.record.counts.text_bytes;
  }
  result.parts = static_cast<int64_t>(parts_.size());
  result.kept_parts = static_cast<int64_t>(kept_.size());
  result.corpus_options = reader_.options();
  result.passed_over = reader_.inputs().passed_over;
  result.repeated = reader_.inputs().repeated;
  result.note.text_bytes = settings_.block > 0 ? blocks.text_bytes : result.corpus.text_bytes;
  result.note.blocks = {.tokens = settings_.block,
                        .corpus_documents = blocks.documents,
                        .short_documents = blocks.short_documents,
                        .dropped_tokens = blocks.dropped_tokens};
  result.note.vocabulary = tokenizer_.vocab_size();
  result.note.end_of_document = end_of_document_;
  result.note.tokenizer_hash = tokenizer_.hash();
  result.note.tokenizer = settings_.tokenizer.string();
  return result;
}

PrepareResult Preparation::finish() {
  // Of kept parts all processes know the place: theirs must not add up once more.
  std::vector<int64_t> done(places_.size());
  for (const size_t part : share_) {
    done[2 * part] = places_[2 * part];
    done[2 * part + 1] = places_[2 * part + 1];
  }
  sharing_.sum(done);
  for (size_t i = 0; i < done.size(); ++i) places_[i] = std::max(places_[i], done[i]);

  std::vector<StoredPart> parts = await_stored();
  RL_CHECK(parts.size(), ==, parts_.size());
  const PrepareResult result = result_of(parts);
  if (result.note.documents == 0) {
    sharing_.meet();  // nobody reads there any more
    if (leads()) dataset_.remove();
    int64_t bytes = 0;
    for (const CorpusPart& part : parts_) bytes += part.bytes;
    reader_.require_some(result.corpus, bytes);
    require_a_block(settings_.block, parts);
  }
  merge_parts(dataset_, parts, prefix_, result.note, sharing_);
  sharing_.meet();
  if (leads()) dataset_.remove();
  goes_.reset();
  return leads() ? result : PrepareResult();
}

// After a failure.
void Preparation::leave() {
  stream_.reset();
  if (!leads()) return lock_.reset();
  const bool worth = !nothing_kept_ || (parts_.size() > 1 && (!alone() || done_ > 0));
  std::error_code code;
  if (!worth) return dataset_.remove();
  if (fs::exists(dataset_.folder(), code)) {
    say(fmt::format("what is done is kept in '{}': the same command goes on there, with --fresh it begins anew",
                    dataset_.folder().string()));
  }
}

}  // namespace

PrepareResult prepare_dataset(const Tokenizer& tokenizer, const PrepareSettings& settings,
                              const std::function<void(const PrepareProgress&)>& progress) {
  return Preparation(tokenizer, settings).run(progress);
}

int64_t text_bytes(const IndexedDataset& dataset, int64_t first_document, int64_t last_document,
                   const Tokenizer& tokenizer) {
  const std::vector<int64_t> bytes = tokenizer.text_bytes_of_ids();
  int64_t total = 0;
  if (first_document >= last_document) return total;
  dataset.visit_tokens(dataset.begin(first_document), dataset.begin(last_document), tokenizer.vocab_size(),
                       [&](std::span<const int32_t> ids) {
                         for (const int32_t id : ids) total += bytes[static_cast<size_t>(id)];
                       });
  return total;
}

}  // namespace ridgeline::data

#include "ridgeline/data/prepare.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "ridgeline/base/error.h"
#include "ridgeline/data/dataset_output.h"
#include "ridgeline/data/ordered_pipeline.h"

namespace ridgeline::data {
namespace {

struct TokenizedBatch {
  DocumentBatch documents;
  std::vector<int32_t> ids;
  std::vector<size_t> ends;  // of each document in `ids`
};

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

// UTF-8 bytes of text that each id stands for: none for special tokens.
std::vector<int64_t> bytes_of_ids(const Tokenizer& tokenizer) {
  std::vector<int64_t> bytes(static_cast<size_t>(tokenizer.vocab_size()));
  for (size_t id = 0; id < bytes.size(); ++id) {
    const auto token = static_cast<int32_t>(id);
    bytes[id] = tokenizer.is_special(token) ? 0 : static_cast<int64_t>(tokenizer.token_bytes(token).size());
  }
  return bytes;
}

// Writes documents whole, or as blocks.
class DocumentCutter {
 public:
  DocumentCutter(IndexedDatasetWriter& writer, const Tokenizer& tokenizer, int64_t block) : writer_(writer) {
    blocks_.tokens = block;
    if (block > 0) bytes_of_ids_ = bytes_of_ids(tokenizer);
  }

  void add(std::span<const int32_t> document) {
    const auto power = static_cast<size_t>(std::bit_width(std::max<size_t>(document.size(), 1)) - 1);
    lengths_.resize(std::max(lengths_.size(), power + 1));
    ++lengths_[power];
    if (blocks_.tokens == 0) return writer_.add_document(document);
    const auto block = static_cast<size_t>(blocks_.tokens);
    ++blocks_.corpus_documents;
    if (document.size() < block) ++blocks_.short_documents;
    longest_ = std::max(longest_, document.size());
    for (; document.size() >= block; document = document.subspan(block)) {
      writer_.add_document(document.first(block));
      for (const int32_t id : document.first(block)) block_bytes_ += bytes_of_ids_[static_cast<size_t>(id)];
    }
    blocks_.dropped_tokens += static_cast<int64_t>(document.size());
  }
  // Of what was written; `corpus_bytes` are those of all documents.
  int64_t text_bytes(int64_t corpus_bytes) const { return blocks_.tokens == 0 ? corpus_bytes : block_bytes_; }
  const BlocksNote& blocks() const { return blocks_; }
  std::vector<int64_t> take_lengths() { return std::move(lengths_); }
  void require_some() const {
    if (blocks_.tokens == 0 || blocks_.corpus_documents > blocks_.short_documents) return;
    throw Error(
        fmt::format("--blocks {}: none of the {} documents has so many tokens, the longest has {}", blocks_.tokens,
                    blocks_.corpus_documents, longest_),
        longest_ >= static_cast<size_t>(kLeastBlock)
            ? fmt::format("--blocks {} keeps something of that one; without --blocks all documents are kept.", longest_)
            : "Without --blocks all documents are kept.");
  }

 private:
  IndexedDatasetWriter& writer_;
  std::vector<int64_t> bytes_of_ids_;
  std::vector<int64_t> lengths_;
  BlocksNote blocks_;
  int64_t block_bytes_ = 0;
  size_t longest_ = 0;
};

}  // namespace

PrepareResult prepare_dataset(const Tokenizer& tokenizer, const PrepareSettings& settings,
                              const std::function<void(const PrepareProgress&)>& progress) {
  const int32_t end_of_document = end_token(tokenizer, settings);
  const int threads = settings.threads;
  RL_CHECK(threads, >=, 1);
  RL_REQUIRE(settings.block == 0 || settings.block >= kLeastBlock, "blocks of {} tokens", settings.block);
  CorpusOptions corpus = settings.corpus;
  if (settings.specials == Specials::as_text) corpus.markers = markers_of(tokenizer);
  CorpusReader reader(settings.inputs, corpus, threads);
  require_replaceable_dataset(settings.prefix, reader.inputs().paths());
  IndexedDatasetWriter writer(settings.prefix, tokenizer.vocab_size());
  std::vector<Encoder> encoders;
  for (int i = 0; i < threads; ++i) encoders.emplace_back(tokenizer);

  DocumentCutter cutter(writer, tokenizer, settings.block);
  ordered_pipeline<TokenizedBatch>(
      threads, [&](TokenizedBatch& batch) { return reader.next(batch.documents); },
      [](const TokenizedBatch& batch) { return batch.documents.chunk.bytes.size(); },
      [&](int worker, TokenizedBatch& batch) {
        reader.parse(batch.documents);
        batch.ids.reserve(batch.documents.text.size() / 3);
        for (size_t i = 0; i < batch.documents.size(); ++i) {
          encoders[static_cast<size_t>(worker)].encode(batch.documents[i], batch.ids, settings.specials);
          if (end_of_document >= 0) batch.ids.push_back(end_of_document);
          batch.ends.push_back(batch.ids.size());
        }
      },
      [&](TokenizedBatch& batch) {
        reader.add(batch.documents);
        size_t begin = 0;
        for (const size_t end : batch.ends) {
          cutter.add(std::span(batch.ids).subspan(begin, end - begin));
          begin = end;
        }
        if (progress) progress({reader.bytes_done(), reader.bytes_total(), writer.documents(), writer.tokens()});
      });

  reader.require_some();
  cutter.require_some();
  PrepareResult result;
  result.corpus = reader.counts();
  result.corpus_options = std::move(corpus);
  result.passed_over = reader.inputs().passed_over;
  result.lengths = cutter.take_lengths();
  result.note = {.tokens = writer.tokens(),
                 .documents = writer.documents(),
                 .text_bytes = cutter.text_bytes(result.corpus.text_bytes),
                 .blocks = cutter.blocks(),
                 .vocabulary = tokenizer.vocab_size(),
                 .end_of_document = end_of_document,
                 .tokenizer_hash = tokenizer.hash(),
                 .tokenizer = settings.tokenizer.string()};
  writer.finish(result.note);
  return result;
}

int64_t text_bytes(const IndexedDataset& dataset, int64_t first_document, int64_t last_document,
                   const Tokenizer& tokenizer) {
  const std::vector<int64_t> bytes = bytes_of_ids(tokenizer);
  std::vector<int32_t> ids(1 << 16);
  int64_t total = 0;
  const int64_t end = first_document < last_document ? dataset.begin(last_document) : 0;
  for (int64_t at = first_document < last_document ? dataset.begin(first_document) : 0; at < end;) {
    const auto part = std::span(ids).first(static_cast<size_t>(std::min<int64_t>(end - at, 1 << 16)));
    dataset.read(at, part, tokenizer.vocab_size());
    for (const int32_t id : part) total += bytes[static_cast<size_t>(id)];
    at += static_cast<int64_t>(part.size());
  }
  return total;
}

}  // namespace ridgeline::data

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
  if (!settings.end_of_document) return -1;
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

}  // namespace

PrepareResult prepare_dataset(const Tokenizer& tokenizer, const PrepareSettings& settings,
                              const std::function<void(const PrepareProgress&)>& progress) {
  const int32_t end_of_document = end_token(tokenizer, settings);
  const int threads = settings.threads;
  RL_CHECK(threads, >=, 1);
  CorpusOptions corpus = settings.corpus;
  if (settings.specials == Specials::as_text) corpus.markers = markers_of(tokenizer);
  CorpusReader reader(settings.inputs, corpus, threads);
  require_replaceable_dataset(settings.prefix, reader.inputs().paths());
  IndexedDatasetWriter writer(settings.prefix, tokenizer.vocab_size());
  std::vector<Encoder> encoders;
  for (int i = 0; i < threads; ++i) encoders.emplace_back(tokenizer);

  std::vector<int64_t> lengths;
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
          const auto power = static_cast<size_t>(std::bit_width(std::max<size_t>(end - begin, 1)) - 1);
          lengths.resize(std::max(lengths.size(), power + 1));
          ++lengths[power];
          writer.add_document(std::span(batch.ids).subspan(begin, end - begin));
          begin = end;
        }
        if (progress) progress({reader.bytes_done(), reader.bytes_total(), writer.documents(), writer.tokens()});
      });

  reader.require_some();
  PrepareResult result;
  result.corpus = reader.counts();
  result.corpus_options = std::move(corpus);
  result.passed_over = reader.inputs().passed_over;
  result.lengths = std::move(lengths);
  result.note = {.tokens = writer.tokens(),
                 .documents = writer.documents(),
                 .text_bytes = result.corpus.text_bytes,
                 .vocabulary = tokenizer.vocab_size(),
                 .end_of_document = end_of_document,
                 .tokenizer_hash = tokenizer.hash(),
                 .tokenizer = settings.tokenizer.string()};
  writer.finish(result.note);
  return result;
}

int64_t text_bytes(const IndexedDataset& dataset, int64_t first_document, int64_t last_document,
                   const Tokenizer& tokenizer) {
  std::vector<int64_t> bytes(static_cast<size_t>(tokenizer.vocab_size()));
  for (size_t id = 0; id < bytes.size(); ++id) {
    const auto token = static_cast<int32_t>(id);
    bytes[id] = tokenizer.is_special(token) ? 0 : static_cast<int64_t>(tokenizer.token_bytes(token).size());
  }
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

#include "ridgeline/data/tokenizer_trainer.h"

#include <fmt/format.h>

#include "ridgeline/base/error.h"
#include "ridgeline/data/merge_learner.h"
#include "ridgeline/data/ordered_pipeline.h"

namespace ridgeline::data {
namespace {

void require_possible(int64_t vocabulary) {
  if (vocabulary < kSmallestVocabulary || vocabulary > (int64_t{1} << 20)) {
    throw Error(fmt::format("a vocabulary of {} is not possible", vocabulary),
                fmt::format("It holds the 256 bytes and the end-of-document token: choose from {} to {}, such as 4096.",
                            kSmallestVocabulary, int64_t{1} << 20));
  }
}

}  // namespace

Tokenizer train_tokenizer(const PieceCounts& counts, int64_t vocabulary, const TrainerCallback& progress) {
  require_possible(vocabulary);
  return Tokenizer::from_parts(learn_merges(counts, vocabulary - 1, [&](int64_t merges) {
    if (progress) progress({false, merges, vocabulary - kSmallestVocabulary});
  }));
}

TrainedTokenizer train_tokenizer(const TokenizerTraining& settings, const TrainerCallback& progress) {
  require_possible(settings.vocabulary);
  const int threads = settings.threads;
  RL_CHECK(threads, >=, 1);
  CorpusReader reader(settings.inputs, settings.corpus, threads);
  std::vector<PieceCounts> counts(static_cast<size_t>(threads));
  ordered_pipeline<DocumentBatch>(
      threads, [&](DocumentBatch& batch) { return reader.next(batch); },
      [](const DocumentBatch& batch) { return batch.chunk.bytes.size(); },
      [&](int worker, DocumentBatch& batch) {
        reader.parse(batch);
        for (size_t i = 0; i < batch.size(); ++i) counts[static_cast<size_t>(worker)].add(batch[i]);
      },
      [&](const DocumentBatch& batch) {
        reader.add(batch);
        if (progress) progress({true, reader.bytes_done(), reader.bytes_total()});
      });
  reader.require_some();
  for (size_t i = 1; i < counts.size(); ++i) counts[0].merge(counts[i]);
  int64_t pieces = 0;
  for (const PieceCounts::Entry& entry : counts[0].entries()) pieces += entry.count;
  return {train_tokenizer(counts[0], settings.vocabulary, progress),
          reader.counts(),
          reader.inputs().passed_over,
          reader.inputs().repeated,
          pieces,
          static_cast<int64_t>(counts[0].size())};
}

}  // namespace ridgeline::data

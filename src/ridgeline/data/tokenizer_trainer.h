// Learning a byte-level BPE vocabulary from a corpus.
//
// Ids 0 … 255 are the single bytes in GPT-2's order, then one token per merge, and last "<|endoftext|>". Each step
// merges the most frequent pair of adjacent tokens within the pre-tokens of the corpus (ties: lower left id, then lower
// right id), as in Sennrich et al., "Neural machine translation of rare words with subword units", 2016. The result
// depends on the corpus and the settings alone, not on threads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "ridgeline/data/corpus.h"
#include "ridgeline/data/piece_counts.h"
#include "ridgeline/data/tokenizer.h"

namespace ridgeline::data {

inline constexpr int64_t kSmallestVocabulary = 257;

struct TrainerProgress {
  bool reading = true;          // false: merging
  int64_t done = 0, total = 0;  // bytes of input, or merges
};
// Called before the first merge, too: counting its pairs takes a while.
using TrainerCallback = std::function<void(const TrainerProgress&)>;

// At most `vocabulary` tokens, the end-of-document token included; fewer when no pair occurs twice any more.
// Error: vocabulary < 257.
Tokenizer train_tokenizer(const PieceCounts& counts, int64_t vocabulary, const TrainerCallback& progress = {});

struct TokenizerTraining {
  std::vector<std::filesystem::path> inputs;
  CorpusOptions corpus;
  int64_t vocabulary = 0;
  int threads = 1;
};
struct TrainedTokenizer {
  Tokenizer tokenizer;
  CorpusCounts corpus;
  std::vector<std::string> passed_over, repeated;  // CorpusInputs
  int64_t pieces = 0, distinct_pieces = 0;
};

// Reads the corpus and trains. Error: as CorpusReader; no document in the inputs.
TrainedTokenizer train_tokenizer(const TokenizerTraining& settings, const TrainerCallback& progress = {});

}  // namespace ridgeline::data

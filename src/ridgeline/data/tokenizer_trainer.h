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
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "ridgeline/data/corpus.h"
#include "ridgeline/data/tokenizer.h"

namespace ridgeline::data {

// How often each pre-token occurs. Pre-tokens longer than 256 bytes are counted in pieces of at most that, cut between
// characters: without it one line of base64 would cost more than the rest of the corpus.
class PieceCounts {
 public:
  void add(std::string_view text);
  void merge(const PieceCounts& other);

  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
  };
  using Map = std::unordered_map<std::string, int64_t, Hash, std::equal_to<>>;
  const Map& map() const { return counts_; }

 private:
  void add_piece(std::string_view piece);
  Map counts_;
};

inline constexpr int64_t kSmallestVocabulary = 257;

struct TrainerProgress {
  bool reading = true;          // false: merging
  int64_t done = 0, total = 0;  // bytes of input, or merges
};
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
  int64_t pieces = 0, distinct_pieces = 0;
};

// Reads the corpus and trains. Error: as CorpusReader; no document in the inputs.
TrainedTokenizer train_tokenizer(const TokenizerTraining& settings, const TrainerCallback& progress = {});

}  // namespace ridgeline::data

#include "ridgeline/data/tokenizer_trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <queue>

#include "ridgeline/base/error.h"
#include "ridgeline/data/bpe_model.h"
#include "ridgeline/data/document_batch.h"
#include "ridgeline/data/ordered_pipeline.h"

namespace ridgeline::data {
namespace {

constexpr size_t kLongestPiece = 256;

class MergeLearner {
 public:
  explicit MergeLearner(const PieceCounts& counts) {
    std::array<int32_t, 256> id_of_byte{};
    for (const uint8_t byte : bytes_in_printable_order()) {
      id_of_byte[byte] = static_cast<int32_t>(parts_.tokens.size());
      add_token(std::string(1, static_cast<char>(byte)));
    }
    for (const auto& [piece, count] : counts.map()) {
      Word word{symbols_.size(), static_cast<uint32_t>(piece.size()), count};
      for (const char c : piece) symbols_.push_back(id_of_byte[static_cast<uint8_t>(c)]);
      const auto index = static_cast<uint32_t>(words_.size());
      words_.push_back(word);
      count_pairs(word, +1);
      for (uint32_t i = 0; i + 1 < word.length; ++i) remember(key_at(word, i), index);
    }
    for (const auto& [key, pair] : pairs_) candidates_.push({pair.count, key});
  }

  TokenizerParts learn(int64_t tokens, const TrainerCallback& progress) {
    const auto wanted = static_cast<size_t>(tokens);
    const auto first = static_cast<int64_t>(parts_.tokens.size());
    while (parts_.tokens.size() < wanted && merge_best()) {
      const auto done = static_cast<int64_t>(parts_.tokens.size()) - first;
      if (progress && done % 256 == 0) progress({false, done, tokens - first});
    }
    if (progress) progress({false, static_cast<int64_t>(parts_.tokens.size()) - first, tokens - first});
    return std::move(parts_);
  }

 private:
  struct Word {
    size_t begin;  // in symbols_
    uint32_t length;
    int64_t count;
  };
  struct Pair {
    int64_t count = 0;
    std::vector<uint32_t> words;  // that contain, or once contained, the pair; a word may stand there twice
  };
  struct Candidate {
    int64_t count;
    uint64_t key;  // left id << 32 | right id
    bool operator<(const Candidate& other) const {
      return count != other.count ? count < other.count : key > other.key;
    }
  };

  static uint64_t key_of(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  uint64_t key_at(const Word& word, uint32_t i) const {
    return key_of(symbols_[word.begin + i], symbols_[word.begin + i + 1]);
  }

  int32_t add_token(std::string bytes) {
    const auto [entry, is_new] = ids_.emplace(std::move(bytes), static_cast<int32_t>(parts_.tokens.size()));
    if (is_new) parts_.tokens.push_back(entry->first);
    return entry->second;
  }

  void count_pairs(const Word& word, int sign) {
    for (uint32_t i = 0; i + 1 < word.length; ++i) pairs_[key_at(word, i)].count += sign * word.count;
  }

  void remember(uint64_t key, uint32_t word) {
    std::vector<uint32_t>& words = pairs_[key].words;
    if (words.empty() || words.back() != word) words.push_back(word);
  }

  // Merges the most frequent pair; false when none occurs twice.
  bool merge_best() {
    while (!candidates_.empty()) {
      const Candidate best = candidates_.top();
      candidates_.pop();
      const auto found = pairs_.find(best.key);
      if (found == pairs_.end()) continue;
      if (found->second.count != best.count) {  // has shrunk since it was put here; growth puts a new candidate
        if (found->second.count < best.count) candidates_.push({found->second.count, best.key});
        continue;
      }
      if (best.count < 2) return false;
      const auto left = static_cast<int32_t>(best.key >> 32), right = static_cast<int32_t>(best.key & 0xFFFFFFFFU);
      // Two different pairs may join to the same bytes: one token, two merges.
      const int32_t merged = add_token(parts_.tokens[left] + parts_.tokens[right]);
      parts_.merges.emplace_back(left, right);
      const std::vector<uint32_t> words = std::move(found->second.words);
      grown_.clear();
      for (const uint32_t word : words) rewrite(word, left, right, merged);
      pairs_.erase(best.key);
      for (const uint64_t key : grown_) {
        if (const auto pair = pairs_.find(key); pair != pairs_.end()) candidates_.push({pair->second.count, key});
      }
      return true;
    }
    return false;
  }

  void rewrite(uint32_t index, int32_t left, int32_t right, int32_t merged) {
    Word& word = words_[index];
    int32_t* symbols = symbols_.data() + word.begin;
    const uint64_t key = key_of(left, right);
    uint32_t first = 0;
    while (first + 1 < word.length && key_at(word, first) != key) ++first;
    if (first + 1 >= word.length) return;
    count_pairs(word, -1);
    uint32_t length = first;
    for (uint32_t i = first; i < word.length; ++length) {
      const bool here = i + 1 < word.length && symbols[i] == left && symbols[i + 1] == right;
      symbols[length] = here ? merged : symbols[i];
      i += here ? 2 : 1;
    }
    word.length = length;
    count_pairs(word, +1);
    for (uint32_t i = 0; i + 1 < length; ++i) {
      if (symbols[i] != merged && symbols[i + 1] != merged) continue;
      remember(key_at(word, i), index);
      grown_.push_back(key_at(word, i));
    }
  }

  TokenizerParts parts_;
  std::unordered_map<std::string, int32_t> ids_;
  std::vector<int32_t> symbols_;
  std::vector<Word> words_;
  std::unordered_map<uint64_t, Pair> pairs_;
  std::priority_queue<Candidate> candidates_;
  std::vector<uint64_t> grown_;
};

}  // namespace

void PieceCounts::add_piece(std::string_view piece) {
  if (const auto found = counts_.find(piece); found != counts_.end()) {
    ++found->second;
  } else {
    counts_.emplace(piece, 1);
  }
}

void PieceCounts::add(std::string_view text) {
  for_each_piece(PreTokenizer::gpt2, text, [&](std::string_view piece) {
    while (piece.size() > kLongestPiece) {
      size_t cut = kLongestPiece;
      while (cut > kLongestPiece - 4 && (static_cast<uint8_t>(piece[cut]) & 0xC0) == 0x80) --cut;
      add_piece(piece.substr(0, cut));
      piece.remove_prefix(cut);
    }
    add_piece(piece);
  });
}

void PieceCounts::merge(const PieceCounts& other) {
  for (const auto& [piece, count] : other.counts_) counts_[piece] += count;
}

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
  return Tokenizer::from_parts(MergeLearner(counts).learn(vocabulary - 1, progress));
}

TrainedTokenizer train_tokenizer(const TokenizerTraining& settings, const TrainerCallback& progress) {
  require_possible(settings.vocabulary);
  CorpusReader reader(settings.inputs, settings.corpus);
  const int threads = settings.threads;
  RL_CHECK(threads, >=, 1);
  std::vector<PieceCounts> counts(static_cast<size_t>(threads));
  ordered_pipeline<DocumentBatch>(
      threads, [&](DocumentBatch& batch) { return read_batch(reader, batch); },
      [&](int worker, DocumentBatch& batch) {
        for (size_t i = 0; i < batch.size(); ++i) counts[static_cast<size_t>(worker)].add(batch[i]);
      },
      [&](DocumentBatch& batch) {
        if (progress) progress({true, batch.bytes_done, reader.bytes_total()});
      });
  if (reader.counts().documents == 0) {
    throw Error(
        fmt::format("no document in the {} input files ({} bytes)", settings.inputs.size(), reader.bytes_total()),
        "A .txt file needs a line of text, a .jsonl file an object with the key that --key names.");
  }
  for (size_t i = 1; i < counts.size(); ++i) counts[0].merge(counts[i]);
  int64_t pieces = 0;
  for (const auto& [piece, count] : counts[0].map()) pieces += count;
  return {train_tokenizer(counts[0], settings.vocabulary, progress), reader.counts(), pieces,
          static_cast<int64_t>(counts[0].map().size())};
}

}  // namespace ridgeline::data

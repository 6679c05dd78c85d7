#include "ridgeline/data/merge_learner.h"

#include <algorithm>
#include <array>
#include <queue>
#include <string>
#include <unordered_map>
#include <vector>

#include "ridgeline/data/bpe_model.h"

namespace ridgeline::data {
namespace {

uint64_t key_of(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

struct Pair {
  int64_t count = 0;
  std::vector<uint32_t> words;  // that contain, or once contained, the pair; a word may stand there twice
};

// Pairs by key. Open addressing, at most half full; nothing is ever removed.
class PairMap {
 public:
  // nullptr when there is none.
  Pair* find(uint64_t key) {
    for (size_t i = place_of(key);; i = (i + 1) & (slots_.size() - 1)) {
      if (slots_[i].key == key) return &pairs_[slots_[i].index];
      if (slots_[i].key == kEmpty) return nullptr;
    }
  }
  Pair& at(uint64_t key) {
    if (Pair* const found = find(key)) return *found;
    if ((pairs_.size() + 1) * 2 > slots_.size()) grow();
    insert({key, static_cast<uint32_t>(pairs_.size())});
    return pairs_.emplace_back();
  }

 private:
  static constexpr uint64_t kEmpty = UINT64_MAX;
  struct Slot {
    uint64_t key = kEmpty;
    uint32_t index = 0;
  };
  size_t place_of(uint64_t key) const { return static_cast<size_t>((key * 0x9E3779B97F4A7C15U) >> shift_); }
  void insert(Slot slot) {
    size_t i = place_of(slot.key);
    while (slots_[i].key != kEmpty) i = (i + 1) & (slots_.size() - 1);
    slots_[i] = slot;
  }
  void grow() {
    std::vector<Slot> old(slots_.size() * 2);
    old.swap(slots_);
    --shift_;
    for (const Slot& slot : old) {
      if (slot.key != kEmpty) insert(slot);
    }
  }
  std::vector<Slot> slots_ = std::vector<Slot>(1U << 16);
  int shift_ = 48;
  std::vector<Pair> pairs_;
};

// What happens to the pairs of one token with its neighbours while a pair is merged, by neighbour. An array over all
// tokens and the list of those touched: an addition per place, and a look-up per distinct neighbour at the end.
class Neighbours {
 public:
  explicit Neighbours(size_t tokens) : count_(tokens) {}
  void add(int32_t neighbour, int64_t count) {
    if (count_[neighbour] == 0) touched_.push_back(neighbour);
    count_[neighbour] += count;
  }
  // f(neighbour, count), then forgets them.
  template <typename F>
  void take(F&& f) {
    for (const int32_t neighbour : touched_) {
      f(neighbour, count_[neighbour]);
      count_[neighbour] = 0;
    }
    touched_.clear();
  }

 private:
  std::vector<int64_t> count_;  // of a piece's occurrences: never 0 when touched
  std::vector<int32_t> touched_;
};

class MergeLearner {
 public:
  MergeLearner(const PieceCounts& counts, size_t tokens)
      : before_(tokens),
        behind_(tokens),
        new_before_(tokens),
        new_behind_(tokens),
        words_before_(tokens),
        words_behind_(tokens) {
    std::array<int32_t, 256> id_of_byte{};
    for (const uint8_t byte : bytes_in_printable_order()) {
      id_of_byte[byte] = static_cast<int32_t>(parts_.tokens.size());
      add_token(std::string(1, static_cast<char>(byte)));
    }
    words_.reserve(counts.size());
    for (const auto& [piece, count] : counts.entries()) {
      const Word word{symbols_.size(), static_cast<uint32_t>(piece.size()), count};
      for (const char c : piece) symbols_.push_back(id_of_byte[static_cast<uint8_t>(c)]);
      words_.push_back(word);
    }
    count_first_pairs();
  }

  // Merges the most frequent pair; false when none occurs twice.
  bool merge_best() {
    while (!candidates_.empty()) {
      const Candidate best = candidates_.top();
      candidates_.pop();
      Pair& pair = *pairs_.find(best.key);
      if (pair.count != best.count) {  // has shrunk since it was put here; growth puts a new candidate
        if (pair.count < best.count) push(best.key, pair.count);
        continue;
      }
      const auto left = static_cast<int32_t>(best.key >> 32), right = static_cast<int32_t>(best.key & 0xFFFFFFFFU);
      // Two different pairs may join to the same bytes: one token, two merges.
      const int32_t merged = add_token(parts_.tokens[left] + parts_.tokens[right]);
      parts_.merges.emplace_back(left, right);
      const std::vector<uint32_t> words = std::move(pair.words);
      for (const uint32_t word : words) rewrite(word, left, right, merged);
      update_pairs(left, right, merged);
      return true;
    }
    return false;
  }

  size_t tokens() const { return parts_.tokens.size(); }
  TokenizerParts take() { return std::move(parts_); }

 private:
  struct Word {
    size_t begin;  // in symbols_
    uint32_t length;
    int64_t count;
  };
  struct Candidate {
    int64_t count;
    uint64_t key;  // left id << 32 | right id
    bool operator<(const Candidate& other) const {
      return count != other.count ? count < other.count : key > other.key;
    }
  };

  int32_t add_token(std::string bytes) {
    const auto [entry, is_new] = ids_.emplace(std::move(bytes), static_cast<int32_t>(parts_.tokens.size()));
    if (is_new) parts_.tokens.push_back(entry->first);
    return entry->second;
  }

  void push(uint64_t key, int64_t count) {
    if (count >= 2) candidates_.push({count, key});
  }

  static void remember(std::vector<uint32_t>& words, uint32_t word) {
    if (words.empty() || words.back() != word) words.push_back(word);
  }

  // Of bytes: a table of all pairs there can be.
  void count_first_pairs() {
    std::vector<int64_t> counts(1 << 16), places(1 << 16);
    const auto for_each_pair = [&](auto&& f) {
      for (size_t w = 0; w < words_.size(); ++w) {
        const int32_t* const symbols = symbols_.data() + words_[w].begin;
        for (uint32_t i = 0; i + 1 < words_[w].length; ++i) f(w, static_cast<size_t>(symbols[i] << 8 | symbols[i + 1]));
      }
    };
    for_each_pair([&](size_t w, size_t pair) {
      counts[pair] += words_[w].count;
      ++places[pair];
    });
    std::vector<Pair*> of(1 << 16);
    for (size_t pair = 0; pair < counts.size(); ++pair) {
      if (counts[pair] != 0) pairs_.at(key_of(static_cast<int32_t>(pair >> 8), static_cast<int32_t>(pair & 255)));
    }
    for (size_t pair = 0; pair < counts.size(); ++pair) {
      if (counts[pair] == 0) continue;
      const uint64_t key = key_of(static_cast<int32_t>(pair >> 8), static_cast<int32_t>(pair & 255));
      of[pair] = pairs_.find(key);
      of[pair]->count = counts[pair];
      of[pair]->words.reserve(static_cast<size_t>(places[pair]));
      push(key, counts[pair]);
    }
    for_each_pair([&](size_t w, size_t pair) { remember(of[pair]->words, static_cast<uint32_t>(w)); });
  }

  // Merges every place in a word, from the left, and notes which pairs vanished and which came.
  void rewrite(uint32_t index, int32_t left, int32_t right, int32_t merged) {
    Word& word = words_[index];
    int32_t* const symbols = symbols_.data() + word.begin;
    const uint32_t end = word.length;
    uint32_t place = 0;
    while (place + 1 < end && (symbols[place] != left || symbols[place + 1] != right)) ++place;
    if (place + 1 >= end) return;
    uint32_t length = place;
    bool behind_merge = false;
    for (uint32_t i = place; i < end; ++length) {
      const bool here = i + 1 < end && symbols[i] == left && symbols[i + 1] == right;
      const int32_t previous = length > 0 ? symbols[length - 1] : -1;
      if (here) {
        // Between two merges the pair that vanishes was noted as the one behind the first.
        if (previous >= 0 && !behind_merge) before_.add(previous, word.count);
        if (i + 2 < end) behind_.add(symbols[i + 2], word.count);
        if (previous >= 0) {
          new_before_.add(previous, word.count);
          remember(words_before_[previous], index);
        }
        symbols[length] = merged;
        i += 2;
      } else {
        if (behind_merge) {
          new_behind_.add(symbols[i], word.count);
          remember(words_behind_[symbols[i]], index);
        }
        symbols[length] = symbols[i];
        i += 1;
      }
      behind_merge = here;
    }
    word.length = length;
  }

  void update_pairs(int32_t left, int32_t right, int32_t merged) {
    before_.take([&](int32_t neighbour, int64_t count) { pairs_.find(key_of(neighbour, left))->count -= count; });
    behind_.take([&](int32_t neighbour, int64_t count) { pairs_.find(key_of(right, neighbour))->count -= count; });
    pairs_.find(key_of(left, right))->count = 0;
    const auto came = [&](uint64_t key, int64_t count, std::vector<uint32_t>& words) {
      Pair& pair = pairs_.at(key);
      pair.count += count;
      if (pair.words.empty()) {
        pair.words.assign(words.begin(), words.end());
      } else {
        pair.words.insert(pair.words.end(), words.begin(), words.end());
      }
      words.clear();
      push(key, pair.count);
    };
    new_before_.take(
        [&](int32_t neighbour, int64_t count) { came(key_of(neighbour, merged), count, words_before_[neighbour]); });
    new_behind_.take(
        [&](int32_t neighbour, int64_t count) { came(key_of(merged, neighbour), count, words_behind_[neighbour]); });
  }

  TokenizerParts parts_;
  std::unordered_map<std::string, int32_t> ids_;
  std::vector<int32_t> symbols_;
  std::vector<Word> words_;
  PairMap pairs_;
  std::priority_queue<Candidate> candidates_;
  // Of the merge at work: pairs that vanish (neighbour, left) and (right, neighbour), pairs that come (neighbour,
  // merged) and (merged, neighbour), and the words in which they come.
  Neighbours before_, behind_, new_before_, new_behind_;
  std::vector<std::vector<uint32_t>> words_before_, words_behind_;
};

}  // namespace

TokenizerParts learn_merges(const PieceCounts& counts, int64_t tokens, const std::function<void(int64_t)>& progress) {
  const auto wanted = static_cast<size_t>(tokens);
  const auto report = [&](size_t merges) {
    if (progress) progress(static_cast<int64_t>(merges));
  };
  report(0);
  MergeLearner learner(counts, wanted);
  const size_t first = learner.tokens();
  while (learner.tokens() < wanted && learner.merge_best()) {
    // The first merges touch the most words.
    const size_t done = learner.tokens() - first;
    if (done % 16 == 0) report(done);
  }
  report(learner.tokens() - first);
  return learner.take();
}

}  // namespace ridgeline::data

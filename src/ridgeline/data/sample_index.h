// The order of training samples, from the lengths of documents alone. Pure.
//
// First part, of a run's length at its beginning: Megatron's GPT dataset, bit for bit. Documents repeated for as many
// epochs as are needed and shuffled (the last epoch alone when less than 80 % of it is used); samples of T+1 tokens cut
// one after the other, each starting on the last token of the one before; samples shuffled. All shuffles from one NumPy
// RandomState(seed). Source: Megatron-LM, gpt_dataset.py.
//
// A run that is made longer must not change what it has seen: that order is kept to its end, and further epochs are
// appended one by one. Each shuffles its documents, goes on cutting samples where the one before stopped, and shuffles
// the samples that it completes; the RandomState goes on. So the order of a longer run begins with that of a shorter
// one, however often and by how much it was made longer, and every appended epoch has each document once.
//
// Of a dataset of blocks every document is one sample, and nothing is cut: epochs follow one by one from the first on,
// each with every block once, in an order of its own out of the same RandomState.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "ridgeline/data/split.h"

namespace ridgeline::data {

// MT19937 with NumPy's RandomState(seed).shuffle: x[i] <-> x[j] for i = n-1 … 1, j drawn by masked rejection.
class NumpyShuffle {
 public:
  explicit NumpyShuffle(uint32_t seed);
  template <typename T>
  void shuffle(std::span<T> values) {
    for (size_t i = values.size(); i-- > 1;) std::swap(values[i], values[static_cast<size_t>(bounded(i))]);
  }
  // Uniform in [0, limit].
  uint64_t bounded(uint64_t limit);

 private:
  uint32_t next();
  std::array<uint32_t, 624> state_;
  size_t index_ = 624;
};

// Where the tokens of one epoch-shuffled stream are: row i begins at token `offset` of the document at `position` of
// the shuffled document list.
struct SampleStart {
  uint32_t position = 0, offset = 0;
  bool operator==(const SampleStart&) const = default;
};

// How large an index is: known before it is built.
struct SampleIndexSize {
  int64_t epochs = 0;           // of the first part
  int64_t appended_epochs = 0;  // after it
  int64_t first_samples = 0;    // of the first part
  int64_t samples = 0;          // of both
  bool separate_last_epoch = false;
  int64_t bytes = 0;  // of memory
};
// For `documents` documents of `tokens` tokens together, an order begun for `samples` samples, and a run that takes
// `wanted` (0: as many). Error naming train.steps: more than the index can count; Error: no tokens.
SampleIndexSize sample_index_size(int64_t tokens, int64_t documents, int64_t sequence, int64_t samples,
                                  int64_t wanted = 0);

// The same of a dataset of so many blocks, whose samples are all appended alike: `first_samples` are those of the
// epochs that `samples` need.
SampleIndexSize block_index_size(int64_t blocks, int64_t samples, int64_t wanted = 0);

// The three arrays of Megatron's index; of a dataset of blocks `documents` alone, of which each is a sample.
struct SampleIndex {
  int64_t epochs = 0;  // all of them
  bool separate_last_epoch = false;
  std::vector<int32_t> documents;   // shuffled document numbers, epochs * (last - first) of them
  std::vector<SampleStart> starts;  // samples + 1 rows
  std::vector<int64_t> order;       // shuffled sample numbers
};
// `samples`: how many the order was begun for; `wanted`: how many there must be now (0: as many). At least that many
// result, each prefix of the order the same for every `wanted`. O(epochs * documents + samples), serial.
// Error: as sample_index_size.
SampleIndex build_sample_index(std::span<const int32_t> lengths, DocumentRange range, int64_t sequence, int64_t samples,
                               uint32_t seed, int64_t wanted = 0);
// The same for blocks: documents `range` of the dataset. Error also when there are none.
SampleIndex build_block_index(DocumentRange range, int64_t samples, uint32_t seed, int64_t wanted = 0);

}  // namespace ridgeline::data

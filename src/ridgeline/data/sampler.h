// Which tokens make sample i: the order of Megatron's GPT dataset, bit for bit, and the windows of an evaluation.
//
// Order: documents repeated for as many epochs as are needed and shuffled (the last epoch alone when less than 80 % of
// it is used); samples of T+1 tokens cut one after the other, each starting on the last token of the one before;
// samples shuffled. All shuffles from one NumPy RandomState(seed). Source: Megatron-LM, gpt_dataset.py.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "ridgeline/data/indexed_dataset.h"

namespace ridgeline::data {

// Documents [first, last) of a dataset.
struct DocumentRange {
  int64_t first = 0, last = 0;
  bool empty() const { return first >= last; }
};

// Train, validation and test documents by Megatron's split string ("969,30,1", "98,2,0", "90/10", "1"): normalised,
// bounds rounded half to even, the surplus taken from all later bounds. Error: not one to three numbers >= 0, or sum 0.
std::array<DocumentRange, 3> split_documents(std::string_view split, int64_t documents);

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

// The three arrays of Megatron's index, from lengths alone (pure; tested against golden vectors).
struct SampleIndex {
  int64_t epochs = 0;
  bool separate_last_epoch = false;
  std::vector<int32_t> documents;   // shuffled document numbers, epochs * (last - first) of them
  std::vector<SampleStart> starts;  // samples + 1 rows
  std::vector<int64_t> order;       // shuffled sample numbers
};
// `samples`: how many are wanted; at least so many result. O(epochs * documents + samples), serial.
// Error: the range holds no tokens, or more documents than the index can count.
SampleIndex build_sample_index(std::span<const int32_t> lengths, DocumentRange range, int64_t sequence, int64_t samples,
                               uint32_t seed);

// Training samples. Immutable: share between threads; sample(i) is a pure function of i, so resuming is O(1).
class GptDataset {
 public:
  struct Settings {
    DocumentRange documents;
    int64_t sequence = 0;  // T
    int64_t samples = 0;   // wanted: steps * global batch
    uint32_t seed = 1234;
    int64_t vocabulary = 0;  // ids must be below: the model's V
  };
  GptDataset(std::shared_ptr<const IndexedDataset> dataset, const Settings& settings);

  // Samples there are, >= settings.samples.
  int64_t size() const { return static_cast<int64_t>(index_.order.size()); }
  int64_t epochs() const { return index_.epochs; }
  // tokens[T+1]: inputs are tokens[0..T), labels tokens[1..T]. Error: an id >= vocabulary, naming its place.
  // Thread-safe; allocates nothing.
  void sample(int64_t i, std::span<int32_t> tokens) const;

 private:
  std::shared_ptr<const IndexedDataset> dataset_;
  Settings settings_;
  SampleIndex index_;
};

constexpr int32_t kIgnoredLabel = -100;

// A split cut into consecutive windows of T predictions: every token of the split but its first is predicted exactly
// once, in order; each window starts on the last token of the one before. The last one is filled up with token 0 and
// ignored labels.
class EvaluationWindows {
 public:
  EvaluationWindows(std::shared_ptr<const IndexedDataset> dataset, DocumentRange documents, int64_t sequence,
                    int64_t vocabulary);

  int64_t size() const { return (predictions_ + sequence_ - 1) / sequence_; }
  // Tokens predicted in all windows: tokens of the split - 1 (0 for an empty split).
  int64_t predictions() const { return predictions_; }
  // tokens[T], labels[T] of window i. i >= size() gives a window of ignored labels, so that ranks can share unevenly.
  // Error: an id >= vocabulary. Thread-safe; allocates nothing.
  void window(int64_t i, std::span<int32_t> tokens, std::span<int32_t> labels) const;

 private:
  std::shared_ptr<const IndexedDataset> dataset_;
  int64_t begin_ = 0, predictions_ = 0, sequence_ = 0, vocabulary_ = 0;
};

}  // namespace ridgeline::data

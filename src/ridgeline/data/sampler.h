// Which tokens make sample i: training samples in the order of sample_index.h, and the windows of an evaluation.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "ridgeline/data/indexed_dataset.h"
#include "ridgeline/data/sample_index.h"
#include "ridgeline/data/split.h"

namespace ridgeline::data {

// How the documents of a sample are kept apart; the words are Megatron-LM's.
struct DocumentRules {
  bool reset_attention_mask = false;  // a token sees its own document only
  bool reset_position_ids = false;    // positions begin with 0 in each document
  bool eod_mask_loss = false;         // what follows a document's last token is not predicted; in training only
};

// Training samples. Immutable: share between threads; sample(i) is a pure function of i, so resuming is O(1).
class GptDataset {
 public:
  struct Settings {
    DocumentRange documents;
    int64_t sequence = 0;  // T
    int64_t samples = 0;   // for which the order was begun: steps * global batch of the run at its beginning
    uint32_t seed = 1234;
    int64_t vocabulary = 0;  // ids must be below: the model's V
    int64_t wanted = 0;      // samples that the run takes by now, where it was made longer; 0: `samples`
    int64_t first = 0;       // the order begins with this sample of the run (those before were of other data)
    DocumentRules rules;     // for whoever makes batches of samples
  };
  GptDataset(std::shared_ptr<const IndexedDataset> dataset, const Settings& settings);

  // Samples [begin(), end()) are there; end() - begin() is at least what is wanted.
  int64_t begin() const { return settings_.first; }
  int64_t end() const { return settings_.first + static_cast<int64_t>(index_.order.size()); }
  int64_t epochs() const { return index_.epochs; }
  const DocumentRules& rules() const { return settings_.rules; }
  // tokens[T+1]: inputs are tokens[0..T), labels tokens[1..T]. Error: an id >= vocabulary, naming its place.
  // Thread-safe; allocates nothing.
  void sample(int64_t i, std::span<int32_t> tokens) const;
  // begins[T+1]: of each of these tokens the place in the sample where its document begins; 0 where that is before the
  // sample. Documents are those of the dataset, whether tokens mark their ends or not. Thread-safe; allocates nothing.
  void document_begins(int64_t i, std::span<int32_t> begins) const;

  // Where the T+1 tokens of a sample lie, in their order.
  struct Part {
    int64_t document = 0;  // of the dataset
    int64_t offset = 0;    // of its first token in the document
    int64_t tokens = 0;
  };
  std::vector<Part> parts(int64_t i) const;
  // The place of sample i before samples were shuffled (an element of Megatron's shuffle index).
  int64_t place(int64_t i) const { return index_.order[static_cast<size_t>(i - settings_.first)]; }

 private:
  template <typename Visit>
  void for_each_part(int64_t i, Visit visit) const;

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
                    int64_t vocabulary, DocumentRules rules = {});

  int64_t size() const { return (predictions_ + sequence_ - 1) / sequence_; }
  // Tokens predicted in all windows: tokens of the split - 1 (0 for an empty split).
  int64_t predictions() const { return predictions_; }
  // tokens[T], labels[T] of window i. i >= size() gives a window of ignored labels, so that ranks can share unevenly.
  // Error: an id >= vocabulary. Thread-safe; allocates nothing.
  void window(int64_t i, std::span<int32_t> tokens, std::span<int32_t> labels) const;
  // begins[T] of the tokens of window i: as GptDataset::document_begins(). What the last one is filled up with belongs
  // to its last document.
  void document_begins(int64_t i, std::span<int32_t> begins) const;
  const DocumentRules& rules() const { return rules_; }

 private:
  std::shared_ptr<const IndexedDataset> dataset_;
  DocumentRange documents_;
  int64_t begin_ = 0, predictions_ = 0, sequence_ = 0, vocabulary_ = 0;
  DocumentRules rules_;
};

}  // namespace ridgeline::data

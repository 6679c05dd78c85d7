// Which tokens make sample i: training samples in the order of sample_index.h and blend.h, and the windows of an
// evaluation.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "ridgeline/data/blend.h"
#include "ridgeline/data/indexed_dataset.h"
#include "ridgeline/data/sample_index.h"
#include "ridgeline/data/split.h"

namespace ridgeline::data {

// A label that nobody has to predict.
constexpr int32_t kIgnoredLabel = -100;

// Documents of a dataset, and their share of a blend.
struct BlendPart {
  std::shared_ptr<const IndexedDataset> dataset;
  DocumentRange documents;
  double weight = 1;  // of all parts together 1
};

// How the documents of a sample are kept apart; the words are Megatron-LM's.
struct DocumentRules {
  bool reset_attention_mask = false;  // a token sees its own document only
  bool reset_position_ids = false;    // positions begin with 0 in each document
  bool eod_mask_loss = false;         // what follows a document's last token is not predicted; in training only
};

// Training samples of one dataset. Immutable: share between threads; sample(i) is a pure function of i, so resuming is
// O(1).
class GptDataset {
 public:
  struct Settings {
    DocumentRange documents;
    int64_t sequence = 0;  // T; of a dataset of blocks their length
    int64_t samples = 0;   // for which the order was begun: steps * global batch of the run at its beginning
    uint32_t seed = 1234;
    int64_t vocabulary = 0;  // ids must be below: the model's V
    int64_t wanted = 0;      // samples that the run takes by now, where it was made longer; 0: `samples`
  };
  GptDataset(std::shared_ptr<const IndexedDataset> dataset, const Settings& settings);

  // Samples [0, end()) are there; at least what is wanted.
  int64_t end() const { return static_cast<int64_t>(blocks() ? index_.documents.size() : index_.order.size()); }
  int64_t epochs() const { return index_.epochs; }
  // tokens[T+1]: inputs are tokens[0..T), labels tokens[1..T]. Of a dataset of blocks the T tokens are one of them, and
  // tokens[T] is kIgnoredLabel: its last token predicts nothing. Error: an id >= vocabulary, naming its place.
  // Thread-safe; allocates nothing.
  void sample(int64_t i, std::span<int32_t> tokens) const;
  // begins[T+1]: of each of these tokens the place in the sample where its document begins; 0 where that is before the
  // sample, and throughout a block. Documents are those of the dataset, whether tokens mark their ends or not.
  // Thread-safe; allocates nothing.
  void document_begins(int64_t i, std::span<int32_t> begins) const;
  // What is predicted in every sample: T, or, of a dataset of blocks, T-1.
  int64_t predictions() const { return settings_.sequence - (blocks() ? 1 : 0); }

  // Where the tokens of a sample lie, in their order: T+1, or the T of a block.
  struct Part {
    int64_t document = 0;  // of the dataset
    int64_t offset = 0;    // of its first token in the document
    int64_t tokens = 0;
  };
  std::vector<Part> parts(int64_t i) const;
  // The place of sample i before samples were shuffled (an element of Megatron's shuffle index); of a dataset of blocks
  // the block's among `documents`.
  int64_t place(int64_t i) const;

 private:
  bool blocks() const { return dataset_->block() > 0; }
  template <typename Visit>
  void for_each_part(int64_t i, Visit visit) const;

  std::shared_ptr<const IndexedDataset> dataset_;
  Settings settings_;
  SampleIndex index_;
};

// How large the order of a dataset's samples is: known before it is built. `documents` must hold tokens.
SampleIndexSize sample_index_size(const IndexedDataset& dataset, DocumentRange documents, int64_t sequence,
                                  int64_t samples, int64_t wanted);

// The training samples of a run: those of one dataset, or of several in Megatron's blend. Immutable, and a pure
// function of i, as they are.
class TrainingSamples {
 public:
  struct Settings {
    int64_t sequence = 0;
    int64_t samples = 0;  // for which the order was begun
    uint32_t seed = 1234;
    int64_t vocabulary = 0;
    int64_t wanted = 0;   // samples that the run takes by now; 0: `samples`
    int64_t first = 0;    // the order begins with this sample of the run (those before were of other data)
    DocumentRules rules;  // for whoever makes batches of samples
  };
  // Each dataset's own order is begun for samples_of_share of the blend's samples; a part alone for all of them.
  TrainingSamples(const std::vector<BlendPart>& parts, const Settings& settings);

  // Samples [begin(), end()) are there; end() - begin() is at least what is wanted.
  int64_t begin() const { return first_; }
  int64_t end() const { return first_ + (draws_.empty() ? datasets_.front().end() : std::ssize(draws_)); }
  size_t datasets() const { return datasets_.size(); }
  const GptDataset& dataset(size_t index) const { return datasets_[index]; }
  const DocumentRules& rules() const { return rules_; }
  // As of the dataset that sample i is of.
  void sample(int64_t i, std::span<int32_t> tokens) const;
  void document_begins(int64_t i, std::span<int32_t> begins) const;
  std::vector<GptDataset::Part> parts(int64_t i) const;
  int64_t place(int64_t i) const;
  // Which one that is.
  size_t dataset_of(int64_t i) const { return draw(i).dataset; }

 private:
  Draw draw(int64_t i) const;

  std::vector<GptDataset> datasets_;
  std::vector<Draw> draws_;  // of one dataset: none
  int64_t first_ = 0;
  DocumentRules rules_;
};

// Samples that the order of part `part` of `parts` is begun for, or must have, in a run that takes `samples`.
int64_t samples_of_part(const std::vector<BlendPart>& parts, size_t part, int64_t samples);

// Documents cut into consecutive windows of T predictions: every token of a part but its first is predicted exactly
// once, in order; each window starts on the last token of the one before. The last one is filled up with token 0 and
// ignored labels. Of a dataset of blocks every block is a window, of T-1 predictions.
//
// Windows of several parts take turns by their weights (blend.h) until each part is used up: so the first ones are a
// sample of the blend, and all of them are all documents.
class EvaluationWindows {
 public:
  EvaluationWindows(std::shared_ptr<const IndexedDataset> dataset, DocumentRange documents, int64_t sequence,
                    int64_t vocabulary, DocumentRules rules = {});
  // Parts without predictions have no windows.
  EvaluationWindows(const std::vector<BlendPart>& parts, int64_t sequence, int64_t vocabulary,
                    DocumentRules rules = {});

  // Tokens predicted in these documents: tokens - 1 (0 for none), or of every block its own - 1.
  static int64_t predictions_of(const IndexedDataset& dataset, DocumentRange documents);

  int64_t size() const { return size_; }
  // Tokens predicted in all windows.
  int64_t predictions() const { return predictions_; }
  // How many parts were given, and which of them window i < size() is of.
  size_t datasets() const { return datasets_; }
  size_t dataset_of(int64_t i) const { return parts_[draw(i).dataset].dataset_number; }
  // tokens[T], labels[T] of window i. i >= size() gives a window of ignored labels, so that ranks can share unevenly.
  // Error: an id >= vocabulary. Thread-safe; allocates nothing.
  void window(int64_t i, std::span<int32_t> tokens, std::span<int32_t> labels) const;
  // begins[T] of the tokens of window i: as GptDataset::document_begins(). What the last one is filled up with belongs
  // to its last document.
  void document_begins(int64_t i, std::span<int32_t> begins) const;
  const DocumentRules& rules() const { return rules_; }

 private:
  struct Part {
    std::shared_ptr<const IndexedDataset> dataset;
    DocumentRange documents;
    int64_t begin = 0, predictions = 0;
    int64_t stride = 0, labels = 0;  // from window to window, and predicted in each
    size_t dataset_number = 0;       // among those given
    int64_t size() const { return (predictions + labels - 1) / labels; }
  };
  Draw draw(int64_t i) const { return draws_.empty() ? draw_of(0, i) : draws_[static_cast<size_t>(i)]; }

  std::vector<Part> parts_;
  std::vector<Draw> draws_;  // of one part: none
  size_t datasets_ = 0;
  int64_t size_ = 0, predictions_ = 0, sequence_ = 0, vocabulary_ = 0;
  DocumentRules rules_;
};

}  // namespace ridgeline::data

#include "ridgeline/data/sampler.h"

#include <algorithm>

#include "ridgeline/base/error.h"

namespace ridgeline::data {

GptDataset::GptDataset(std::shared_ptr<const IndexedDataset> dataset, const Settings& settings)
    : dataset_(std::move(dataset)),
      settings_(settings),
      index_(blocks() ? build_block_index(settings.documents, settings.samples, settings.seed, settings.wanted)
                      : build_sample_index(dataset_->lengths(), settings.documents, settings.sequence, settings.samples,
                                           settings.seed, settings.wanted)) {
  if (blocks()) RL_CHECK(settings_.sequence, ==, dataset_->block());
}

int64_t GptDataset::place(int64_t i) const {
  const auto at = static_cast<size_t>(i);
  return blocks() ? index_.documents[at] - settings_.documents.first : index_.order[at];
}

template <typename Visit>
void GptDataset::for_each_part(int64_t i, Visit visit) const {
  RL_CHECK(i, >=, 0);
  RL_CHECK(i, <, end());
  if (blocks()) return visit(Part{index_.documents[static_cast<size_t>(i)], 0, settings_.sequence});
  SampleStart at = index_.starts[static_cast<size_t>(place(i))];
  for (int64_t left = settings_.sequence + 1; left > 0; at = {at.position + 1, 0}) {
    const int32_t document = index_.documents[at.position];
    const int64_t take = std::min<int64_t>(dataset_->length(document) - static_cast<int64_t>(at.offset), left);
    visit(Part{document, at.offset, take});
    left -= take;
  }
}

void GptDataset::sample(int64_t i, std::span<int32_t> tokens) const {
  RL_CHECK(static_cast<int64_t>(tokens.size()), ==, settings_.sequence + 1);
  if (blocks()) tokens.back() = kIgnoredLabel;
  for_each_part(i, [&](const Part& part) {
    dataset_->read(dataset_->begin(part.document) + part.offset, tokens.first(static_cast<size_t>(part.tokens)),
                   settings_.vocabulary);
    tokens = tokens.subspan(static_cast<size_t>(part.tokens));
  });
}

void GptDataset::document_begins(int64_t i, std::span<int32_t> begins) const {
  RL_CHECK(static_cast<int64_t>(begins.size()), ==, settings_.sequence + 1);
  begins.back() = 0;  // a block has no such token
  int64_t begin = 0;
  for_each_part(i, [&](const Part& part) {
    std::fill_n(begins.begin() + begin, part.tokens, static_cast<int32_t>(begin));
    begin += part.tokens;
  });
}

std::vector<GptDataset::Part> GptDataset::parts(int64_t i) const {
  std::vector<Part> parts;
  for_each_part(i, [&](const Part& part) {
    if (part.tokens > 0) parts.push_back(part);
  });
  return parts;
}

SampleIndexSize sample_index_size(const IndexedDataset& dataset, DocumentRange documents, int64_t sequence,
                                  int64_t samples, int64_t wanted) {
  const int64_t count = documents.last - documents.first;
  if (dataset.block() > 0) return block_index_size(count, samples, wanted);
  return sample_index_size(dataset.begin(documents.last) - dataset.begin(documents.first), count, sequence, samples,
                           wanted);
}

int64_t samples_of_part(const std::vector<BlendPart>& parts, size_t part, int64_t samples) {
  return parts.size() == 1 ? samples : samples_of_share(parts[part].weight, samples);
}

TrainingSamples::TrainingSamples(const std::vector<BlendPart>& parts, const Settings& settings)
    : first_(settings.first), rules_(settings.rules) {
  RL_CHECK(parts.empty(), ==, false);
  std::vector<double> weights;
  for (size_t i = 0; i < parts.size(); ++i) {
    datasets_.emplace_back(parts[i].dataset,
                           GptDataset::Settings{.documents = parts[i].documents,
                                                .sequence = settings.sequence,
                                                .samples = samples_of_part(parts, i, settings.samples),
                                                .seed = settings.seed,
                                                .vocabulary = settings.vocabulary,
                                                .wanted = samples_of_part(parts, i, settings.wanted)});
    weights.push_back(parts[i].weight);
  }
  if (parts.size() > 1) draws_ = blend_order(weights, std::max(settings.samples, settings.wanted));
}

Draw TrainingSamples::draw(int64_t i) const {
  RL_CHECK(i, >=, begin());
  RL_CHECK(i, <, end());
  return draws_.empty() ? draw_of(0, i - first_) : draws_[static_cast<size_t>(i - first_)];
}

void TrainingSamples::sample(int64_t i, std::span<int32_t> tokens) const {
  const Draw at = draw(i);
  datasets_[at.dataset].sample(static_cast<int64_t>(at.sample), tokens);
}

void TrainingSamples::document_begins(int64_t i, std::span<int32_t> begins) const {
  const Draw at = draw(i);
  datasets_[at.dataset].document_begins(static_cast<int64_t>(at.sample), begins);
}

std::vector<GptDataset::Part> TrainingSamples::parts(int64_t i) const {
  const Draw at = draw(i);
  return datasets_[at.dataset].parts(static_cast<int64_t>(at.sample));
}

int64_t TrainingSamples::place(int64_t i) const {
  const Draw at = draw(i);
  return datasets_[at.dataset].place(static_cast<int64_t>(at.sample));
}

int64_t EvaluationWindows::predictions_of(const IndexedDataset& dataset, DocumentRange documents) {
  if (documents.empty()) return 0;
  RL_CHECK(documents.first, >=, 0);
  RL_CHECK(documents.last, <=, dataset.documents());
  if (dataset.block() > 0) return (documents.last - documents.first) * (dataset.block() - 1);
  return std::max<int64_t>(dataset.begin(documents.last) - dataset.begin(documents.first) - 1, 0);
}

EvaluationWindows::EvaluationWindows(std::shared_ptr<const IndexedDataset> dataset, DocumentRange documents,
                                     int64_t sequence, int64_t vocabulary, DocumentRules rules)
    : EvaluationWindows({BlendPart{std::move(dataset), documents, 1}}, sequence, vocabulary, rules) {}

EvaluationWindows::EvaluationWindows(const std::vector<BlendPart>& parts, int64_t sequence, int64_t vocabulary,
                                     DocumentRules rules)
    : datasets_(parts.size()), sequence_(sequence), vocabulary_(vocabulary), rules_(rules) {
  RL_CHECK(sequence, >, 0);
  std::vector<double> weights;
  std::vector<int64_t> sizes;
  for (size_t i = 0; i < parts.size(); ++i) {
    const BlendPart& part = parts[i];
    const int64_t predictions = predictions_of(*part.dataset, part.documents), block = part.dataset->block();
    if (predictions == 0) continue;
    if (block > 0) RL_CHECK(sequence, ==, block);
    parts_.push_back({.dataset = part.dataset,
                      .documents = part.documents,
                      .begin = part.dataset->begin(part.documents.first),
                      .predictions = predictions,
                      .stride = sequence,
                      .labels = block > 0 ? block - 1 : sequence,
                      .dataset_number = i});
    weights.push_back(part.weight);
    sizes.push_back(parts_.back().size());
    size_ += sizes.back();
    predictions_ += predictions;
  }
  if (parts_.size() > 1) draws_ = blend_order(normalized(weights), size_, sizes);
}

void EvaluationWindows::window(int64_t i, std::span<int32_t> tokens, std::span<int32_t> labels) const {
  RL_CHECK(i, >=, 0);
  RL_CHECK(static_cast<int64_t>(tokens.size()), ==, sequence_);
  RL_CHECK(static_cast<int64_t>(labels.size()), ==, sequence_);
  std::ptrdiff_t inputs = 0, predicted = 0;
  if (i < size_) {
    const Draw of = draw(i);
    const auto at = static_cast<int64_t>(of.sample);
    const Part& part = parts_[of.dataset];
    predicted = std::min(part.labels, part.predictions - at * part.labels);
    // The last token of a block is read, though it predicts nothing.
    inputs = part.labels < part.stride ? part.stride : predicted;
    const int64_t first = part.begin + at * part.stride;
    part.dataset->read(first, tokens.first(static_cast<size_t>(inputs)), vocabulary_);
    part.dataset->read(first + 1, labels.first(static_cast<size_t>(predicted)), vocabulary_);
  }
  std::fill(tokens.begin() + inputs, tokens.end(), 0);
  std::fill(labels.begin() + predicted, labels.end(), kIgnoredLabel);
}

void EvaluationWindows::document_begins(int64_t i, std::span<int32_t> begins) const {
  RL_CHECK(i, >=, 0);
  RL_CHECK(static_cast<int64_t>(begins.size()), ==, sequence_);
  std::fill(begins.begin(), begins.end(), 0);
  if (i >= size()) return;
  // The document of the window's first token: the last that begins no later.
  const Draw at = draw(i);
  const Part& part = parts_[at.dataset];
  const int64_t first = part.begin + static_cast<int64_t>(at.sample) * part.stride;
  int64_t low = part.documents.first, high = part.documents.last;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (part.dataset->begin(middle) <= first ? low : high) = middle;
  }
  for (int64_t document = low + 1; document < part.documents.last; ++document) {
    const int64_t begin = part.dataset->begin(document) - first;
    if (begin >= sequence_) break;
    std::fill(begins.begin() + begin, begins.end(), static_cast<int32_t>(begin));
  }
}

}  // namespace ridgeline::data

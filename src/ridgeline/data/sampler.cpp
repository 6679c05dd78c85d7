#include "ridgeline/data/sampler.h"

#include <algorithm>

#include "ridgeline/base/error.h"

namespace ridgeline::data {

GptDataset::GptDataset(std::shared_ptr<const IndexedDataset> dataset, const Settings& settings)
    : dataset_(std::move(dataset)),
      settings_(settings),
      index_(build_sample_index(dataset_->lengths(), settings.documents, settings.sequence, settings.samples,
                                settings.seed, settings.wanted)) {}

template <typename Visit>
void GptDataset::for_each_part(int64_t i, Visit visit) const {
  RL_CHECK(i, >=, begin());
  RL_CHECK(i, <, end());
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
  for_each_part(i, [&](const Part& part) {
    dataset_->read(dataset_->begin(part.document) + part.offset, tokens.first(static_cast<size_t>(part.tokens)),
                   settings_.vocabulary);
    tokens = tokens.subspan(static_cast<size_t>(part.tokens));
  });
}

void GptDataset::document_begins(int64_t i, std::span<int32_t> begins) const {
  RL_CHECK(static_cast<int64_t>(begins.size()), ==, settings_.sequence + 1);
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

EvaluationWindows::EvaluationWindows(std::shared_ptr<const IndexedDataset> dataset, DocumentRange documents,
                                     int64_t sequence, int64_t vocabulary, DocumentRules rules)
    : dataset_(std::move(dataset)), documents_(documents), sequence_(sequence), vocabulary_(vocabulary), rules_(rules) {
  RL_CHECK(sequence, >, 0);
  if (documents.empty()) return;
  RL_CHECK(documents.first, >=, 0);
  RL_CHECK(documents.last, <=, dataset_->documents());
  begin_ = dataset_->begin(documents.first);
  predictions_ = std::max<int64_t>(dataset_->begin(documents.last) - begin_ - 1, 0);
}

void EvaluationWindows::window(int64_t i, std::span<int32_t> tokens, std::span<int32_t> labels) const {
  RL_CHECK(i, >=, 0);
  RL_CHECK(static_cast<int64_t>(tokens.size()), ==, sequence_);
  RL_CHECK(static_cast<int64_t>(labels.size()), ==, sequence_);
  const auto count = static_cast<size_t>(i < size() ? std::min(sequence_, predictions_ - i * sequence_) : 0);
  dataset_->read(begin_ + (count == 0 ? 0 : i * sequence_), tokens.first(count), vocabulary_);
  dataset_->read(begin_ + (count == 0 ? 0 : i * sequence_ + 1), labels.first(count), vocabulary_);
  std::fill(tokens.begin() + static_cast<std::ptrdiff_t>(count), tokens.end(), 0);
  std::fill(labels.begin() + static_cast<std::ptrdiff_t>(count), labels.end(), kIgnoredLabel);
}

void EvaluationWindows::document_begins(int64_t i, std::span<int32_t> begins) const {
  RL_CHECK(i, >=, 0);
  RL_CHECK(static_cast<int64_t>(begins.size()), ==, sequence_);
  std::fill(begins.begin(), begins.end(), 0);
  if (i >= size()) return;
  // The document of the window's first token: the last that begins no later.
  const int64_t first = begin_ + i * sequence_;
  int64_t low = documents_.first, high = documents_.last;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (dataset_->begin(middle) <= first ? low : high) = middle;
  }
  for (int64_t document = low + 1; document < documents_.last; ++document) {
    const int64_t begin = dataset_->begin(document) - first;
    if (begin >= sequence_) break;
    std::fill(begins.begin() + begin, begins.end(), static_cast<int32_t>(begin));
  }
}

}  // namespace ridgeline::data

#include "ridgeline/data/bigram.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>

#include "ridgeline/base/count.h"
#include "ridgeline/base/error.h"

namespace ridgeline::data {
namespace {

std::vector<int32_t> tokens_of(const IndexedDataset& dataset, int64_t begin, int64_t end, int64_t vocabulary) {
  std::vector<int32_t> tokens(static_cast<size_t>(std::max<int64_t>(end - begin, 0)));
  dataset.read(begin, tokens, vocabulary);
  return tokens;
}

}  // namespace

BigramModel::Counts::Counts(std::span<const int32_t> tokens, int64_t vocabulary)
    : unigram(static_cast<size_t>(vocabulary)),
      before(static_cast<size_t>(vocabulary)),
      row(static_cast<size_t>(vocabulary) + 1),
      total(static_cast<int64_t>(tokens.size())) {
  for (const int32_t token : tokens) ++unigram[static_cast<size_t>(token)];
  std::vector<uint64_t> keys;
  keys.reserve(tokens.size());
  for (size_t i = 1; i < tokens.size(); ++i) {
    keys.push_back(static_cast<uint64_t>(tokens[i - 1]) << 32 | static_cast<uint64_t>(tokens[i]));
    ++before[static_cast<size_t>(tokens[i - 1])];
  }
  std::sort(keys.begin(), keys.end());
  for (size_t i = 0; i < keys.size();) {
    size_t end = i + 1;
    while (end < keys.size() && keys[end] == keys[i]) ++end;
    next.push_back(static_cast<int32_t>(keys[i] & 0xFFFFFFFFU));
    pair.push_back(static_cast<int64_t>(end - i));
    ++row[(keys[i] >> 32) + 1];
    i = end;
  }
  for (size_t i = 1; i < row.size(); ++i) row[i] += row[i - 1];
}

int64_t BigramModel::Counts::of_pair(int32_t previous, int32_t following) const {
  const auto begin = next.begin() + row[static_cast<size_t>(previous)];
  const auto end = next.begin() + row[static_cast<size_t>(previous) + 1];
  const auto found = std::lower_bound(begin, end, following);
  return found == end || *found != following ? 0 : pair[static_cast<size_t>(found - next.begin())];
}

BigramModel::Weights BigramModel::terms(int32_t previous, int32_t next) const {
  const int64_t seen = counts_.before[static_cast<size_t>(previous)];
  const double unigram =
      static_cast<double>(counts_.unigram[static_cast<size_t>(next)]) / static_cast<double>(counts_.total);
  // A token never seen leaves the bigram nothing to say: it repeats the unigram, so that all still sums to one.
  const double bigram =
      seen == 0 ? unigram : static_cast<double>(counts_.of_pair(previous, next)) / static_cast<double>(seen);
  return {bigram, unigram, 1.0 / static_cast<double>(vocabulary_)};
}

size_t BigramModel::bucket(int32_t previous) const {
  return static_cast<size_t>(std::bit_width(static_cast<uint64_t>(counts_.before[static_cast<size_t>(previous)]))) %
         kBuckets;
}

double BigramModel::probability(int32_t previous, int32_t next) const {
  const Weights p = terms(previous, next);
  const Weights& w = weights_[bucket(previous)];
  return w[0] * p[0] + w[1] * p[1] + w[2] * p[2];
}

void BigramModel::fit_weights(std::span<const int32_t> held_out) {
  constexpr int kIterations = 25;
  // Buckets seen less often than this share one set of weights.
  constexpr int64_t kEnough = 200;
  std::array<int64_t, kBuckets> events{};
  for (size_t i = 1; i < held_out.size(); ++i) ++events[bucket(held_out[i - 1])];
  const auto slot = [&](int32_t previous) {
    const size_t b = bucket(previous);
    return events[b] >= kEnough ? b : kBuckets - 1;
  };
  std::vector<std::pair<size_t, Weights>> cases;
  for (size_t i = 1; i < held_out.size(); ++i) {
    cases.emplace_back(slot(held_out[i - 1]), terms(held_out[i - 1], held_out[i]));
  }
  weights_.fill({0.6, 0.3, 0.1});
  for (int iteration = 0; iteration < kIterations; ++iteration) {
    // The pseudo-counts keep every weight above zero: a token never seen in training must not cost infinitely much.
    std::array<Weights, kBuckets> share{};
    for (Weights& s : share) s = {1e-3, 1e-3, 1e-3};
    for (const auto& [b, p] : cases) {
      const Weights& w = weights_[b];
      const double sum = w[0] * p[0] + w[1] * p[1] + w[2] * p[2];
      for (size_t k = 0; k < 3; ++k) share[b][k] += w[k] * p[k] / sum;
    }
    for (size_t b = 0; b < kBuckets; ++b) {
      const double sum = share[b][0] + share[b][1] + share[b][2];
      if (sum < 1) continue;
      for (size_t k = 0; k < 3; ++k) weights_[b][k] = share[b][k] / sum;
    }
  }
  for (size_t b = 0; b + 1 < kBuckets; ++b) {
    if (events[b] < kEnough) weights_[b] = weights_[kBuckets - 1];
  }
}

BigramModel BigramModel::fit(const IndexedDataset& dataset, DocumentRange documents, int64_t vocabulary,
                             int64_t most_tokens) {
  const int64_t end = documents.empty() ? 0 : dataset.begin(documents.last);
  const int64_t begin = documents.empty() ? 0 : std::max(dataset.begin(documents.first), end - most_tokens);
  if (end - begin < 100) {
    throw Error(fmt::format("'{}': {} too few to fit a bigram model", dataset.prefix().string(),
                            format_counted(end - begin, "token is", "tokens are")),
                "Give the training split a larger share, or prepare more text.");
  }
  const std::vector<int32_t> tokens = tokens_of(dataset, begin, end, vocabulary);
  const std::span<const int32_t> all(tokens);
  const size_t held_out = std::max<size_t>(all.size() / 20, 20);
  BigramModel fitted(Counts(all.first(all.size() - held_out), vocabulary), vocabulary);
  fitted.fit_weights(all.last(held_out));
  // With the weights known, the held-out tokens may count as well.
  fitted.counts_ = Counts(all, vocabulary);
  return fitted;
}

BigramModel::Loss BigramModel::evaluate(const IndexedDataset& dataset, DocumentRange documents) const {
  Loss loss;
  if (documents.empty()) return loss;
  const int64_t begin = dataset.begin(documents.first), end = dataset.begin(documents.last);
  constexpr int64_t kPart = 1 << 16;
  for (int64_t at = begin; at + 1 < end; at += kPart) {
    const std::vector<int32_t> part = tokens_of(dataset, at, std::min(at + kPart + 1, end), vocabulary_);
    for (size_t i = 1; i < part.size(); ++i) loss.nats -= std::log(probability(part[i - 1], part[i]));
    loss.tokens += static_cast<int64_t>(part.size()) - 1;
  }
  return loss;
}

double bits_per_byte(double nats, int64_t bytes) {
  return nats / std::numbers::ln2 / static_cast<double>(bytes);
}

}  // namespace ridgeline::data

// The interpolated bigram language model: what a network must beat to have learnt more than word pairs.
//
//   p(w | v) = a_b c(v,w)/c(v) + b_b c(w)/N + (1 - a_b - b_b)/V,   b = bucket of c(v) (its bit width)
//
// with counts c from the training split and weights fitted by expectation maximisation on its last tokens, held out
// from the counts while fitting. Source: Jelinek and Mercer, "Interpolated estimation of Markov source parameters from
// sparse data", 1980.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "ridgeline/data/indexed_dataset.h"
#include "ridgeline/data/sampler.h"

namespace ridgeline::data {

class BigramModel {
 public:
  // From the tokens of `documents` (the last `most_tokens` of them: 24 bytes of memory each while fitting).
  // Error: fewer than 100 tokens, or ids >= vocabulary.
  static BigramModel fit(const IndexedDataset& dataset, DocumentRange documents, int64_t vocabulary,
                         int64_t most_tokens = int64_t{100} << 20);

  // p(next | previous); the sum over `next` is 1.
  double probability(int32_t previous, int32_t next) const;

  struct Loss {
    double nats = 0;     // summed
    int64_t tokens = 0;  // predicted
    double nats_per_token() const { return nats / static_cast<double>(tokens); }
  };
  // Over every token of `documents` but the first, each given the one before: the predictions of EvaluationWindows.
  Loss evaluate(const IndexedDataset& dataset, DocumentRange documents) const;

 private:
  // Counts of a token stream: for each token its successors, sorted.
  struct Counts {
    Counts(std::span<const int32_t> tokens, int64_t vocabulary);
    int64_t of_pair(int32_t previous, int32_t next) const;
    std::vector<int64_t> unigram;  // [V]
    std::vector<int64_t> before;   // [V] times seen with a successor
    std::vector<int64_t> row;      // [V + 1] into next and pair
    std::vector<int32_t> next;
    std::vector<int64_t> pair;
    int64_t total = 0;
  };
  static constexpr size_t kBuckets = 64;
  using Weights = std::array<double, 3>;  // of bigram, unigram, uniform

  BigramModel(Counts counts, int64_t vocabulary) : counts_(std::move(counts)), vocabulary_(vocabulary) {}
  Weights terms(int32_t previous, int32_t next) const;
  size_t bucket(int32_t previous) const;
  void fit_weights(std::span<const int32_t> held_out);

  Counts counts_;
  int64_t vocabulary_;
  std::array<Weights, kBuckets> weights_{};
};

// nats / ln 2 / bytes.
double bits_per_byte(double nats, int64_t bytes);

}  // namespace ridgeline::data

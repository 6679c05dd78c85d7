// Blends of datasets: of which one sample i of a run is. Pure.
//
// At every sample the dataset is taken that is most behind its weight: the d for which weight[d] * max(i, 1) - (samples
// taken of d before) is greatest, the first one of several. So what is taken of a dataset is never a whole sample more
// than its weight times the samples of all; with two datasets never a whole one less either, with D of them less than
// D - 1 less. The order does not depend on how long the run is. Source: Megatron-LM, build_blending_indices in
// core/datasets/helpers.cpp.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace ridgeline::data {

// Sample `sample` of dataset `dataset`.
struct Draw {
  uint64_t dataset : 16;
  uint64_t sample : 48;
  bool operator==(const Draw&) const = default;
};
static_assert(sizeof(Draw) == sizeof(uint64_t));
constexpr int64_t kMostDatasets = int64_t{1} << 16;
constexpr Draw draw_of(size_t dataset, int64_t sample) {
  return {.dataset = static_cast<uint16_t>(dataset),
          .sample = static_cast<uint64_t>(sample) & ((uint64_t{1} << 48) - 1)};
}

// The same shares, with a sum of 1. Weights must be above 0 and finite, and so their sum.
std::vector<double> normalized(std::span<const double> weights);

// The first `samples` draws by normalized weights. `limits` (may be empty: none): how many samples each dataset has;
// one that is used up is passed over, and the result is shorter when all are. O(samples x datasets).
std::vector<Draw> blend_order(std::span<const double> weights, int64_t samples, std::span<const int64_t> limits = {});

// For how many samples the order of one dataset of a blend is made, for a blend of `samples`: Megatron's 0.5 % more
// than its share. Never fewer than blend_order takes.
int64_t samples_of_share(double weight, int64_t samples);

}  // namespace ridgeline::data

#include "ridgeline/data/blend.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "ridgeline/base/error.h"

namespace ridgeline::data {

std::vector<double> normalized(std::span<const double> weights) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<double> result;
  for (const double weight : weights) {
    RL_REQUIRE(weight > 0 && std::isfinite(sum), "weight {} of a sum of {}", weight, sum);
    result.push_back(weight / sum);
  }
  return result;
}

std::vector<Draw> blend_order(std::span<const double> weights, int64_t samples, std::span<const int64_t> limits) {
  RL_CHECK(static_cast<int64_t>(weights.size()), <=, kMostDatasets);
  RL_CHECK(limits.empty() || limits.size() == weights.size(), ==, true);
  std::vector<int64_t> taken(weights.size());
  if (!limits.empty()) samples = std::min(samples, std::accumulate(limits.begin(), limits.end(), int64_t{0}));
  std::vector<Draw> order;
  order.reserve(static_cast<size_t>(samples));
  for (int64_t i = 0; i < samples; ++i) {
    const auto so_far = static_cast<double>(std::max<int64_t>(i, 1));
    size_t most_behind = weights.size();
    double most = -std::numeric_limits<double>::infinity();
    for (size_t d = 0; d < weights.size(); ++d) {
      if (!limits.empty() && taken[d] == limits[d]) continue;
      const double behind = weights[d] * so_far - static_cast<double>(taken[d]);
      if (behind > most) {
        most = behind;
        most_behind = d;
      }
    }
    order.push_back(draw_of(most_behind, taken[most_behind]++));
  }
  return order;
}

int64_t samples_of_share(double weight, int64_t samples) {
  return static_cast<int64_t>(std::ceil(static_cast<double>(samples) * weight * 1.005));
}

}  // namespace ridgeline::data

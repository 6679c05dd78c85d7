// What stands around the blocks, compared with its formula in double precision for every combination of options:
// embedding (position table or none) and loss (norm, tied or own head, its bias).
#include "ridgeline/model/transformer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>

#include "block_formula.h"
#include "combinations.h"
#include "ridgeline/base/random.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/device/stream.h"
#include "ridgeline/model/operators.h"
#include "ridgeline/ops/cross_entropy.h"

namespace ridgeline::model {
namespace {

constexpr int64_t kEndsBatch = 2, kEndsSequence = 7, kEndsTokens = kEndsBatch * kEndsSequence;
constexpr float kScale = 0.25F;

std::vector<float> random_values(int64_t count, uint64_t key, float mean, float deviation) {
  std::vector<float> values(static_cast<size_t>(count));
  fill_normal(values.data(), count, key, 0, mean, deviation);
  return values;
}

using Memory = std::unique_ptr<void, void (*)(void*)>;
template <typename Carve>
Memory memory_of(Carve&& carve) {
  Carver counter(nullptr);
  carve(counter);
  return {std::aligned_alloc(64, static_cast<size_t>(counter.used() + 64) / 64 * 64), std::free};
}

// A model without its blocks, with random weights, tokens and labels.
struct Ends {
  explicit Ends(const TransformerConfig& of) : config(of), units(declare(of)), index(unit_index(of)) {
    for (const Segment& unit : units) {
      std::vector<float>& values = segments.emplace_back(static_cast<size_t>(unit.count));
      gradients.emplace_back(values.size());
      for (const Tensor& tensor : unit.tensors) {
        const bool norm = tensor.name == "final_norm.weight";
        fill_normal(values.data() + tensor.offset, tensor.count(), hash_name(tensor.name), 0, norm ? 1.0F : 0.0F, 0.3F);
      }
    }
    const std::vector<float> draws = random_values(2 * kEndsTokens, 3, 0.0F, 1000.0F);
    for (int64_t n = 0; n < kEndsTokens; ++n) {
      const auto word = [&](float draw) {
        return static_cast<int32_t>(std::fabs(draw)) % static_cast<int32_t>(config.vocab);
      };
      tokens.push_back(word(draws[n]));
      labels.push_back(n % 5 == 3 ? ops::kIgnoredLabel : word(draws[kEndsTokens + n]));
      positions.push_back(static_cast<int32_t>(n % kEndsSequence));
    }
  }

  Batch batch() const { return {.inputs = tokens.data(), .labels = labels.data(), .positions = positions.data()}; }
  PlacedSegments<ConstRef> weights() const {
    PlacedSegments<ConstRef> placed;
    for (size_t i = 0; i < units.size(); ++i) placed.push_back({&units[i], ConstRef(segments[i].data())});
    return placed;
  }
  PlacedSegments<float*> gradients_of() {
    PlacedSegments<float*> placed;
    for (size_t i = 0; i < units.size(); ++i) placed.push_back({&units[i], gradients[i].data()});
    return placed;
  }
  const double* in_double(const std::vector<Doubles>& values, int unit, const char* tensor) const {
    if (unit < 0) return nullptr;
    const Tensor* const found = units[static_cast<size_t>(unit)].find(tensor);
    return found == nullptr ? nullptr : values[static_cast<size_t>(unit)].data() + found->offset;
  }

  // sum_n scale loss_n, with loss_n = ln sum_v exp(logit_v) - logit_label, logits = W norm(x) + b.
  double loss_formula(const std::vector<Doubles>& values, const Doubles& input) const {
    const double* const weight = config.tied ? in_double(values, index.vocabulary, "embedding.weight")
                                             : in_double(values, index.head, "head.weight");
    const double* const bias = config.head_bias ? in_double(values, index.head, "head.bias") : nullptr;
    double total = 0.0;
    for (int64_t n = 0; n < kEndsTokens; ++n) {
      if (labels[n] == ops::kIgnoredLabel) continue;
      const Doubles x(input.begin() + n * config.width, input.begin() + (n + 1) * config.width);
      const Doubles normed = norm_formula(config, x, in_double(values, index.final_norm, "final_norm.weight"),
                                          in_double(values, index.final_norm, "final_norm.bias"));
      double sum = 0.0, of_label = 0.0;
      for (int64_t v = 0; v < config.vocab; ++v) {
        double logit = bias == nullptr ? 0.0 : bias[v];
        for (int64_t i = 0; i < config.width; ++i) logit += weight[v * config.width + i] * normed[i];
        sum += std::exp(logit);
        if (v == labels[n]) of_label = logit;
      }
      total += static_cast<double>(kScale) * (std::log(sum) - of_label);
    }
    return total;
  }

  TransformerConfig config;
  std::vector<Segment> units;
  UnitIndex index;
  std::vector<std::vector<float>> segments, gradients;
  std::vector<int32_t> tokens, labels, positions;
};

TEST(Embedding, IsItsFormulaForwardAndBackward) {
  for (const TransformerConfig& config : option_combinations()) {
    Ends ends(config);
    device::WorkerTeam team(2);
    device::Stream stream(team);
    const BatchShape shape{.batch = kEndsBatch, .sequence = kEndsSequence, .team_size = 2};
    const int64_t c = config.width;
    std::vector<float> output(static_cast<size_t>(kEndsTokens * c)), dy = random_values(kEndsTokens * c, 8, 0.0F, 1.0F);
    const Batch batch = ends.batch();
    const StepRandom random;
    Operators forward(stream, {});
    embedding_forward(forward, {config, shape}, batch, random, embedding_weights(ends.weights()), output.data(), {});
    const std::vector<float> kept = dy;
    const auto carve = [&](Carver& carver) { return carve_embedding_scratch(carver, {config, shape}, true); };
    const Memory memory = memory_of(carve);
    Carver carver(memory.get());
    const EmbeddingScratch scratch = carve(carver);
    Operators backward(stream, scratch.workspace);
    embedding_backward(backward, {config, shape}, batch, random, dy.data(), embedding_gradients(ends.gradients_of()),
                       scratch);
    const bool table = config.positions == Positions::learned;
    const float* const words = ends.segments[ends.index.vocabulary].data();
    const float* const rows = table ? ends.segments[ends.index.positions].data() : nullptr;
    Doubles dwords(static_cast<size_t>(config.vocab * c)), drows(static_cast<size_t>(config.context * c));
    for (int64_t n = 0; n < kEndsTokens; ++n) {
      for (int64_t i = 0; i < c; ++i) {
        const int64_t word = ends.tokens[n] * c + i, row = ends.positions[n] * c + i;
        ASSERT_EQ(output[n * c + i], words[word] + (table ? rows[row] : 0.0F)) << described(config);
        dwords[word] += static_cast<double>(kept[n * c + i]);
        drows[row] += static_cast<double>(kept[n * c + i]);
      }
    }
    // Sums of at most 14 values of magnitude 1.
    for (size_t i = 0; i < dwords.size(); ++i)
      ASSERT_NEAR(ends.gradients[ends.index.vocabulary][i], dwords[i], 2e-6) << described(config);
    for (size_t i = 0; table && i < drows.size(); ++i)
      ASSERT_NEAR(ends.gradients[ends.index.positions][i], drows[i], 2e-6) << described(config);
  }
}

TEST(Loss, IsItsFormulaAndItsGradientTheDerivative) {
  for (TransformerConfig config : option_combinations()) {
    config.norm_epsilon = 0.01F;  // large enough to be seen
    Ends ends(config);
    device::WorkerTeam team(1);
    device::Stream stream(team);
    const BatchShape shape{.batch = kEndsBatch, .sequence = kEndsSequence, .head_chunk = 5, .team_size = 1};
    const std::vector<float> input = random_values(kEndsTokens * config.width, 8, 0.1F, 1.0F);
    std::vector<float> gradient(input.size()), losses(static_cast<size_t>(kEndsTokens));
    const auto carve = [&](Carver& carver) { return carve_loss_scratch(carver, {config, shape}, true); };
    const Memory memory = memory_of(carve);
    Carver carver(memory.get());
    const LossScratch scratch = carve(carver);
    Operators operators(stream, scratch.workspace);
    loss(operators, {config, shape}, ends.batch(), head_weights(config, ends.weights()), input.data(), kScale,
         gradient.data(), head_gradients(config, ends.gradients_of()), losses.data(), scratch);

    std::vector<Doubles> values;
    for (const std::vector<float>& segment : ends.segments) values.emplace_back(segment.begin(), segment.end());
    Doubles x(input.begin(), input.end());
    double sum = 0.0;
    for (const float one : losses) sum += static_cast<double>(one * kScale);
    EXPECT_NEAR(sum, ends.loss_formula(values, x), 2e-5) << described(config);

    // Along a random direction, as the gradients of a block.
    const auto check = [&](Doubles& place, const std::vector<float>& computed, const std::string& what) {
      const auto count = static_cast<int64_t>(place.size());
      const std::vector<float> direction = random_values(count, 9, 0.0F, 1.0F);
      const Doubles start = place;
      const double step = 1e-4 / std::sqrt(static_cast<double>(count));
      const auto moved = [&](double by) {
        for (size_t i = 0; i < place.size(); ++i) place[i] = start[i] + by * static_cast<double>(direction[i]);
        return ends.loss_formula(values, x);
      };
      const double quotient = (moved(step) - moved(-step)) / (2 * step);
      place = start;
      double along = 0.0, norm = 0.0;
      for (size_t i = 0; i < place.size(); ++i) {
        along += static_cast<double>(computed[i] * direction[i]);
        norm += static_cast<double>(computed[i] * computed[i]);
      }
      EXPECT_NEAR(quotient, along, 2e-5 * std::sqrt(norm) + 1e-6) << what << " of " << described(config);
    };
    check(x, gradient, "input");
    for (const int unit : units_of_element(config, static_cast<int>(config.layers)))
      check(values[static_cast<size_t>(unit)], ends.gradients[static_cast<size_t>(unit)], ends.units[unit].name);
  }
}

}  // namespace
}  // namespace ridgeline::model

#include "ridgeline/train/generator.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <mutex>
#include <numeric>

#include "ridgeline/base/error.h"
#include "ridgeline/base/random.h"
#include "ridgeline/model/operators.h"
#include "ridgeline/ops/elementwise.h"

namespace ridgeline::train {
namespace {

// Tokens fed in one pass: long prompts go in pieces, so that the scratch stays small.
constexpr int64_t kPiece = 256;
// Keys and values have room for a multiple of these; it doubles whenever it is used up.
constexpr int64_t kRoom = 256;

}  // namespace

void check(const Sampling& sampling) {
  // Also false for NaN.
  if (!(sampling.temperature >= 0.0 && std::isfinite(sampling.temperature))) {
    throw Error(fmt::format("temperature = {}: must be a finite number of at least 0", sampling.temperature),
                "0 takes the most likely token, 1 draws as the model says.");
  }
  if (!(sampling.top_p >= 0.0 && sampling.top_p <= 1.0)) {
    throw Error(fmt::format("top-p = {}: must lie between 0 and 1", sampling.top_p), "1 draws from all tokens.");
  }
  if (sampling.top_k < 0) {
    throw Error(fmt::format("top-k = {}: must be at least 0", sampling.top_k), "0 draws from all tokens.");
  }
}

int32_t sample_token(std::span<const float> logits, const Sampling& sampling, uint64_t draw) {
  const auto count = static_cast<int64_t>(logits.size());
  if (sampling.temperature <= 0.0) {
    return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto more_likely = [&](int32_t a, int32_t b) {
    const float la = logits[static_cast<size_t>(a)], lb = logits[static_cast<size_t>(b)];
    return la > lb || (la == lb && a < b);
  };
  int64_t kept = sampling.top_k > 0 ? std::min(sampling.top_k, count) : count;
  if (kept < count || sampling.top_p < 1.0) {
    std::partial_sort(order.begin(), order.begin() + kept, order.end(), more_likely);
  }
  const float highest = *std::max_element(logits.begin(), logits.end());
  std::vector<double> weights(static_cast<size_t>(kept));
  double total = 0;
  for (int64_t i = 0; i < kept; ++i) {
    weights[static_cast<size_t>(i)] =
        std::exp((static_cast<double>(logits[static_cast<size_t>(order[static_cast<size_t>(i)])]) -
                  static_cast<double>(highest)) /
                 sampling.temperature);
    total += weights[static_cast<size_t>(i)];
  }
  if (sampling.top_p < 1.0) {
    double sum = 0;
    int64_t last = 0;
    while (last < kept && sum < sampling.top_p * total) sum += weights[static_cast<size_t>(last++)];
    kept = std::max<int64_t>(last, 1);
    total = sum > 0 ? sum : weights[0];
  }
  const Philox4 bits = philox(random_key(sampling.seed, draw, Purpose::sampling), {0, 0, 0, 0});
  const double target = (static_cast<double>(bits[0]) + 0.5) * 0x1p-32 * total;
  double sum = 0;
  for (int64_t i = 0; i < kept; ++i) {
    sum += weights[static_cast<size_t>(i)];
    if (sum >= target) return order[static_cast<size_t>(i)];
  }
  return order[static_cast<size_t>(kept - 1)];
}

Generator::Generator(const ModelSource& source, DType dtype, int threads, int64_t limit)
    : config_(source.config()),
      dtype_(dtype),
      team_(threads),
      stream_(team_),
      segments_(model::declare(config_)),
      limit_(limit > 0 ? std::min(limit, config_.context) : config_.context),
      logits_(static_cast<size_t>(config_.vocab)) {
  model::Carver counter(nullptr);
  carve_weights(counter);
  weights_memory_ = std::make_unique<device::Arena>(counter.used(), &team_);
  model::Carver carver(weights_memory_->data());
  carve_weights(carver);
  const model::ElementSegments elements(config_, nullptr);
  const auto weights = [&](int element) {
    model::PlacedSegments<ConstRef> placed;
    for (const int segment : elements.of(element)) {
      const auto at = static_cast<size_t>(segment);
      placed.push_back({&segments_[at], weights_[at]});
    }
    return placed;
  };
  embedding_weights_ = model::embedding_weights(weights(-1));
  head_weights_ = model::head_weights(config_, weights(elements.last()));
  for (int layer = 0; layer < elements.last(); ++layer) block_weights_.push_back(model::block_weights(weights(layer)));
  load(source);
}

Generator::~Generator() = default;

void Generator::load(const ModelSource& source) {
  for (size_t i = 0; i < segments_.size(); ++i) {
    for (const model::Tensor& tensor : segments_[i].tensors) {
      std::mutex mutex;
      std::exception_ptr failure;
      team_.parallel_for(tensor.count(), 1 << 16, [&](int64_t first, int64_t last) {
        try {
          source.read(tensor.name, tensor.shape, first, last - first, weights_[i].at(tensor.offset + first));
        } catch (...) {
          const std::lock_guard lock(mutex);
          failure = std::current_exception();
        }
      });
      if (failure) std::rethrow_exception(failure);
    }
  }
}

void Generator::carve_weights(model::Carver& carver) {
  weights_.clear();
  for (const model::Segment& segment : segments_) weights_.push_back(carver.take("weights", segment.count, dtype_));
}

// For `capacity_` tokens.
void Generator::carve_sequence(model::Carver& carver) {
  caches_.clear();
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    caches_.push_back(carver.take("keys and values", capacity_ * 2 * config_.kv_heads * config_.head_width(), dtype_));
  }
  const int64_t piece = std::min(kPiece, capacity_);
  hidden_ = carver.take("hidden", piece * config_.width, dtype_);
  inputs_ = carver.take("tokens", piece, DType::i32).as<int32_t>();
  positions_ = carver.take("positions", piece, DType::i32).as<int32_t>();
  rotary_ = carver.floats("rotary positions", model::rotary_table_floats(config_, capacity_));
  scratch_ = model::carve_cached_scratch(carver, config_, dtype_, piece, capacity_, team_.size());
  const model::BatchShape one{.batch = 1, .sequence = 1, .dtype = dtype_, .head_chunk = 1, .team_size = team_.size()};
  head_ = model::carve_loss_scratch(carver, config_, one, false);
}

// Room for `tokens` in all; what was fed stays.
void Generator::reserve(int64_t tokens) {
  if (tokens > limit_) {
    throw Error(fmt::format("{} tokens are more than {} of {}", tokens,
                            limit_ == config_.context ? "the model's context" : "the agreed limit", limit_),
                "Use a shorter prompt or generate fewer tokens.");
  }
  if (tokens <= capacity_) return;
  const std::vector<Ref> old = caches_;
  const std::unique_ptr<device::Arena> old_memory = std::move(sequence_memory_);
  capacity_ = std::min(limit_, std::max((tokens + kRoom - 1) / kRoom * kRoom, 2 * capacity_));
  model::Carver counter(nullptr);
  carve_sequence(counter);
  sequence_memory_ = std::make_unique<device::Arena>(counter.used(), &team_);
  model::Carver carver(sequence_memory_->data());
  carve_sequence(carver);
  model::fill_rotary_table(config_, capacity_, rotary_);
  if (old.empty()) return;
  const int64_t kept = position_ * 2 * config_.kv_heads * config_.head_width();
  for (size_t layer = 0; layer < old.size(); ++layer) ops::cast(stream_, kept, old[layer], caches_[layer]);
}

// `n` tokens behind position_ through the embedding and all blocks; `after(element)` follows each: -1, 0 … L - 1.
template <typename F>
void Generator::forward(int64_t n, F&& after) {
  const model::Batch batch{.inputs = inputs_, .positions = positions_, .rotary = rotary_};
  const model::BatchShape shape{.batch = 1, .sequence = n, .dtype = dtype_, .team_size = team_.size()};
  const model::StepRandom random;
  model::Operators operators(stream_, scratch_.workspace);
  model::embedding_forward(stream_, config_, shape, batch, random, embedding_weights_, hidden_);
  after(-1);
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    const size_t l = static_cast<size_t>(layer);
    model::block_cached(operators, {config_, shape}, {static_cast<int>(layer), batch, random}, position_,
                        block_weights_[l], caches_[l], hidden_, scratch_);
    after(layer);
  }
}

std::span<const float> Generator::feed(std::span<const int32_t> tokens) {
  RL_REQUIRE(!tokens.empty(), "feed() needs a token");
  reserve(position_ + static_cast<int64_t>(tokens.size()));
  int64_t n = 0;
  for (size_t first = 0; first < tokens.size(); first += static_cast<size_t>(n)) {
    n = std::min<int64_t>(static_cast<int64_t>(tokens.size() - first), std::min(kPiece, capacity_));
    for (int64_t i = 0; i < n; ++i) {
      const int32_t id = tokens[first + static_cast<size_t>(i)];
      if (id < 0 || id >= config_.vocab)
        throw Error(fmt::format("token {} is outside the model's vocabulary of {}", id, config_.vocab));
      inputs_[i] = id;
      positions_[i] = static_cast<int32_t>(position_ + i);
    }
    forward(n, [](int64_t) {});
    if (ops::first_non_finite(stream_, n * config_.width, hidden_) >= 0) fail_non_finite(n);
    position_ += n;
  }
  model::head_forward(stream_, config_, 1, head_weights_, hidden_.at((n - 1) * config_.width), head_);
  ops::cast(stream_, config_.vocab, head_.logits, Ref(logits_.data()));
  if (ops::first_non_finite(stream_, config_.vocab, ConstRef(logits_.data())) >= 0) {
    position_ -= n;
    fail_non_finite(n);
  }
  return logits_;
}

void Generator::fail_non_finite(int64_t n) {
  for (size_t i = 0; i < segments_.size(); ++i) {
    for (const model::Tensor& tensor : segments_[i].tensors) {
      const int64_t at = ops::first_non_finite(stream_, tensor.count(), weights_[i].at(tensor.offset));
      if (at < 0) continue;
      throw Error(
          fmt::format("the logits are not finite: nor are the weights, first in {} (element {})", tensor.name, at),
          "The model was damaged, or its training diverged: take another checkpoint.");
    }
  }
  const auto fail = [&](const std::string& what) {
    throw Error(
        fmt::format("the logits are not finite, although all weights are: first in the output of {}, at position {}",
                    what, position_),
        dtype_ == DType::f32 ? "The weights are too large for their model: take another checkpoint."
                             : "Try --precision fp32.");
  };
  forward(n, [&](int64_t element) {
    if (ops::first_non_finite(stream_, n * config_.width, hidden_) < 0) return;
    fail(element < 0 ? "the embedding" : fmt::format("block {}", element));
  });
  fail("the head");
  RL_REQUIRE(false, "unreachable");
}

}  // namespace ridgeline::train

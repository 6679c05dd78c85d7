#include "ridgeline/train/generator.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <mutex>
#include <numeric>

#include "ridgeline/base/error.h"
#include "ridgeline/base/random.h"
#include "ridgeline/ops/elementwise.h"

namespace ridgeline::train {
namespace {

// Tokens fed in one pass: long prompts go in pieces, so that the scratch stays small.
constexpr int64_t kPiece = 256;

}  // namespace

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

Generator::Generator(const ModelSource& source, DType dtype, int threads)
    : config_(source.config()),
      dtype_(dtype),
      team_(threads),
      stream_(team_),
      units_(model::declare(config_)),
      logits_(static_cast<size_t>(config_.vocab)) {
  model::Carver counter(nullptr);
  carve(counter);
  memory_ = std::make_unique<device::Arena>(counter.used(), &team_);
  segments_.clear();
  caches_.clear();
  model::Carver carver(memory_->data());
  carve(carver);
  model::fill_rotary_table(config_, config_.context, rotary_);
  const auto segment = [&](int unit) -> ConstRef { return segments_[static_cast<size_t>(unit)]; };
  embedding_weights_ = model::embedding_weights(config_, units_, segment);
  head_weights_ = model::head_weights(config_, units_, segment);
  const int first_block = model::unit_index(config_).first_block;
  for (int unit = first_block; unit < first_block + config_.layers; ++unit)
    block_weights_.push_back(model::block_weights(units_[static_cast<size_t>(unit)], segment(unit)));
  for (size_t u = 0; u < units_.size(); ++u) {
    for (const model::Tensor& tensor : units_[u].tensors) {
      std::mutex mutex;
      std::exception_ptr failure;
      team_.parallel_for(tensor.count(), 1 << 16, [&](int64_t first, int64_t last) {
        try {
          source.read(tensor.name, tensor.shape, first, last - first, segments_[u].at(tensor.offset + first));
        } catch (...) {
          const std::lock_guard lock(mutex);
          failure = std::current_exception();
        }
      });
      if (failure) std::rethrow_exception(failure);
    }
  }
}

Generator::~Generator() = default;

void Generator::carve(model::Carver& carver) {
  for (const model::Unit& unit : units_) segments_.push_back(carver.take("weights", unit.count, dtype_));
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    caches_.push_back(
        carver.take("keys and values", config_.context * 2 * config_.kv_heads * config_.head_width(), dtype_));
  }
  const int64_t piece = std::min(kPiece, config_.context);
  hidden_ = carver.take("hidden", piece * config_.width, dtype_);
  inputs_ = carver.take("tokens", piece, DType::i32).as<int32_t>();
  positions_ = carver.take("positions", piece, DType::i32).as<int32_t>();
  rotary_ = carver.floats("rotary positions", model::rotary_table_floats(config_, config_.context));
  scratch_ = model::carve_cached_scratch(carver, config_, dtype_, piece, team_.size());
  const model::BatchShape one{.batch = 1, .sequence = 1, .dtype = dtype_, .head_chunk = 1, .team_size = team_.size()};
  head_ = model::carve_loss_scratch(carver, config_, one, false);
}

std::span<const float> Generator::feed(std::span<const int32_t> tokens) {
  RL_REQUIRE(!tokens.empty(), "feed() needs a token");
  if (position_ + static_cast<int64_t>(tokens.size()) > config_.context) {
    throw Error(fmt::format("{} tokens are more than the model's context of {}",
                            position_ + static_cast<int64_t>(tokens.size()), config_.context),
                "Use a shorter prompt or generate fewer tokens.");
  }
  int64_t n = 0;
  for (size_t first = 0; first < tokens.size(); first += static_cast<size_t>(n)) {
    n = std::min<int64_t>(static_cast<int64_t>(tokens.size() - first), std::min(kPiece, config_.context));
    for (int64_t i = 0; i < n; ++i) {
      const int32_t id = tokens[first + static_cast<size_t>(i)];
      if (id < 0 || id >= config_.vocab)
        throw Error(fmt::format("token {} is outside the model's vocabulary of {}", id, config_.vocab));
      inputs_[i] = id;
      positions_[i] = static_cast<int32_t>(position_ + i);
    }
    const model::Batch batch{.inputs = inputs_, .positions = positions_, .rotary = rotary_};
    const model::BatchShape shape{.batch = 1, .sequence = n, .dtype = dtype_, .team_size = team_.size()};
    model::embedding_forward(stream_, config_, shape, batch, {}, embedding_weights_, hidden_);
    for (int64_t layer = 0; layer < config_.layers; ++layer) {
      const size_t l = static_cast<size_t>(layer);
      model::block_cached(stream_, config_, batch, position_, n, block_weights_[l], caches_[l], hidden_, scratch_);
    }
    position_ += n;
  }
  model::head_forward(stream_, config_, 1, head_weights_, hidden_.at((n - 1) * config_.width), head_);
  ops::cast(stream_, config_.vocab, head_.logits, Ref(logits_.data()));
  return logits_;
}

}  // namespace ridgeline::train

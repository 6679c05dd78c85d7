#include "ridgeline/model/block.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>

#include "combinations.h"
#include "ridgeline/base/random.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/device/stream.h"
#include "ridgeline/ops/elementwise.h"

namespace ridgeline::model {
namespace {

constexpr int64_t kBatch = 2, kSequence = 13, kTokens = kBatch * kSequence;

// Memory with a known pattern behind it.
class Memory {
 public:
  explicit Memory(int64_t bytes) : bytes_(bytes) {
    const size_t whole = static_cast<size_t>((bytes + kBehind + 63) / 64 * 64);
    data_.reset(static_cast<std::byte*>(std::aligned_alloc(64, whole)), std::free);
    std::memset(data_.get(), 0xFF, whole);  // NaN in every float format
  }
  void* data() const { return data_.get(); }
  bool overrun() const {
    for (int64_t i = 0; i < kBehind; ++i) {
      if (data_.get()[bytes_ + i] != std::byte{0xFF}) return true;
    }
    return false;
  }

 private:
  static constexpr int64_t kBehind = 4096;
  int64_t bytes_;
  std::shared_ptr<std::byte> data_;
};

// One block with random weights and input, forward and backward.
class BlockRun {
 public:
  BlockRun(const TransformerConfig& config, DType dtype, Recompute recompute, bool dropout, int team_size)
      : config_(config),
        recompute_(recompute),
        team_(team_size),
        stream_(team_),
        unit_(declare_block(config, 1)),
        shape_{.batch = kBatch, .sequence = kSequence, .dtype = dtype, .team_size = team_size, .dropout = dropout} {
    weights_.resize(static_cast<size_t>(unit_.count));
    for (const Tensor& tensor : unit_.tensors) {
      fill_normal(weights_.data() + tensor.offset, tensor.count(), hash_name(tensor.name), 0,
                  tensor.name.find("norm") != std::string::npos ? 1.0F : 0.0F, 0.2F);
    }
    input_.resize(static_cast<size_t>(kTokens * config.width));
    fill_normal(input_.data(), static_cast<int64_t>(input_.size()), 7, 0, 0.0F, 1.0F);
    for (int64_t n = 0; n < kTokens; ++n) {
      positions_.push_back(static_cast<int32_t>(n % kSequence));
      samples_.push_back(static_cast<uint32_t>(40 + n / kSequence));
    }
    rows_ = {40, 41};
    table_.resize(static_cast<size_t>(rotary_table_floats(config, kSequence)));
    fill_rotary_table(config, kSequence, table_.data());
    batch_ = {.positions = positions_.data(),
              .samples = samples_.data(),
              .sample_of_row = rows_.data(),
              .rotary = table_.data()};
  }

  std::vector<float>& weights() { return weights_; }
  std::vector<float>& input() { return input_; }
  const Unit& unit() const { return unit_; }

  // The block's output, f32.
  std::vector<float> forward() {
    stored_weights_ = in_dtype(weights_);
    stored_input_ = in_dtype(input_);
    const Memory saved(used([&](Carver& c) { carve_block_saved(c, config_, shape_, recompute_); }));
    saved_ = std::make_unique<Memory>(saved);
    const Memory scratch(used([&](Carver& c) { carve_block_scratch(c, config_, shape_, Pass::forward, recompute_); }));
    const Memory output(kTokens * config_.width * size_of(shape_.dtype));
    Carver carve_saved(saved_->data()), carve_scratch(scratch.data());
    block_forward(stream_, config_, shape_, 1, batch_, kRandom, weights_of(), ConstRef(stored_input_.get(), dtype()),
                  carve_block_saved(carve_saved, config_, shape_, recompute_), Ref(output.data(), dtype()),
                  carve_block_scratch(carve_scratch, config_, shape_, Pass::forward, recompute_), recompute_);
    EXPECT_FALSE(saved.overrun() || scratch.overrun() || output.overrun()) << described(config_);
    return in_float(output.data(), kTokens * config_.width);
  }

  // After forward(): the gradient of the input and, behind it, those of the weights, for the output's gradient `dy`.
  std::vector<float> backward(const std::vector<float>& dy) {
    const Memory scratch(used([&](Carver& c) { carve_block_scratch(c, config_, shape_, Pass::backward, recompute_); }));
    const std::shared_ptr<std::byte> gradient = in_dtype(dy);
    std::vector<float> weight_gradients(static_cast<size_t>(unit_.count));
    Carver carve_saved(saved_->data()), carve_scratch(scratch.data());
    block_backward(stream_, config_, shape_, 1, batch_, kRandom, weights_of(),
                   block_gradients(unit_, weight_gradients.data()), ConstRef(stored_input_.get(), dtype()),
                   carve_block_saved(carve_saved, config_, shape_, recompute_), Ref(gradient.get(), dtype()),
                   carve_block_scratch(carve_scratch, config_, shape_, Pass::backward, recompute_), recompute_);
    EXPECT_FALSE(scratch.overrun()) << described(config_);
    std::vector<float> all = in_float(gradient.get(), kTokens * config_.width);
    all.insert(all.end(), weight_gradients.begin(), weight_gradients.end());
    return all;
  }

  // The first sequence's output by way of the cache, in two pieces.
  std::vector<float> cached(int64_t first_piece) {
    stored_weights_ = in_dtype(weights_);
    const std::shared_ptr<std::byte> hidden = in_dtype(input_);
    const int64_t row = 2 * config_.kv_heads * config_.head_width();
    const Memory cache(config_.context * row * size_of(dtype()));
    const Memory scratch(
        used([&](Carver& c) { carve_cached_scratch(c, config_, dtype(), kSequence, config_.context, team_.size()); }));
    Carver carver(scratch.data());
    const CachedScratch places =
        carve_cached_scratch(carver, config_, dtype(), kSequence, config_.context, team_.size());
    for (const auto& [start, count] : {std::pair{int64_t{0}, first_piece}, {first_piece, kSequence - first_piece}}) {
      Batch batch = batch_;
      batch.positions = positions_.data() + start;
      block_cached(stream_, config_, batch, start, count, weights_of(), Ref(cache.data(), dtype()),
                   Ref(hidden.get(), dtype()).at(start * config_.width), places);
    }
    EXPECT_FALSE(scratch.overrun() || cache.overrun()) << described(config_);
    return in_float(hidden.get(), kSequence * config_.width);
  }

 private:
  static constexpr StepRandom kRandom{.dropout = 11, .attention_dropout = 12};

  DType dtype() const { return shape_.dtype; }
  BlockWeights weights_of() const { return block_weights(unit_, ConstRef(stored_weights_.get(), dtype())); }

  template <typename F>
  static int64_t used(F&& carve) {
    Carver carver(nullptr);
    carve(carver);
    return carver.used();
  }

  std::shared_ptr<std::byte> in_dtype(const std::vector<float>& values) {
    std::shared_ptr<std::byte> memory(
        static_cast<std::byte*>(std::aligned_alloc(64, (values.size() * 4 + 63) / 64 * 64)), std::free);
    ops::cast(stream_, static_cast<int64_t>(values.size()), values.data(), Ref(memory.get(), dtype()));
    return memory;
  }
  std::vector<float> in_float(void* data, int64_t count) {
    std::vector<float> values(static_cast<size_t>(count));
    ops::cast(stream_, count, ConstRef(data, dtype()), values.data());
    return values;
  }

  TransformerConfig config_;
  Recompute recompute_;
  device::WorkerTeam team_;
  device::Stream stream_;
  Unit unit_;
  BatchShape shape_;
  std::vector<float> weights_, input_, table_;
  std::vector<int32_t> positions_;
  std::vector<uint32_t> samples_, rows_;
  Batch batch_;
  std::shared_ptr<std::byte> stored_weights_, stored_input_;
  std::unique_ptr<Memory> saved_;
};

std::vector<float> random_values(int64_t count, uint64_t key) {
  std::vector<float> values(static_cast<size_t>(count));
  fill_normal(values.data(), count, key, 0, 0.0F, 1.0F);
  return values;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * 4) == 0;
}

TEST(Recompute, GivesTheSameBits) {
  int number = 0;
  for (TransformerConfig config : option_combinations()) {
    ++number;
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      for (const bool dropout : {false, true}) {
        // Each combination in one half of the cases, the next one in the other.
        if ((number + static_cast<int>(dtype) + (dropout ? 1 : 0)) % 2 == 0) continue;
        config.dropout = dropout ? 0.2F : 0.0F;
        const std::vector<float> dy = random_values(kTokens * config.width, 5);
        std::vector<float> output, gradients;
        for (const Recompute recompute : {Recompute::none, Recompute::selective, Recompute::full}) {
          // Without recomputation by two threads, with it by one.
          BlockRun run(config, dtype, recompute, dropout, recompute == Recompute::none ? 2 : 1);
          const std::vector<float> y = run.forward();
          const std::vector<float> g = run.backward(dy);
          if (recompute == Recompute::none) {
            output = y;
            gradients = g;
            for (const float value : g) ASSERT_TRUE(std::isfinite(value)) << described(config);
          }
          EXPECT_TRUE(same_bits(output, y)) << described(config);
          EXPECT_TRUE(same_bits(gradients, g)) << described(config) << (dropout ? " dropout" : "");
        }
      }
    }
  }
}

TEST(Recompute, KeepsLess) {
  const BatchShape shape{.batch = kBatch, .sequence = kSequence};
  for (const TransformerConfig& config : option_combinations()) {
    const auto bytes = [&](Recompute recompute) {
      Carver carver(nullptr);
      carve_block_saved(carver, config, shape, recompute);
      return carver.used();
    };
    EXPECT_EQ(bytes(Recompute::full), 0);
    // Norm outputs and the activation's output.
    const int64_t norms = config.residual == Residual::parallel_one_norm ? 1 : 2;
    const auto rounded = [](int64_t floats) { return (floats * 4 + 63) / 64 * 64; };
    EXPECT_EQ(bytes(Recompute::none) - bytes(Recompute::selective),
              norms * rounded(kTokens * config.width) + rounded(kTokens * config.ffn));
  }
}

// Gradients against finite differences along random directions of input and weights, in f32: the sum over the output
// loses about 1e-6 to rounding, the difference quotient about 1e-4 to the step.
TEST(Block, GradientsAreDerivatives) {
  for (const TransformerConfig& config : option_combinations()) {
    BlockRun run(config, DType::f32, Recompute::none, false, 1);
    const std::vector<float> dy = random_values(kTokens * config.width, 5);
    const auto along = [&](const std::vector<float>& y) {
      double sum = 0;
      for (size_t i = 0; i < y.size(); ++i) sum += static_cast<double>(y[i]) * static_cast<double>(dy[i]);
      return sum;
    };
    run.forward();
    const std::vector<float> gradients = run.backward(dy);
    const std::vector<float> input = run.input(), weights = run.weights();
    const auto check = [&](std::vector<float>& place, const std::vector<float>& start, int64_t first, int64_t count,
                           const float* gradient, const std::string& what) {
      const std::vector<float> direction = random_values(count, 9);
      constexpr float kStep = 1e-2F;
      double expected = 0, scale = 0;
      for (int64_t i = 0; i < count; ++i) {
        const double d = static_cast<double>(direction[static_cast<size_t>(i)]);
        expected += static_cast<double>(gradient[i]) * d;
        scale += static_cast<double>(gradient[i]) * static_cast<double>(gradient[i]);
      }
      const auto moved = [&](float step) {
        for (int64_t i = 0; i < count; ++i) {
          const size_t at = static_cast<size_t>(first + i);
          place[at] = start[at] + step * direction[static_cast<size_t>(i)];
        }
        return along(run.forward());
      };
      // A step of unit length however many elements move.
      const float step = kStep / std::sqrt(static_cast<float>(count));
      const double quotient = (moved(step) - moved(-step)) / (2 * static_cast<double>(step));
      place = start;
      EXPECT_NEAR(quotient, expected, 2e-2 * std::sqrt(scale) + 1e-2) << what << " of " << described(config);
    };
    check(run.input(), input, 0, static_cast<int64_t>(input.size()), gradients.data(), "input");
    for (const Tensor& tensor : run.unit().tensors) {
      check(run.weights(), weights, tensor.offset, tensor.count(), gradients.data() + input.size() + tensor.offset,
            tensor.name);
    }
  }
}

// Each option's formula (ops/elementwise.h), in double precision. No option goes without one: finite differences agree
// with whichever function runs.
double mlp_formula(Mlp mlp, double x, double up) {
  switch (mlp) {
    case Mlp::gelu_tanh:
      return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
    case Mlp::gelu_erf:
      return 0.5 * x * (1.0 + std::erf(x / std::sqrt(2.0)));
    case Mlp::swiglu:
      return x / (1.0 + std::exp(-x)) * up;
  }
  ADD_FAILURE() << "no formula for model.mlp number " << static_cast<int>(mlp);
  return 0.0;
}

// y = x + Wdown^T f(Wup norm2(x) + b) + b of a block whose attention adds nothing.
std::vector<double> mlp_of_block(const TransformerConfig& config, Mlp formula, const Unit& unit,
                                 const std::vector<float>& weights, const std::vector<float>& input) {
  const auto at = [&](const char* name, int64_t i) {
    return static_cast<double>(weights[static_cast<size_t>(unit.tensor(name).offset + i)]);
  };
  const int64_t c = config.width, f = config.ffn;
  const bool gated = config.mlp == Mlp::swiglu;
  std::vector<double> result;
  for (size_t row = 0; row < input.size(); row += static_cast<size_t>(c)) {
    const auto x = [&](int64_t i) { return static_cast<double>(input[row + static_cast<size_t>(i)]); };
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < c; ++i) mean += x(i) / static_cast<double>(c);
    for (int64_t i = 0; i < c; ++i) variance += (x(i) - mean) * (x(i) - mean) / static_cast<double>(c);
    const double rstd = 1.0 / std::sqrt(variance + static_cast<double>(config.norm_epsilon));
    const auto product = [&](int64_t unit_row) {
      double sum = at("mlp.up.bias", unit_row);
      for (int64_t i = 0; i < c; ++i)
        sum += at("mlp.up.weight", unit_row * c + i) *
               ((x(i) - mean) * rstd * at("norm2.weight", i) + at("norm2.bias", i));
      return sum;
    };
    std::vector<double> y(static_cast<size_t>(c));
    for (int64_t i = 0; i < c; ++i) y[static_cast<size_t>(i)] = x(i) + at("mlp.down.bias", i);
    for (int64_t j = 0; j < f; ++j) {
      const double activation = mlp_formula(formula, product(j), gated ? product(f + j) : 1.0);
      for (int64_t i = 0; i < c; ++i) y[static_cast<size_t>(i)] += activation * at("mlp.down.weight", j * c + i);
    }
    result.insert(result.end(), y.begin(), y.end());
  }
  return result;
}

TEST(Block, EveryMlpOptionIsItsFormula) {
  constexpr double kTolerance = 2e-5;  // 86 products in f32, of magnitude 1
  for (size_t option = 0; option < words_of(Mlp{}).size(); ++option) {
    TransformerConfig config = small_config();
    config.mlp = static_cast<Mlp>(option);
    for (const Recompute recompute : {Recompute::none, Recompute::full}) {
      BlockRun run(config, DType::f32, recompute, false, 1);
      for (const char* name : {"attention.out.weight", "attention.out.bias"}) {
        const Tensor& tensor = run.unit().tensor(name);
        std::fill_n(run.weights().begin() + tensor.offset, tensor.count(), 0.0F);
      }
      const std::vector<float> whole = run.forward(), pieces = run.cached(5);
      const auto farthest = [&](Mlp formula, const std::vector<float>& measured) {
        const std::vector<double> expected = mlp_of_block(config, formula, run.unit(), run.weights(), run.input());
        double most = 0;
        for (size_t i = 0; i < measured.size(); ++i)
          most = std::max(most, std::fabs(static_cast<double>(measured[i]) - expected[i]));
        return most;
      };
      EXPECT_LT(farthest(config.mlp, whole), kTolerance) << described(config);
      EXPECT_LT(farthest(config.mlp, pieces), kTolerance) << described(config);
      for (const Mlp other : {Mlp::gelu_tanh, Mlp::gelu_erf}) {  // what the tolerance tells apart
        if (other == config.mlp) continue;
        EXPECT_GT(farthest(other, whole), 10 * kTolerance) << described(config);
      }
    }
  }
}

TEST(Block, CacheGivesTheForwardsOutput) {
  for (const TransformerConfig& config : option_combinations()) {
    BlockRun run(config, DType::f32, Recompute::none, false, 2);
    const std::vector<float> whole = run.forward();
    for (const int64_t first_piece : {1, 5}) {
      const std::vector<float> pieces = run.cached(first_piece);
      // Products of few rows add in another order.
      for (size_t i = 0; i < pieces.size(); ++i)
        ASSERT_NEAR(pieces[i], whole[i], 2e-5F * (1.0F + std::fabs(whole[i]))) << described(config);
    }
  }
}

}  // namespace
}  // namespace ridgeline::model

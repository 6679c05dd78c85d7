#include "ridgeline/model/block.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <utility>

#include "../many_cases.h"
#include "block_formula.h"
#include "combinations.h"
#include "ridgeline/base/random.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/device/stream.h"
#include "ridgeline/model/operators.h"
#include "ridgeline/ops/elementwise.h"

namespace ridgeline::model {
namespace {

constexpr int64_t kBatch = 2, kSequence = 13, kTokens = kBatch * kSequence;
constexpr int kLayer = 1;
constexpr double kGradientTolerance = 2e-5;

// WatchedMemory with a known pattern behind it.
class WatchedMemory {
 public:
  explicit WatchedMemory(int64_t bytes) : bytes_(bytes) {
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
        unit_(declare_block(config, kLayer)),
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
  const Segment& unit() const { return unit_; }
  // What it is to compute.
  BlockFormula formula() const {
    return {.config = config_,
            .unit = unit_,
            .batch = kBatch,
            .sequence = kSequence,
            .layer = kLayer,
            .probability = shape_.dropout ? static_cast<double>(config_.dropout) : 0.0,
            .dropout_key = kRandom.dropout,
            .attention_dropout_key = kRandom.attention_dropout,
            .samples = rows_};
  }

  // The block's output, f32.
  std::vector<float> forward() {
    stored_weights_ = in_dtype(weights_);
    stored_input_ = in_dtype(input_);
    const WatchedMemory saved(used([&](Carver& c) { carve_block_saved(c, block()); }));
    saved_ = std::make_unique<WatchedMemory>(saved);
    const WatchedMemory scratch(used([&](Carver& c) { carve_block_scratch(c, block(), Pass::forward); }));
    const WatchedMemory output(kTokens * config_.width * size_of(shape_.dtype));
    Carver carve_saved(saved_->data()), carve_scratch(scratch.data());
    const BlockScratch places = carve_block_scratch(carve_scratch, block(), Pass::forward);
    Operators operators(stream_, places.workspace);
    block_forward(operators, block(), context(), weights_of(), ConstRef(stored_input_.get(), dtype()),
                  carve_block_saved(carve_saved, block()), Ref(output.data(), dtype()), places);
    EXPECT_FALSE(saved.overrun() || scratch.overrun() || output.overrun()) << described(config_);
    return in_float(output.data(), kTokens * config_.width);
  }

  // After forward(): the gradient of the input and, behind it, those of the weights, for the output's gradient `dy`.
  std::vector<float> backward(const std::vector<float>& dy) {
    const WatchedMemory scratch(used([&](Carver& c) { carve_block_scratch(c, block(), Pass::backward); }));
    const std::shared_ptr<std::byte> gradient = in_dtype(dy);
    std::vector<float> weight_gradients(static_cast<size_t>(unit_.count));
    Carver carve_saved(saved_->data()), carve_scratch(scratch.data());
    const BlockScratch places = carve_block_scratch(carve_scratch, block(), Pass::backward);
    Operators operators(stream_, places.workspace);
    block_backward(operators, block(), context(), weights_of(), block_gradients({{&unit_, weight_gradients.data()}}),
                   ConstRef(stored_input_.get(), dtype()), carve_block_saved(carve_saved, block()),
                   Ref(gradient.get(), dtype()), places);
    EXPECT_FALSE(scratch.overrun()) << described(config_);
    std::vector<float> all = in_float(gradient.get(), kTokens * config_.width);
    all.insert(all.end(), weight_gradients.begin(), weight_gradients.end());
    return all;
  }

  // The same as backward(), in two parts.
  std::vector<float> backward_in_parts(const std::vector<float>& dy) {
    const WatchedMemory left(used([&](Carver& c) { carve_block_weight_inputs(c, block()); }));
    const std::shared_ptr<std::byte> output_gradient = in_dtype(dy), input_gradient = in_dtype(dy);
    std::vector<float> weight_gradients(static_cast<size_t>(unit_.count));
    Carver carve_saved(saved_->data()), carve_left(left.data());
    const BlockSaved saved = carve_block_saved(carve_saved, block());
    const BlockWeightInputs weight_inputs = carve_block_weight_inputs(carve_left, block());
    const ConstRef input(stored_input_.get(), dtype());
    for (const Pass pass : {Pass::backward_input, Pass::backward_weight}) {
      const WatchedMemory scratch(used([&](Carver& c) { carve_block_scratch(c, block(), pass); }));
      Carver carver(scratch.data());
      const BlockScratch places = carve_block_scratch(carver, block(), pass);
      Operators operators(stream_, places.workspace);
      if (pass == Pass::backward_input) {
        block_backward_input(operators, block(), context(), weights_of(), input, saved,
                             ConstRef(output_gradient.get(), dtype()), Ref(input_gradient.get(), dtype()),
                             weight_inputs, places);
        // Nothing that the weight part reads lies there.
        std::memset(output_gradient.get(), 0xFF, dy.size() * static_cast<size_t>(size_of(dtype())));
      } else {
        block_backward_weight(operators, block(), context(), weights_of(),
                              block_gradients({{&unit_, weight_gradients.data()}}), input, saved, weight_inputs,
                              places);
      }
      EXPECT_FALSE(scratch.overrun() || left.overrun()) << described(config_);
    }
    std::vector<float> all = in_float(input_gradient.get(), kTokens * config_.width);
    all.insert(all.end(), weight_gradients.begin(), weight_gradients.end());
    return all;
  }

  // The first sequence's output by way of the cache, in two pieces.
  std::vector<float> cached(int64_t first_piece) {
    stored_weights_ = in_dtype(weights_);
    const std::shared_ptr<std::byte> hidden = in_dtype(input_), output = in_dtype(input_);
    const int64_t row = 2 * config_.kv_heads * config_.head_width();
    const WatchedMemory cache(config_.context * row * size_of(dtype()));
    const BatchShape most{.batch = 1, .sequence = kSequence, .dtype = dtype(), .team_size = team_.size()};
    const WatchedMemory scratch(used([&](Carver& c) { carve_cached_scratch(c, {config_, most}, config_.context); }));
    Carver carver(scratch.data());
    const CachedScratch places = carve_cached_scratch(carver, {config_, most}, config_.context);
    for (const auto& [start, count] : {std::pair{int64_t{0}, first_piece}, {first_piece, kSequence - first_piece}}) {
      Batch batch = batch_;
      batch.positions = positions_.data() + start;
      const BatchShape tokens{.batch = 1, .sequence = count, .dtype = dtype(), .team_size = team_.size()};
      Operators operators(stream_, places.workspace);
      block_cached(operators, {config_, tokens}, {kLayer, batch, kRandom}, start, weights_of(),
                   Ref(cache.data(), dtype()), ConstRef(hidden.get(), dtype()).at(start * config_.width),
                   Ref(output.get(), dtype()).at(start * config_.width), places);
    }
    EXPECT_FALSE(scratch.overrun() || cache.overrun()) << described(config_);
    return in_float(output.get(), kSequence * config_.width);
  }

 private:
  static constexpr StepRandom kRandom{.dropout = 11, .attention_dropout = 12};

  DType dtype() const { return shape_.dtype; }
  LocalShape block() const { return {config_, shape_, recompute_}; }
  BlockContext context() const { return {kLayer, batch_, kRandom}; }
  BlockWeights weights_of() const { return block_weights({{&unit_, ConstRef(stored_weights_.get(), dtype())}}); }

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
  Segment unit_;
  BatchShape shape_;
  std::vector<float> weights_, input_, table_;
  std::vector<int32_t> positions_;
  std::vector<uint32_t> samples_, rows_;
  Batch batch_;
  std::shared_ptr<std::byte> stored_weights_, stored_input_;
  std::unique_ptr<WatchedMemory> saved_;
};

std::vector<float> random_values(int64_t count, uint64_t key) {
  std::vector<float> values(static_cast<size_t>(count));
  fill_normal(values.data(), count, key, 0, 0.0F, 1.0F);
  return values;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * 4) == 0;
}

TEST(Backward, InTwoPartsGivesTheBitsOfOne) {
  int number = 0;
  ManyCases cases(5);
  for (TransformerConfig config : option_combinations()) {
    ++number;
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      for (const Recompute recompute : {Recompute::none, Recompute::selective}) {
        for (const bool dropout : {false, true}) {
          if (cases.skips()) continue;
          config.dropout = dropout ? 0.1F : 0.0F;
          BlockRun run(config, dtype, recompute, dropout, 1 + number % 2);
          run.forward();
          const std::vector<float> dy = random_values(kTokens * config.width, 9);
          EXPECT_TRUE(same_bits(run.backward(dy), run.backward_in_parts(dy)))
              << described(config) << " " << name_of(dtype) << " dropout " << dropout;
        }
      }
    }
  }
}

TEST(Recompute, GivesTheSameBits) {
  int number = 0;
  ManyCases cases(5);
  for (TransformerConfig config : option_combinations()) {
    ++number;
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      for (const bool dropout : {false, true}) {
        // Each combination in one half of the cases, the next one in the other.
        if ((number + static_cast<int>(dtype) + (dropout ? 1 : 0)) % 2 == 0 || cases.skips()) continue;
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
      carve_block_saved(carver, {config, shape, recompute});
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

Doubles in_double(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

double farthest(const Doubles& a, const Doubles& b) {
  double most = 0;
  for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::fabs(a[i] - b[i]));
  return most;
}

// Options that option_combinations() leaves at their defaults.
std::vector<TransformerConfig> further_options() {
  TransformerConfig epsilon = small_config();
  epsilon.norm_epsilon = 0.05F;
  TransformerConfig rms_epsilon = epsilon;
  rms_epsilon.norm = Norm::rms;
  TransformerConfig scaled = small_config();
  scaled.positions = Positions::rotary;
  scaled.rotary_base = 5000.0;
  scaled.rotary_scaling = 8.0;  // of three frequencies one stays, one is mixed, one is divided
  scaled.rotary_original_context = 150;
  return {epsilon, rms_epsilon, with_usual_sizes(scaled)};
}

std::vector<TransformerConfig> all_options() {
  std::vector<TransformerConfig> all = option_combinations();
  for (const TransformerConfig& config : further_options()) all.push_back(config);
  return all;
}

// What a run that took another value of one option for `config`'s would compute from the same tensors.
std::vector<std::pair<const char*, TransformerConfig>> mistaken(const TransformerConfig& config) {
  std::vector<std::pair<const char*, TransformerConfig>> all;
  const auto add = [&](const char* option, auto change) {
    TransformerConfig other = config;
    change(other);
    if (!(other == config)) all.emplace_back(option, other);
  };
  if (config.mlp != Mlp::swiglu) {
    add("gelu_tanh", [](auto& c) { c.mlp = Mlp::gelu_tanh; });
    add("gelu_erf", [](auto& c) { c.mlp = Mlp::gelu_erf; });
  }
  add("layer norm", [](auto& c) { c.norm = Norm::layer; });
  add("RMS norm", [](auto& c) { c.norm = Norm::rms; });
  if (config.residual != Residual::parallel_one_norm) {
    add("sequential", [](auto& c) { c.residual = Residual::sequential; });
    add("parallel", [](auto& c) { c.residual = Residual::parallel; });
  }
  add("one norm", [](auto& c) { c.residual = Residual::parallel_one_norm; });
  add("no qkv bias", [](auto& c) { c.qkv_bias = false; });
  add("no output bias", [](auto& c) { c.out_bias = false; });
  add("no MLP bias", [](auto& c) { c.mlp_bias = false; });
  if (config.positions == Positions::rotary) {
    add("no rotation", [](auto& c) { c.positions = Positions::learned; });
    add("interleaved", [](auto& c) { c.rotary_pairing = Pairing::interleaved; });
    add("half split", [](auto& c) { c.rotary_pairing = Pairing::half_split; });
    add("another base", [](auto& c) { c.rotary_base = 10000.0; });
    add("no scaling", [](auto& c) { c.rotary_scaling = 1.0; });
    if (config.rotated_width() > 4) add("fewer rotated", [](auto& c) { c.rotary_width = 4; });
  } else {
    add("rotation", [](auto& c) { c.positions = Positions::rotary; });
  }
  add("another epsilon", [](auto& c) { c.norm_epsilon = 1e-5F; });
  return all;
}

TEST(Block, EveryOptionIsItsFormula) {
  constexpr double kTolerance = 2e-5;  // some hundred products in f32, of magnitude 1
  for (const TransformerConfig& config : all_options()) {
    BlockRun run(config, DType::f32, Recompute::none, false, 1);
    const Doubles weights = in_double(run.weights()), input = in_double(run.input());
    const Doubles expected = run.formula().output(weights, input);
    EXPECT_LT(farthest(in_double(run.forward()), expected), kTolerance) << described(config);
    EXPECT_LT(farthest(in_double(run.cached(5)), expected), kTolerance) << described(config);
    // What the tolerance tells apart.
    for (const auto& [option, other] : mistaken(config)) {
      BlockFormula formula = run.formula();
      formula.config = other;
      EXPECT_GT(farthest(formula.output(weights, input), expected), 10 * kTolerance)
          << option << ": " << described(config);
    }
  }
}

TEST(Block, DropoutIsItsFormula) {
  constexpr double kTolerance = 3e-5;  // as without; what is kept is larger
  for (TransformerConfig config : option_combinations()) {
    config.dropout = 0.2F;
    BlockRun run(config, DType::f32, Recompute::none, true, 1);
    const Doubles expected = run.formula().output(in_double(run.weights()), in_double(run.input()));
    EXPECT_LT(farthest(in_double(run.forward()), expected), kTolerance) << described(config);
  }
}

// Gradients against finite differences of the formula, along a random direction of the input and of each tensor. The
// differences are good to 1e-7; the gradient sums in f32, and an element that nearly cancels has the rounding of its
// terms.
TEST(Block, GradientsAreDerivativesOfTheFormula) {
  ManyCases cases(3);  // of a formula that is the test's own; the others run what computes the gradients
  for (const TransformerConfig& config : all_options()) {
    if (cases.skips()) continue;
    BlockRun run(config, DType::f32, Recompute::none, false, 1);
    const std::vector<float> dy = random_values(kTokens * config.width, 5);
    run.forward();
    const Doubles gradients = in_double(run.backward(dy));
    const BlockFormula formula = run.formula();
    Doubles weights = in_double(run.weights()), input = in_double(run.input());
    double unit_norm = 0;
    for (const double g : gradients) unit_norm += g * g;
    unit_norm = std::sqrt(unit_norm);
    const auto check = [&](Doubles& place, int64_t first, int64_t count, const double* gradient,
                           const std::string& what) {
      const Doubles start = place, direction = in_double(random_values(count, 9));
      // A step of unit length however many elements move.
      const double step = 1e-4 / std::sqrt(static_cast<double>(count));
      const auto moved = [&](double by) {
        for (int64_t i = 0; i < count; ++i) place[first + i] = start[first + i] + by * direction[i];
        const Doubles y = formula.output(weights, input);
        double sum = 0;
        for (size_t i = 0; i < y.size(); ++i) sum += y[i] * static_cast<double>(dy[i]);
        return sum;
      };
      const double quotient = (moved(step) - moved(-step)) / (2 * step);
      place = start;
      double along = 0, norm = 0;
      for (int64_t i = 0; i < count; ++i) {
        along += gradient[i] * direction[i];
        norm += gradient[i] * gradient[i];
      }
      EXPECT_NEAR(quotient, along, kGradientTolerance * (std::sqrt(norm) + 1e-2 * unit_norm))
          << what << " of " << described(config);
    };
    check(input, 0, static_cast<int64_t>(input.size()), gradients.data(), "input");
    for (const Tensor& tensor : run.unit().tensors)
      check(weights, tensor.offset, tensor.count(), gradients.data() + input.size() + tensor.offset, tensor.name);
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

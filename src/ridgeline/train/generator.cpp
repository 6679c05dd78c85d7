#include "ridgeline/train/generator.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "ridgeline/base/count.h"
#include "ridgeline/base/error.h"
#include "ridgeline/base/random.h"
#include "ridgeline/ops/elementwise.h"
#include "ridgeline/parallel/diagnosis.h"

namespace ridgeline::train {
namespace {

// Tokens fed in one pass: long prompts go in pieces, so that the scratch stays small.
constexpr int64_t kPiece = 256;
constexpr int kProgram = 0;

parallel::RunShape shape_of(const comm::World& world, const model::TransformerConfig& config, DType dtype, int threads,
                            const ModelCut& cut, int64_t limit) {
  const int64_t room = limit > 0 ? std::min(limit, config.context) : config.context;
  const model::BatchShape piece{.batch = 1, .sequence = std::min(kPiece, room), .dtype = dtype, .team_size = threads};
  return {.config = config,
          .batch = piece,
          .evaluation_batch = piece,
          .sharding = sharding_of(cut, config, world.size(), dtype),
          .rank = world.rank(),
          .training = false,
          .cached = room};
}

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

Generator::Generator(comm::World& world, const ModelSource& source, DType dtype, int threads, const ModelCut& cut,
                     int64_t limit, bool guard)
    : run_(shape_of(world, source.config(), dtype, threads, cut, limit)),
      team_(threads),
      stream_(team_),
      executor_(std::make_unique<parallel::Executor>(
          run_, std::vector{parallel::generation(run_.config, run_.sharding, run_.place().stage())}, world, stream_,
          parallel::Executor::Options{.packing = guard ? parallel::Packing::separate : parallel::Packing::shared,
                                      .guard = guard})) {
  executor_->fill(parallel::BufferKind::master,
                  [&](const model::Tensor& tensor, int64_t first, int64_t count, float* values) {
                    source.read(tensor.name, tensor.shape, first, count, Ref(values));
                  });
}

Generator::~Generator() = default;

std::span<const float> Generator::feed(std::span<const int32_t> tokens) {
  RL_REQUIRE(!tokens.empty(), "feed() needs a token");
  const int64_t vocab = config().vocab, all = position_ + static_cast<int64_t>(tokens.size());
  if (all > run_.cached) {
    throw Error(fmt::format("{} tokens are more than {} of {}", all,
                            run_.cached == config().context ? "the model's context" : "the agreed limit", run_.cached),
                "Use a shorter prompt or generate fewer tokens.");
  }
  for (const int32_t id : tokens) {
    if (id < 0 || id >= vocab) throw Error(fmt::format("token {} is outside the model's vocabulary of {}", id, vocab));
  }
  const parallel::BatchBuffers batch = executor_->batch(kProgram, 0);
  float* const logits = executor_->memory().logits(kProgram);
  for (int64_t n = 0; !tokens.empty(); tokens = tokens.subspan(static_cast<size_t>(n)), position_ += n) {
    n = std::min(static_cast<int64_t>(tokens.size()), run_.evaluation_batch.sequence);
    for (int64_t i = 0; i < n; ++i) {
      batch.inputs[i] = tokens[static_cast<size_t>(i)];
      batch.positions[i] = static_cast<int32_t>(position_ + i);
    }
    const parallel::StepInput input{.fed = position_, .tokens = n};
    executor_->run(kProgram, input);
    // The last stage knows them.
    if (comm::Communicator* const stages = executor_->stages())
      stages->wait(stages->broadcast(Ref(logits), vocab, stages->size() - 1, {"logits", -1, position_}));
    if (ops::first_non_finite(stream_, vocab, ConstRef(logits)) >= 0) fail_non_finite(input);
  }
  return {logits, static_cast<size_t>(vocab)};
}

void Generator::fail_non_finite(const parallel::StepInput& input) {
  const std::string where = parallel::first_non_finite(*executor_, kProgram, input);
  throw Error(
      fmt::format("the logits are not finite after {}; first seen in {}",
                  format_counted(input.fed + input.tokens, "token"), where.empty() ? "the logits" : where),
      run_.batch.dtype == DType::f32
          ? "The model was damaged, or its training diverged: take another checkpoint."
          : "The model was damaged, or its training diverged: take another checkpoint; or try --precision fp32.");
}

}  // namespace ridgeline::train

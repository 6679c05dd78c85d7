#include "layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "ridgeline/base/random.h"
#include "ridgeline/base/words.h"
#include "ridgeline/ops/cross_entropy.h"
#include "ridgeline/train/state.h"

namespace ridgeline::layouts {
namespace {

constexpr int64_t kSequence = 12;

// Row `row` of a step's global batch; a rank's share of valid tokens differs much from another's.
void write_row(const parallel::BatchBuffers& buffers, int64_t step, int64_t row, int64_t b, int64_t vocab) {
  for (int64_t t = 0; t < kSequence; ++t) {
    const auto token = [&](int64_t position) {
      return static_cast<int32_t>(
          philox(11, {static_cast<uint32_t>(step), static_cast<uint32_t>(row), static_cast<uint32_t>(position), 0})[0] %
          static_cast<uint32_t>(vocab));
    };
    const int64_t i = b * kSequence + t;
    const bool valid = row % 3 != 1 || t < 2;
    buffers.inputs[i] = token(t);
    buffers.labels[i] = valid ? token(t + 1) : ops::kIgnoredLabel;
    buffers.positions[i] = static_cast<int32_t>(t);
    buffers.samples[i] = static_cast<uint32_t>(row);
    if (buffers.first_keys == nullptr) continue;
    constexpr int64_t kDocument = 5;
    const int64_t before = row % kDocument;  // tokens of the first document
    const auto begin = static_cast<int32_t>(std::max<int64_t>((t + before) / kDocument * kDocument - before, 0));
    buffers.first_keys[i] = begin;
    buffers.document_positions[i] = static_cast<int32_t>(t) - begin;
  }
  buffers.sample_of_row[b] = static_cast<uint32_t>(row);
}

double square(const std::vector<float>& values) {
  double sum = 0;
  for (const float value : values) sum += static_cast<double>(value) * static_cast<double>(value);
  return sum;
}

parallel::Executor::Options options_of(const Layout& layout) {
  return {.packing = layout.guard ? parallel::Packing::separate : parallel::Packing::shared,
          .guard = layout.guard,
          .overlap = layout.overlap,
          .prove = layout.prove,
          .offload_folder = std::filesystem::temp_directory_path() / "ridgeline_layouts"};
}

std::vector<parallel::Program> programs_of(const parallel::RunShape& shape, const Change& change) {
  const comm::Placement place = shape.place();
  const std::vector<std::vector<parallel::ScheduleEntry>> schedule =
      parallel::schedule(shape.sharding.pipeline.shape(shape.sharding.micro_batches));
  std::vector<parallel::Program> programs = {parallel::lower(shape.config, schedule[static_cast<size_t>(place.stage())],
                                                             shape.sharding, place.stage(), shape.recomputed())};
  if (change) change(programs[0], place);
  return programs;
}

}  // namespace

std::string Layout::describe() const {
  const parallel::Sharding& s = sharding;
  return fmt::format(
      "{} of {} words {}{}{} moments {} dropout {}{} | {} stages {} of [{}] blocks | {} slices{}, {} ranks, shard {} "
      "in "
      "groups of {}, "
      "{} x {} rows, reduce {}, "
      "gather {}, "
      "prefetch {}, wire {} "
      "| "
      "recompute {} every {}, overlap {}, team {}, offload {}, {} segments",
      family, config().vocab, same_rows ? "learned by heart " : "", pure ? "pure " : "", name_of(precision),
      name_of(moments), dropout, documents ? " documents" : "", s.pipeline.stages(), word_of(s.pipeline.kind),
      fmt::join(s.pipeline.blocks, " "), s.slices(), s.sequence ? " of tokens too" : "", s.ranks(), word_of(s.level),
      s.shards(), s.micro_batches, micro_batch, s.reduce == parallel::Reduce::every ? "every" : "last",
      word_of(s.gather), s.prefetch, name_of(s.wire), word_of(recompute), recompute_every, overlap, team,
      offload_window, model::declare(config(), s.partition()).size());
}

model::TransformerConfig small_model(const std::string& family, float dropout) {
  model::TransformerConfig config = model::family_options(family);
  config.layers = 4;
  config.width = 36;
  config.heads = 6;
  config.kv_heads = family == "llama" ? 2 : 6;
  config.ffn = family == "llama" ? 54 : 78;
  config.vocab = family == "gpt2" ? 331 : 173;
  config.context = 16;
  if (family == "gptj" || family == "gpt_neox") config.rotary_width = 4;
  config.dropout = dropout;
  config.init_deviation = 0.2F;  // so that attention is not uniform
  return model::with_usual_sizes(config);
}

Layout one_rank(const Layout& layout) {
  Layout one{.family = layout.family,
             .vocab = layout.vocab,
             .same_rows = layout.same_rows,
             .epsilon = layout.epsilon,
             .precision = layout.precision,
             .pure = layout.pure,
             .moments = layout.moments,
             .dropout = layout.dropout,
             .documents = layout.documents,
             .micro_batch = layout.micro_batch};
  one.sharding.micro_batches = static_cast<int>(layout.global_micro_batches());
  return one;
}

model::TransformerConfig Layout::config() const {
  model::TransformerConfig config = small_model(family, dropout);
  if (vocab > 0) config.vocab = vocab;
  return config;
}

parallel::RunShape Layout::run_shape(int rank) const {
  parallel::RunShape shape;
  shape.config = config();
  shape.batch = {.batch = micro_batch,
                 .sequence = kSequence,
                 .dtype = precision,
                 .head_chunk = 7,
                 .team_size = planned_team > 0 ? planned_team : team,
                 .dropout = dropout > 0.0F,
                 .documents = documents};
  shape.evaluation_batch = shape.batch;
  shape.sharding = sharding;
  shape.rank = rank;
  shape.sharding.weights = precision;
  shape.sharding.masters = pure ? precision : DType::f32;
  shape.sharding.moments = moments;
  shape.recompute = recompute;
  shape.recompute_every = recompute_every;
  shape.offload_window = offload_window;
  return shape;
}

Training::Training(const Layout& layout, comm::World& world, const Change& change)
    : layout_(layout),
      team_(layout.team, {.crowded = true}),
      stream_(team_),
      executor_(layout.run_shape(world.rank()), programs_of(layout.run_shape(world.rank()), change), world, stream_,
                options_of(layout)) {}

parallel::StepResult Training::step(int64_t step) {
  const parallel::RunShape& shape = executor_.run_shape();
  const comm::Placement place = shape.place();
  for (int micro = 0; micro < shape.sharding.micro_batches; ++micro) {
    const parallel::BatchBuffers buffers = executor_.batch(0, micro);
    for (int64_t b = 0; b < layout_.micro_batch; ++b) {
      const int64_t row = (int64_t{micro} * place.data_ranks() + place.data_rank()) * layout_.micro_batch + b;
      write_row(buffers, layout_.same_rows ? 0 : step, row, b, shape.config.vocab);
    }
  }
  const auto number = static_cast<uint64_t>(step);
  return executor_.run(
      0, {.step = step,
          .random = {random_key(3, number, Purpose::dropout), random_key(3, number, Purpose::attention_dropout)},
          .optimizer = {.beta2 = 0.95, .epsilon = layout_.epsilon, .weight_decay = 0.1F},
          .learning_rate = 0.01F,
          .correction1 = static_cast<float>(1.0 - std::pow(0.9, static_cast<double>(step + 1))),
          .correction2 = static_cast<float>(1.0 - std::pow(0.95, static_cast<double>(step + 1))),
          .clip = 0.5F,
          .loss_scale = layout_.precision == DType::f16 ? 256.0F : 1.0F,
          .rounding_key = random_key(3, number, Purpose::rounding)});
}

Tensors Training::collect(parallel::BufferKind kind) const {
  Tensors tensors;
  for (const model::Segment& segment : model::declare(executor_.run_shape().config)) {
    for (const model::Tensor& tensor : segment.tensors)
      tensors[tensor.name] = {segment.unit, executor_.collect(kind, tensor)};
  }
  return tensors;
}

Outcome run(const Layout& layout, int steps, comm::World& world, const Change& change) {
  Training training(layout, world, change);
  train::initialize(training.executor(), kInitialSeed);
  Outcome outcome;
  for (int64_t step = 0; step < steps; ++step) {
    const parallel::StepResult result = training.step(step);
    outcome.losses.push_back(result.loss);
    outcome.norms.push_back(result.gradient_norm);
    if (step == 0) outcome.first_gradients = training.collect(parallel::BufferKind::gradient);
  }
  outcome.weights = training.collect(parallel::BufferKind::master);
  return outcome;
}

Outcome run(const Layout& layout, int steps, const Change& change) {
  Outcome outcome;
  comm::run_threads(layout.sharding.mesh.world_size(), {.timeout = layout.timeout}, [&](comm::World& world) {
    Outcome mine = run(layout, steps, world, change);
    if (world.rank() == 0) outcome = std::move(mine);
  });
  return outcome;
}

double gradient_difference(const Outcome& outcome, const Outcome& reference) {
  std::map<int, double> unit_squares;
  for (const auto& [name, tensor] : reference.first_gradients) unit_squares[tensor.unit] += square(tensor.values);
  double worst = outcome.first_gradients.size() == reference.first_gradients.size() ? 0 : HUGE_VAL;
  for (const auto& [name, tensor] : reference.first_gradients) {
    const std::vector<float>&a = outcome.first_gradients.at(name).values, &b = tensor.values;
    double difference = 0;
    for (size_t i = 0; i < b.size(); ++i) {
      const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
      difference += d * d;
    }
    const double least = 1e-3 * std::sqrt(unit_squares.at(tensor.unit));
    const double relative = std::sqrt(difference) / std::max(std::sqrt(square(b)), least);
    if (!(relative <= worst)) worst = std::isnan(relative) ? HUGE_VAL : relative;
  }
  return worst;
}

std::string difference_from_one_rank(const Layout& layout, const Outcome& outcome, const Outcome& reference) {
  const double gradients = gradient_difference(outcome, reference);
  if (!(gradients <= gradient_bound(layout))) return fmt::format("gradients by {:.1e}", gradients);
  for (size_t step = 0; step < reference.losses.size(); ++step) {
    if (!(std::fabs(outcome.losses[step] - reference.losses[step]) <= 1e-5 * reference.losses[0]))
      return fmt::format("loss of step {}: {} instead of {}", step, outcome.losses[step], reference.losses[step]);
    if (!(std::fabs(outcome.norms[step] / reference.norms[step] - 1) <= (step == 0 ? 1e-5 : 1e-4)))
      return fmt::format("norm of step {}: {} instead of {}", step, outcome.norms[step], reference.norms[step]);
  }
  return "";
}

double gradient_cosine(const Outcome& outcome, const Outcome& reference) {
  double product = 0, square = 0, reference_square = 0;
  for (const auto& [name, tensor] : reference.first_gradients) {
    const std::vector<float>& values = outcome.first_gradients.at(name).values;
    for (size_t i = 0; i < values.size(); ++i)
      product += static_cast<double>(values[i]) * static_cast<double>(tensor.values[i]);
    square += layouts::square(values);
    reference_square += layouts::square(tensor.values);
  }
  return product / std::sqrt(square * reference_square);
}

std::string bitwise_difference(const Outcome& outcome, const Outcome& reference) {
  for (size_t step = 0; step < reference.losses.size(); ++step) {
    if (outcome.losses[step] != reference.losses[step])
      return fmt::format("loss of step {}: {} instead of {}", step, outcome.losses[step], reference.losses[step]);
    if (outcome.norms[step] != reference.norms[step])
      return fmt::format("gradient norm of step {}: {} instead of {}", step, outcome.norms[step],
                         reference.norms[step]);
  }
  for (const auto& [name, tensor] : reference.weights) {
    const std::vector<float>& values = outcome.weights.at(name).values;
    if (std::memcmp(values.data(), tensor.values.data(), values.size() * sizeof(float)) != 0)
      return fmt::format("weights of {}", name);
  }
  return "";
}

}  // namespace ridgeline::layouts

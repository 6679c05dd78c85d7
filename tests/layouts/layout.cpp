#include "layout.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include "ridgeline/base/random.h"
#include "ridgeline/base/words.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/ops/cross_entropy.h"
#include "ridgeline/train/state.h"

namespace ridgeline::layouts {
namespace {

constexpr int64_t kSequence = 11;

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
  }
  buffers.sample_of_row[b] = static_cast<uint32_t>(row);
}

double square(const std::vector<float>& values, int64_t first, int64_t count) {
  double sum = 0;
  for (int64_t i = first; i < first + count; ++i) {
    const double value = static_cast<double>(values[static_cast<size_t>(i)]);
    sum += value * value;
  }
  return sum;
}

}  // namespace

std::string Layout::describe() const {
  const parallel::Sharding& s = sharding;
  return fmt::format(
      "{} {}{} moments {} dropout {} | {} ranks, shard {} in groups of {}, {} x {} rows, reduce {}, gather {}, "
      "prefetch {}, wire {} "
      "| "
      "recompute {} every {}, overlap {}, team {}, offload {}",
      family, pure ? "pure " : "", name_of(precision), name_of(moments), dropout, s.ranks(), word_of(s.level),
      s.shards(), s.micro_batches, micro_batch, s.reduce == parallel::Reduce::every ? "every" : "last",
      word_of(s.gather), s.prefetch, name_of(s.wire), word_of(recompute), recompute_every, overlap, team,
      offload_window);
}

model::TransformerConfig small_model(const std::string& family, float dropout) {
  model::TransformerConfig config = model::family_options(family);
  config.layers = 3;
  config.width = 36;
  config.heads = 6;
  config.kv_heads = family == "llama" ? 2 : 6;
  config.ffn = family == "llama" ? 52 : 75;
  config.vocab = family == "gpt2" ? 331 : 173;
  config.context = 16;
  if (family == "gptj" || family == "gpt_neox") config.rotary_width = 4;
  config.dropout = dropout;
  config.init_deviation = 0.2F;  // so that attention is not uniform
  return model::with_usual_sizes(config);
}

Layout one_rank(const Layout& layout) {
  Layout one{.family = layout.family,
             .precision = layout.precision,
             .pure = layout.pure,
             .moments = layout.moments,
             .dropout = layout.dropout,
             .micro_batch = layout.micro_batch};
  one.sharding.micro_batches = static_cast<int>(layout.global_micro_batches());
  return one;
}

Outcome run(const Layout& layout, int steps, comm::World& world, const Change& change) {
  parallel::RunShape shape;
  shape.config = small_model(layout.family, layout.dropout);
  shape.batch = {.batch = layout.micro_batch,
                 .sequence = kSequence,
                 .dtype = layout.precision,
                 .head_chunk = 7,
                 .team_size = layout.planned_team > 0 ? layout.planned_team : layout.team,
                 .dropout = layout.dropout > 0.0F};
  shape.evaluation_batch = shape.batch;
  shape.sharding = layout.sharding;
  shape.rank = world.rank();
  shape.sharding.weights = layout.precision;
  shape.sharding.masters = layout.pure ? layout.precision : DType::f32;
  shape.sharding.moments = layout.moments;
  shape.recompute = layout.recompute;
  shape.recompute_every = layout.recompute_every;
  shape.offload_window = layout.offload_window;
  const int micro_batches = shape.sharding.micro_batches;
  std::vector<parallel::Program> programs = {
      parallel::lower(shape.config, parallel::schedule(1, micro_batches)[0], shape.sharding)};
  if (change) change(programs[0]);

  device::WorkerTeam team(layout.team);
  device::Stream stream(team);
  parallel::Executor executor(shape, programs, world, stream,
                              {.packing = layout.guard ? parallel::Packing::separate : parallel::Packing::shared,
                               .guard = layout.guard,
                               .overlap = layout.overlap,
                               .prove = layout.prove,
                               .offload_folder = std::filesystem::temp_directory_path() / "ridgeline_layouts"});
  train::initialize(executor, 5);
  Outcome outcome;
  outcome.units = executor.units();
  for (int64_t step = 0; step < steps; ++step) {
    for (int micro = 0; micro < micro_batches; ++micro) {
      const parallel::BatchBuffers buffers = executor.batch(0, micro);
      for (int64_t b = 0; b < layout.micro_batch; ++b) {
        const int64_t row = (int64_t{micro} * world.size() + world.rank()) * layout.micro_batch + b;
        write_row(buffers, step, row, b, shape.config.vocab);
      }
    }
    const parallel::StepInput input = {
        .step = step,
        .random = {random_key(3, static_cast<uint64_t>(step), Purpose::dropout),
                   random_key(3, static_cast<uint64_t>(step), Purpose::attention_dropout)},
        .optimizer = {.beta2 = 0.95, .weight_decay = 0.1F},
        .learning_rate = 0.01F,
        .correction1 = static_cast<float>(1.0 - std::pow(0.9, static_cast<double>(step + 1))),
        .correction2 = static_cast<float>(1.0 - std::pow(0.95, static_cast<double>(step + 1))),
        .clip = 0.5F,
        .loss_scale = layout.precision == DType::f16 ? 256.0F : 1.0F,
        .rounding_key = random_key(3, static_cast<uint64_t>(step), Purpose::rounding)};
    const parallel::StepResult result = executor.run(0, input);
    outcome.losses.push_back(result.loss);
    outcome.norms.push_back(result.gradient_norm);
    if (step == 0) {
      for (size_t u = 0; u < outcome.units.size(); ++u)
        outcome.first_gradients.push_back(executor.collect(parallel::BufferKind::gradient, static_cast<int>(u)));
    }
  }
  for (size_t u = 0; u < outcome.units.size(); ++u)
    outcome.weights.push_back(executor.collect(parallel::BufferKind::master, static_cast<int>(u)));
  return outcome;
}

Outcome run(const Layout& layout, int steps, const Change& change) {
  Outcome outcome;
  comm::run_threads(layout.sharding.ranks(), {.timeout = std::chrono::seconds(60)}, [&](comm::World& world) {
    Outcome mine = run(layout, steps, world, change);
    if (world.rank() == 0) outcome = std::move(mine);
  });
  return outcome;
}

double gradient_difference(const Outcome& outcome, const Outcome& reference) {
  double worst = 0;
  for (size_t u = 0; u < reference.units.size(); ++u) {
    const model::Unit& unit = reference.units[u];
    const std::vector<float>&a = outcome.first_gradients[u], &b = reference.first_gradients[u];
    const double unit_norm = std::sqrt(square(b, 0, unit.count));
    for (const model::Tensor& tensor : unit.tensors) {
      double difference = 0;
      for (int64_t i = tensor.offset; i < tensor.offset + tensor.count(); ++i) {
        const double d =
            static_cast<double>(a[static_cast<size_t>(i)]) - static_cast<double>(b[static_cast<size_t>(i)]);
        difference += d * d;
      }
      const double norm = std::sqrt(square(b, tensor.offset, tensor.count()));
      const double relative = std::sqrt(difference) / std::max(norm, 1e-3 * unit_norm);
      if (!(relative <= worst)) worst = std::isnan(relative) ? HUGE_VAL : relative;
    }
  }
  return worst;
}

std::string bitwise_difference(const Outcome& outcome, const Outcome& reference) {
  for (size_t step = 0; step < reference.losses.size(); ++step) {
    if (outcome.losses[step] != reference.losses[step])
      return fmt::format("loss of step {}: {} instead of {}", step, outcome.losses[step], reference.losses[step]);
    if (outcome.norms[step] != reference.norms[step])
      return fmt::format("gradient norm of step {}: {} instead of {}", step, outcome.norms[step],
                         reference.norms[step]);
  }
  for (size_t u = 0; u < reference.units.size(); ++u) {
    // Paddings differ with the number of ranks.
    if (std::memcmp(outcome.weights[u].data(), reference.weights[u].data(),
                    static_cast<size_t>(reference.units[u].count) * sizeof(float)) != 0)
      return fmt::format("weights of unit {}", reference.units[u].name);
  }
  return "";
}

}  // namespace ridgeline::layouts

// What can be said about a configuration as a whole, before anything is opened or allocated.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "ridgeline/base/error.h"
#include "ridgeline/base/words.h"
#include "ridgeline/data/split.h"
#include "ridgeline/train/config.h"
#include "ridgeline/train/config_keys.h"

namespace ridgeline::train {
namespace {

// "runs/a.toml:12: " for a key that was given, "" for one at its default.
std::string where(const Config& config, std::string_view key) {
  const auto origin = config.origins.find(key);
  return origin == config.origins.end() ? "" : origin->second + ": ";
}

// Runs `body`, whose errors begin with a key's name, and adds where that key was given.
template <typename Body>
void located(const Config& config, Body body) {
  try {
    body();
  } catch (const Error& error) {
    const std::string_view message = error.message();
    const std::string_view key = message.substr(0, message.find_first_of(" :"));
    throw Error(where(config, key) + error.message(), error.next_step());
  }
}

void check_model(const Config& config) {
  const ridgeline::model::TransformerConfig& t = config.model.transformer;
  std::vector<std::string> missing;
  for (const auto& [key, value] : {std::pair{"model.layers", t.layers},
                                   {"model.width", t.width},
                                   {"model.heads", t.heads},
                                   {"model.vocab", t.vocab},
                                   {"model.context", t.context}}) {
    if (value == 0) missing.emplace_back(key);
  }
  if (!missing.empty() && !config.train.init_from.empty()) return;
  if (missing.size() == 5) {
    throw Error("no model is given: neither model.preset, nor model.layers and the other sizes, nor train.init_from",
                "For example: --set model.preset=gpt2");
  }
  if (!missing.empty()) {
    throw Error(fmt::format("{}: not given, while other sizes of the model are", fmt::join(missing, ", ")),
                "Give layers, width, heads, vocab and context, or model.preset.");
  }
  located(config, [&] { ridgeline::model::validate(t); });
  if (config.train.sequence > t.context) {
    throw Error(fmt::format("{}train.sequence = {}: longer than model.context = {}", where(config, "train.sequence"),
                            config.train.sequence, t.context),
                fmt::format("The nearest valid value is {}; or raise model.context.", t.context));
  }
}

int64_t nearest_multiple(int64_t value, int64_t unit) {
  return std::max(unit, (value + unit / 2) / unit * unit);
}

// The divisor of `value` nearest to `wanted`, the smaller one of two. 1 always divides.
int64_t nearest_divisor(int64_t value, int64_t wanted) {
  int64_t nearest = 1;
  for (const int64_t divisor : divisors(value)) {
    if (std::abs(divisor - wanted) < std::abs(nearest - wanted)) nearest = divisor;
  }
  return nearest;
}

// The value for which `fits` holds that is nearest to `wanted`, the smaller one of two; 1 always does.
template <typename Fits>
int64_t nearest_fitting(int64_t wanted, Fits&& fits) {
  for (int64_t distance = 1;; ++distance) {
    for (const int64_t value : {wanted - distance, wanted + distance}) {
      if (value >= 1 && fits(value)) return value;
    }
  }
}

void check_tensor(const Config& config) {
  const Config::Parallel& p = config.parallel;
  const Config::Train& t = config.train;
  if (p.sequence && p.tensor == 1) {
    throw Error(fmt::format("{}parallel.sequence = true: parallel.tensor = 1 leaves nobody to share tokens with",
                            where(config, "parallel.sequence")),
                "Set parallel.tensor, or leave parallel.sequence out.");
  }
  if (!config.has_model()) return;
  const auto fits = [&](int64_t count) { return !ridgeline::model::unsliceable(config.model.transformer, count); };
  if (const auto refusal = ridgeline::model::unsliceable(config.model.transformer, p.tensor)) {
    throw Error(fmt::format("{}parallel.tensor = {}: {}", where(config, "parallel.tensor"), p.tensor, *refusal),
                fmt::format("The nearest valid value is {}.", nearest_fitting(p.tensor, fits)));
  }
  if (!p.sequence || t.micro_batch * t.sequence % p.tensor == 0) return;
  throw Error(
      fmt::format("{}parallel.sequence = true: the {} tokens of train.micro_batch = {} x train.sequence = {} do not "
                  "divide into parallel.tensor = {}",
                  where(config, "parallel.sequence"), t.micro_batch * t.sequence, t.micro_batch, t.sequence, p.tensor),
      fmt::format("The nearest valid value is parallel.tensor = {}; or leave parallel.sequence out.",
                  nearest_fitting(p.tensor, [&](int64_t count) {
                    return fits(count) && t.micro_batch * t.sequence % count == 0;
                  })));
}

// "7,8,8,7"
std::vector<int> blocks_of(const Config& config) {
  const std::string& text = config.parallel.stages;
  const auto refuse = [&](const std::string& what) {
    const Config::Parallel& p = config.parallel;
    throw Error(fmt::format("{}parallel.stages = \"{}\": {}", where(config, "parallel.stages"), text, what),
                fmt::format("Give parallel.pipeline x parallel.chunks = {} numbers of at least 1 that add up to "
                            "model.layers = {}; or leave it out.",
                            p.pipeline * p.chunks, config.model.transformer.layers));
  };
  std::vector<int> blocks;
  int64_t sum = 0;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    int value = 0;
    const char* const last = text.data() + end;
    const auto [rest, problem] = std::from_chars(text.data() + at, last, value);
    if (problem != std::errc() || rest != last || value < 1)
      refuse(fmt::format("'{}' is no whole number of at least 1", text.substr(at, end - at)));
    blocks.push_back(value);
    sum += value;
    at = end + 1;
  }
  if (std::ssize(blocks) != config.parallel.pipeline * config.parallel.chunks)
    refuse(fmt::format("{} numbers", blocks.size()));
  if (sum != config.model.transformer.layers) refuse(fmt::format("{} blocks in all", sum));
  return blocks;
}

void check_pipeline(const Config& config, const comm::Mesh& mesh) {
  using ridgeline::parallel::ScheduleKind;
  const Config::Parallel& p = config.parallel;
  const auto refuse = [&](std::string_view key, const std::string& what, const std::string& next) {
    throw Error(fmt::format("{}{} = {}", where(config, key), key, what), next);
  };
  if (p.chunks > 1 && p.schedule != ScheduleKind::interleaved)
    refuse("parallel.chunks", fmt::format("{}: only parallel.schedule = \"interleaved\" has more than one", p.chunks),
           "Set that, or leave parallel.chunks out.");
  if (p.pipeline == 1) {
    const std::string_view next = "Set parallel.pipeline, or leave it out.";
    if (p.chunks > 1)
      refuse("parallel.chunks", fmt::format("{}: parallel.pipeline = 1 has no stages", p.chunks), std::string(next));
    if (!p.stages.empty())
      refuse("parallel.stages", fmt::format("\"{}\": parallel.pipeline = 1 has no stages", p.stages),
             std::string(next));
    if (p.schedule != Config::Parallel().schedule)
      refuse("parallel.schedule",
             fmt::format("\"{}\": parallel.pipeline = 1 has no stages",
                         parallel::words_of(p.schedule)[static_cast<size_t>(p.schedule)]),
             std::string(next));
    return;
  }
  if (!config.has_model()) return;
  const int64_t layers = config.model.transformer.layers;
  if (p.pipeline * p.chunks > layers) {
    const std::string parts = p.chunks > 1 ? fmt::format(" x parallel.chunks = {}", p.chunks) : "";
    refuse("parallel.pipeline",
           fmt::format("{}{}: more stages than model.layers = {}, and each needs a block", p.pipeline, parts, layers),
           layers / p.chunks > 0 ? fmt::format("The nearest valid value is {}.", layers / p.chunks)
                                 : fmt::format("The nearest valid value is parallel.chunks = {}.",
                                               std::max<int64_t>(layers / p.pipeline, 1)));
  }
  const parallel::Pipeline pipeline = pipeline_of(config);
  const int64_t unit = int64_t{mesh.size(comm::kDataAxes)} * config.train.micro_batch;
  for (const int64_t batch : optim::batch_sizes(batch_ramp_of(config))) {
    const auto micro_batches = static_cast<int>(batch / unit);
    const auto refusal = parallel::refusal(pipeline.shape(micro_batches));
    if (!refusal) continue;
    const int64_t whole = unit * p.pipeline;
    refuse("parallel.schedule",
           fmt::format("\"{}\": a batch of {} is {} micro-batches: {}",
                       parallel::words_of(p.schedule)[static_cast<size_t>(p.schedule)], batch, micro_batches, *refusal),
           fmt::format("The nearest valid value is train.global_batch = {}; or take another parallel.schedule.",
                       nearest_multiple(batch, whole)));
  }
}

void check_batch(const Config& config, const comm::Mesh& mesh) {
  const int ranks = mesh.size(comm::kDataAxes);
  const int64_t global = config.train.global_batch, micro = config.train.micro_batch;
  const int64_t unit = int64_t{ranks} * micro;
  if (global % unit == 0) return;
  std::string next = fmt::format("Nearest valid: train.global_batch = {}", nearest_multiple(global, unit));
  if (global % ranks == 0) {
    next += fmt::format(", or train.micro_batch = {}.", nearest_divisor(global / ranks, micro));
  } else {
    int fewer = ranks;
    while (fewer > 1 && global % (fewer * micro) != 0) --fewer;
    if (global % (fewer * micro) == 0) next += fmt::format(", or --ranks {}", fewer);
    next += fmt::format(" (no train.micro_batch fits: {} is not a multiple of {} ranks).", global, ranks);
  }
  throw Error(
      fmt::format("{}train.global_batch = {}: not a multiple of {} {} x train.micro_batch = {} (that is {})",
                  where(config, "train.global_batch"), global, ranks, ranks == 1 ? "rank" : "ranks", micro, unit),
      next);
}

// Whatever multiplies steps, batch and sequence can then count in 64 bits.
void check_length(const Config& config) {
  const Config::Train& t = config.train;
  const int64_t most = (int64_t{1} << 62) / (t.global_batch * std::max<int64_t>(t.sequence, 1));
  if (t.steps <= most) return;
  throw Error(
      fmt::format("{}train.steps = {}: with train.global_batch = {} sequences of {} tokens, more tokens than can "
                  "be counted (2^62)",
                  where(config, "train.steps"), t.steps, t.global_batch, t.sequence),
      fmt::format("The nearest valid value is {}.", most));
}

// [train] batch_ramp_*: every batch of the ramp must be a multiple of ranks x micro_batch, too.
void check_batch_ramp(const Config& config, const comm::Mesh& mesh) {
  const Config::Train& t = config.train;
  const auto refuse = [&](std::string_view key, int64_t value, std::string_view what, const std::string& next) {
    throw Error(fmt::format("{}{} = {}: {}", where(config, key), key, value, what), next);
  };
  if (t.batch_ramp_start == 0) {
    const std::string next = "Give train.batch_ramp_start, the batch to begin with; or leave it out.";
    if (t.batch_ramp_increment != 0)
      refuse("train.batch_ramp_increment", t.batch_ramp_increment, "there is no ramp to read it", next);
    if (t.batch_ramp_samples != 0)
      refuse("train.batch_ramp_samples", t.batch_ramp_samples, "there is no ramp to read it", next);
    return;
  }
  // From here on in units; check_batch has seen to the global batch.
  const int ranks = mesh.size(comm::kDataAxes);
  const int64_t unit = int64_t{ranks} * t.micro_batch, last = t.global_batch / unit - 1;
  const std::string units =
      fmt::format("not a multiple of ranks x train.micro_batch = {} x {} = {}", ranks, t.micro_batch, unit);
  if (last < 1) {
    refuse(
        "train.batch_ramp_start", t.batch_ramp_start,
        fmt::format("train.global_batch = {} is the smallest for {} x {} sequences at once, and leaves no room for a "
                    "ramp",
                    t.global_batch, ranks, t.micro_batch),
        "Leave the ramp out, or use a smaller train.micro_batch.");
  }
  const int64_t start = std::min(last, nearest_multiple(t.batch_ramp_start, unit) / unit);
  if (start * unit != t.batch_ramp_start) {
    refuse(
        "train.batch_ramp_start", t.batch_ramp_start,
        t.batch_ramp_start % unit != 0 ? units : fmt::format("must be below train.global_batch = {}", t.global_batch),
        fmt::format("The nearest valid value is {}.", start * unit));
  }
  const int64_t way = t.global_batch / unit - start;
  const int64_t increment = nearest_divisor(way, nearest_multiple(t.batch_ramp_increment, unit) / unit);
  if (increment * unit != t.batch_ramp_increment) {
    refuse("train.batch_ramp_increment", t.batch_ramp_increment,
           t.batch_ramp_increment % unit != 0
               ? units
               : fmt::format("does not divide train.global_batch - train.batch_ramp_start = {}", way * unit),
           fmt::format("The nearest valid value is {}.", increment * unit));
  }
  if (t.batch_ramp_samples == 0) {
    const int64_t batches = way / increment;
    refuse("train.batch_ramp_samples", 0, "the ramp needs a length",
           fmt::format("For example, for 100 steps per batch on average: {:.0f}.",
                       std::floor(50.0 * static_cast<double>(batches) *
                                  static_cast<double>(t.batch_ramp_start + t.global_batch - t.batch_ramp_increment))));
  }
}

// A key that the chosen schedule does not read must not be given another value than its default.
void check_schedule_keys(const Config& config) {
  const optim::LearningRateKind kind = config.optimizer.schedule.kind;
  const Config defaults;
  for (const Key& key : keys()) {
    if (key.read_by == nullptr || optim::settings_of(kind).*key.read_by) continue;
    const std::string value = value_text(slot_of(key, config));
    // A linear warm-up is what the others have.
    if (value == value_text(slot_of(key, defaults)) || value == "\"linear\"") continue;
    std::vector<std::string_view> readers;
    for (const std::string_view word : words_of(kind)) {
      if (optim::settings_of(*of_word<optim::LearningRateKind>(word)).*key.read_by) readers.push_back(word);
    }
    throw Error(fmt::format("{}{} = {}: not read by optimizer.schedule = \"{}\"", where(config, key.name), key.name,
                            value, word_of(kind)),
                fmt::format("Leave it out, or choose a schedule that reads it: {}.", fmt::join(readers, ", ")));
  }
}

void check_offload(const Config& config) {
  if (config.optimizer.offload == Offload::file) return;
  const Config defaults;
  for (const std::string_view name : {"optimizer.offload_directory", "optimizer.offload_buffer"}) {
    const Key& key = *find_key(name);
    const std::string value = value_text(slot_of(key, config));
    if (value == value_text(slot_of(key, defaults))) continue;
    throw Error(fmt::format("{}{} = {}: not read by optimizer.offload = \"{}\"", where(config, name), name, value,
                            word_of(config.optimizer.offload)),
                "Leave it out, or set optimizer.offload = \"file\".");
  }
}

void check_optimizer(const Config& config) {
  check_schedule_keys(config);
  check_offload(config);
  const optim::Schedule schedule = schedule_of(config);
  if (schedule.min_learning_rate > schedule.learning_rate) {
    throw Error(
        fmt::format("{}optimizer.min_learning_rate = {}: above optimizer.learning_rate = {}",
                    where(config, "optimizer.min_learning_rate"), schedule.min_learning_rate, schedule.learning_rate),
        fmt::format("The nearest valid value is {}.", schedule.learning_rate));
  }
  if (schedule.warmup_steps >= config.train.steps) {
    throw Error(fmt::format("{}optimizer.warmup_steps = {}: must be below train.steps = {}",
                            where(config, "optimizer.warmup_steps"), schedule.warmup_steps, config.train.steps),
                fmt::format("The nearest valid value is {}; or raise train.steps.", config.train.steps - 1));
  }
  if (optim::settings_of(schedule.kind).decay && schedule.warmup_samples >= schedule.decay_samples) {
    const bool given = config.optimizer.schedule.decay_samples != 0;
    throw Error(
        fmt::format("{}optimizer.warmup_samples = {}: must be below {} = {}", where(config, "optimizer.warmup_samples"),
                    schedule.warmup_samples, given ? "optimizer.decay_samples" : "the sequences of the whole run",
                    schedule.decay_samples),
        fmt::format("The nearest valid value is {}; or raise {}.", schedule.decay_samples - 1,
                    given ? "optimizer.decay_samples" : "train.steps"));
  }
}

}  // namespace

std::vector<int64_t> divisors(int64_t value) {
  std::vector<int64_t> small, large;
  for (int64_t divisor = 1; divisor * divisor <= value; ++divisor) {
    if (value % divisor != 0) continue;
    small.push_back(divisor);
    if (divisor * divisor < value) large.push_back(value / divisor);
  }
  small.insert(small.end(), large.rbegin(), large.rend());
  return small;
}

parallel::Pipeline pipeline_of(const Config& config) {
  const Config::Parallel& p = config.parallel;
  if (p.pipeline == 1) return {};
  const auto stages = static_cast<int>(p.pipeline), chunks = static_cast<int>(p.chunks);
  if (!p.stages.empty()) return {p.schedule, chunks, blocks_of(config)};
  return parallel::balanced_pipeline(config.model.transformer, config.train.sequence, p.schedule, stages, chunks);
}

comm::Mesh mesh_of(const Config& config, int world) {
  const Config::Parallel& p = config.parallel;
  const int64_t per_copy = p.pipeline * p.tensor * p.context;
  if (world % per_copy != 0) {
    const std::string_view key = p.pipeline > 1 ? "parallel.pipeline" : "parallel.tensor";
    throw Error(
        fmt::format("{}parallel.pipeline = {} x parallel.tensor = {}: {} {} no multiple of {}", where(config, key),
                    p.pipeline, p.tensor, world, world == 1 ? "rank is" : "ranks are", per_copy),
        fmt::format("The nearest valid value is --ranks {}; or lower one of the two.",
                    nearest_multiple(world, per_copy)));
  }
  const int64_t data = world / per_copy, group = p.shard_group;
  if (group > 0 && data % group != 0) {
    throw Error(fmt::format("{}parallel.shard_group = {}: does not divide {} {}ranks",
                            where(config, "parallel.shard_group"), group, data, per_copy == 1 ? "" : "data-parallel "),
                fmt::format("The nearest valid value is {}.", nearest_divisor(data, group)));
  }
  const bool cuts = p.shard != parallel::Shard::none;
  return comm::Mesh::of_world(world, static_cast<int>(p.pipeline), static_cast<int>(p.tensor),
                              static_cast<int>(p.context), cuts ? static_cast<int>(group) : 1);
}

void check(const Config& config, int world) {
  if (world < 1) throw Error(fmt::format("--ranks {}: must be at least 1", world), "The nearest valid value is 1.");
  if (world > kMostRanks) {
    throw Error(fmt::format("--ranks {}: must be at most {}", world, kMostRanks),
                fmt::format("The nearest valid value is {}.", kMostRanks));
  }
  for (const Key& key : keys()) located(config, [&] { check_value(key, config); });
  check_model(config);
  check_tensor(config);
  const comm::Mesh mesh = mesh_of(config, world);
  check_batch(config, mesh);
  check_batch_ramp(config, mesh);
  check_pipeline(config, mesh);
  check_length(config);
  check_sizes(config, mesh);
  check_optimizer(config);
  located(config, [&] { loss_scale_of(config); });
  located(config, [&] { data::split_documents(config.data.split, config.data.split_rule, 1); });
}

void require_data(const Config& config) {
  if (!config.data.train.empty()) return;
  throw Error(
      where(config, "data.train") + "data.train: not given",
      "Give the prefix of a .bin/.idx pair, as `ridgeline prepare --out PREFIX` writes it: --set data.train=PREFIX");
}

}  // namespace ridgeline::train

// What can be said about a configuration as a whole, before anything is opened or allocated.
#include <algorithm>
#include <cstdlib>

#include "ridgeline/base/error.h"
#include "ridgeline/data/sampler.h"
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
  for (int64_t distance = 0;; ++distance) {
    if (wanted - distance >= 1 && value % (wanted - distance) == 0) return wanted - distance;
    if (wanted + distance <= value && value % (wanted + distance) == 0) return wanted + distance;
  }
}

void check_batch(const Config& config, int ranks) {
  const int64_t global = config.train.global_batch, micro = config.train.micro_batch;
  const int64_t unit = ranks * micro;
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

void check_sharding(const Config& config, int ranks) {
  const int64_t group = config.parallel.shard_group;
  if (group == 0 || ranks % group == 0) return;
  throw Error(fmt::format("{}parallel.shard_group = {}: does not divide {} ranks",
                          where(config, "parallel.shard_group"), group, ranks),
              fmt::format("The nearest valid value is {}.", nearest_divisor(ranks, group)));
}

void check_optimizer(const Config& config) {
  const Config::Optimizer& o = config.optimizer;
  if (o.min_learning_rate > o.learning_rate) {
    throw Error(fmt::format("{}optimizer.min_learning_rate = {}: above optimizer.learning_rate = {}",
                            where(config, "optimizer.min_learning_rate"), o.min_learning_rate, o.learning_rate),
                fmt::format("The nearest valid value is {}.", o.learning_rate));
  }
  if (o.warmup_steps >= config.train.steps) {
    throw Error(fmt::format("{}optimizer.warmup_steps = {}: must be below train.steps = {}",
                            where(config, "optimizer.warmup_steps"), o.warmup_steps, config.train.steps),
                fmt::format("The nearest valid value is {}; or raise train.steps.", config.train.steps - 1));
  }
}

}  // namespace

void check(const Config& config, int ranks) {
  if (ranks < 1) throw Error(fmt::format("--ranks {}: must be at least 1", ranks), "The nearest valid value is 1.");
  for (const Key& key : keys()) located(config, [&] { check_value(key, config); });
  check_model(config);
  check_batch(config, ranks);
  check_sharding(config, ranks);
  check_optimizer(config);
  located(config, [&] { data::split_documents(config.data.split, 1); });
}

void require_data(const Config& config) {
  if (!config.data.train.empty()) return;
  throw Error(
      where(config, "data.train") + "data.train: not given",
      "Give the prefix of a .bin/.idx pair, as `ridgeline prepare --out PREFIX` writes it: --set data.train=PREFIX");
}

}  // namespace ridgeline::train

// What the keys of optimizer, batch ramp and loss scale mean together.
#include "ridgeline/base/error.h"
#include "ridgeline/base/words.h"
#include "ridgeline/train/config.h"
#include "ridgeline/train/config_keys.h"

namespace ridgeline::train {
namespace {

// "train.loss_scale_window = 500"
std::string assignment(const Config& config, std::string_view name) {
  return fmt::format("{} = {}", name, value_text(slot_of(*find_key(name), config)));
}

bool at_default(const Config& config, std::string_view name) {
  const Config defaults;
  const Key& key = *find_key(name);
  return value_text(slot_of(key, config)) == value_text(slot_of(key, defaults));
}

constexpr std::string_view kLossScaleKeys[] = {"train.loss_scale", "train.loss_scale_initial",
                                               "train.loss_scale_minimum", "train.loss_scale_window",
                                               "train.loss_scale_hysteresis"};

// A number of the rule: the key's where it was given, which only a rule that has a usual value reads.
template <typename Number>
void replace(Number& usual, Number given, const Config& config, std::string_view key, std::string_view kind) {
  if (given == 0) return;
  if (usual == 0) {
    throw Error(fmt::format("{}: not read by train.loss_scale = \"{}\"", assignment(config, key), kind),
                "Leave it out, or choose another train.loss_scale.");
  }
  usual = given;
}

}  // namespace

optim::BatchRamp batch_ramp_of(const Config& config) {
  return {.global = config.train.global_batch,
          .start = config.train.batch_ramp_start,
          .increment = config.train.batch_ramp_increment,
          .samples = config.train.batch_ramp_samples};
}

optim::Schedule schedule_of(const Config& config) {
  optim::Schedule schedule = config.optimizer.schedule;
  schedule.steps = config.train.steps;
  if (optim::settings_of(schedule.kind).decay && schedule.decay_samples == 0)
    schedule.decay_samples = optim::samples_of_steps(batch_ramp_of(config), config.train.steps);
  return schedule;
}

std::optional<optim::LossScaleRule> loss_scale_of(const Config& config) {
  const Config::Train& t = config.train;
  if (t.precision != Precision::fp16) {
    for (const std::string_view key : kLossScaleKeys) {
      if (at_default(config, key)) continue;
      throw Error(fmt::format("{}: only fp16 has a loss scale, and train.precision = \"{}\"", assignment(config, key),
                              word_of(t.precision)),
                  "Leave it out, or set train.precision = \"fp16\".");
    }
    return std::nullopt;
  }
  const std::string kind = t.loss_scale == "usual" ? "megatron" : t.loss_scale;
  optim::LossScaleRule rule = optim::usual_rule(optim::loss_scale_of_name(kind));
  if (rule.kind == optim::LossScaleKind::constant) {
    if (t.loss_scale_initial == 0) {
      throw Error("train.loss_scale_initial: not given, while train.loss_scale = \"constant\"",
                  "For example: train.loss_scale_initial = 4096.0");
    }
    rule.initial = t.loss_scale_initial;
  }
  replace(rule.initial, t.loss_scale_initial, config, "train.loss_scale_initial", kind);
  replace(rule.minimum, t.loss_scale_minimum, config, "train.loss_scale_minimum", kind);
  replace(rule.window, t.loss_scale_window, config, "train.loss_scale_window", kind);
  replace(rule.hysteresis, t.loss_scale_hysteresis, config, "train.loss_scale_hysteresis", kind);
  if (rule.minimum > rule.initial) {
    const bool minimum_given = t.loss_scale_minimum != 0;
    const std::string_view key = minimum_given ? "train.loss_scale_minimum" : "train.loss_scale_initial";
    throw Error(fmt::format("{}: {} the {} loss scale, {}", assignment(config, key), minimum_given ? "above" : "below",
                            minimum_given ? "first" : "smallest", minimum_given ? rule.initial : rule.minimum),
                fmt::format("The nearest valid value is {}.", minimum_given ? rule.initial : rule.minimum));
  }
  return rule;
}

}  // namespace ridgeline::train

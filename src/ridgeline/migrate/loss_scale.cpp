// fp16's loss scale, by the rule of each trainer, as its own settings change that.
#include "ridgeline/optim/loss_scale.h"

#include <fmt/format.h>

#include <cmath>

#include "ridgeline/migrate/original.h"

namespace ridgeline::migrate {

void translate_loss_scale(Original& original, Draft& draft) {
  DeepSpeedJson& json = *original.json;
  const bool zero = zero_stage(json) > 0;
  const optim::LossScaleKind kind = zero ? optim::LossScaleKind::deepspeed_zero : optim::LossScaleKind::deepspeed_fused;
  const optim::LossScaleRule usual = optim::usual_rule(kind);
  const double fixed = json.number("fp16.loss_scale").value_or(0);
  if (fixed > 0) {
    draft.set("train.loss_scale", toml("constant"), json.where("fp16.loss_scale"));
    draft.set("train.loss_scale_initial", toml(fixed), json.where("fp16.loss_scale"));
    return;
  }
  draft.set(
      "train.loss_scale", toml(optim::name_of(kind)),
      json.has("fp16.loss_scale") ? json.where("fp16.loss_scale") : json.where("fp16.enabled"),
      zero ? "DeepSpeed's rule for fp16 with ZeRO, with its numbers." : "DeepSpeed's rule for fp16 without ZeRO.");
  if (const auto power = json.whole("fp16.initial_scale_power"); power && std::exp2(*power) != usual.initial)
    draft.set("train.loss_scale_initial", toml(std::exp2(static_cast<double>(*power))),
              json.where("fp16.initial_scale_power"));
  if (const auto window = json.whole("fp16.loss_scale_window"); window && *window != usual.window)
    draft.set("train.loss_scale_window", toml(*window), json.where("fp16.loss_scale_window"));
  if (const auto least = json.number("fp16.min_loss_scale"); least && *least != usual.minimum)
    draft.set("train.loss_scale_minimum", toml(*least), json.where("fp16.min_loss_scale"));
  const auto hysteresis = json.whole("fp16.hysteresis");
  if (!hysteresis) return;
  if (!zero) {
    draft.say(
        Section::dead,
        fmt::format("{}: without ZeRO, DeepSpeed halves the scale at every overflow and does not read it (it does "
                    "since 2026-08)",
                    json.where("fp16.hysteresis")));
  } else if (*hysteresis != usual.hysteresis) {
    draft.set("train.loss_scale_hysteresis", toml(*hysteresis), json.where("fp16.hysteresis"));
  }
}

void translate_megatron_loss_scale(Original& original, Draft& draft) {
  Arguments& flags = original.flags;
  const auto where = [&](const char* name) { return flags.find(name)->where(); };
  if (const auto fixed = flags.number("loss_scale"); fixed && *fixed > 0) {
    draft.set("train.loss_scale", toml("constant"), where("loss_scale"));
    return draft.set("train.loss_scale_initial", toml(*fixed), where("loss_scale"));
  }
  const optim::LossScaleRule usual = optim::usual_rule(optim::LossScaleKind::megatron);
  draft.set("train.loss_scale", toml("megatron"), where("fp16"));
  if (const auto value = flags.number("initial_loss_scale"); value && *value != usual.initial)
    draft.set("train.loss_scale_initial", toml(*value), where("initial_loss_scale"));
  if (const auto value = flags.number("min_loss_scale"); value && *value != usual.minimum)
    draft.set("train.loss_scale_minimum", toml(*value), where("min_loss_scale"));
  if (const auto value = flags.number("loss_scale_window");
      value && *value != static_cast<double>(usual.window) && std::abs(*value) < 0x1p53)
    draft.set("train.loss_scale_window", toml(static_cast<int64_t>(*value)), where("loss_scale_window"));
  if (const auto value = flags.whole("hysteresis"); value && *value != usual.hysteresis)
    draft.set("train.loss_scale_hysteresis", toml(*value), where("hysteresis"));
}

}  // namespace ridgeline::migrate

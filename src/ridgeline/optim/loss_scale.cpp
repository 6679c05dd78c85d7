#include "ridgeline/optim/loss_scale.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "ridgeline/base/error.h"

namespace ridgeline::optim {
namespace {

constexpr double kLargest = 0x1p127;

struct Row {
  LossScaleKind kind;
  std::string_view name;
  LossScaleRule usual;
};
constexpr std::array<Row, 4> kRows = {{
    {LossScaleKind::constant, "constant", {.kind = LossScaleKind::constant}},
    {LossScaleKind::megatron,
     "megatron",
     {.kind = LossScaleKind::megatron, .initial = 0x1p32, .minimum = 1, .window = 1000, .hysteresis = 2}},
    {LossScaleKind::deepspeed_zero,
     "deepspeed_zero",
     {.kind = LossScaleKind::deepspeed_zero, .initial = 0x1p16, .minimum = 1, .window = 1000, .hysteresis = 2}},
    {LossScaleKind::deepspeed_fused,
     "deepspeed_fused",
     {.kind = LossScaleKind::deepspeed_fused, .initial = 0x1p16, .minimum = 1, .window = 1000}},
}};

const Row& row_of(LossScaleKind kind) {
  for (const Row& row : kRows) {
    if (row.kind == kind) return row;
  }
  RL_REQUIRE(false, "no loss scale has number {}", static_cast<int>(kind));
  return kRows.front();
}

}  // namespace

std::string_view name_of(LossScaleKind kind) {
  return row_of(kind).name;
}

std::vector<std::string> loss_scale_names() {
  std::vector<std::string> names;
  for (const Row& row : kRows) names.emplace_back(row.name);
  return names;
}

LossScaleKind loss_scale_of_name(std::string_view name) {
  for (const Row& row : kRows) {
    if (row.name == name) return row.kind;
  }
  const std::string guess = nearest(name, loss_scale_names());
  const std::string list = fmt::format("Loss scales: {}.", fmt::join(loss_scale_names(), ", "));
  throw Error(fmt::format("train.loss_scale = \"{}\": no such loss scale", name),
              guess.empty() ? list : fmt::format("Did you mean {}? {}", guess, list));
}

LossScaleRule usual_rule(LossScaleKind kind) {
  return row_of(kind).usual;
}

LossScaler::LossScaler(const LossScaleRule& rule) : rule_(rule), scale_(rule.initial), patience_(rule.hysteresis) {
  RL_REQUIRE(rule.initial > 0 && rule.initial <= kLargest, "initial loss scale {}", rule.initial);
  if (rule.kind == LossScaleKind::constant) return;
  RL_REQUIRE(rule.minimum > 0 && rule.minimum <= rule.initial, "smallest loss scale {} with {} at first", rule.minimum,
             rule.initial);
  RL_CHECK(rule.window, >=, 1);
  if (rule.kind != LossScaleKind::deepspeed_fused) RL_CHECK(rule.hysteresis, >=, 1);
}

void LossScaler::update(bool overflow) {
  if (rule_.kind == LossScaleKind::constant) return;
  if (overflow) {
    overflowed();
    clean_steps_ = 0;
    return;
  }
  switch (rule_.kind) {
    case LossScaleKind::constant:
      return;
    case LossScaleKind::megatron:
      if (++clean_steps_ >= rule_.window) {  // beyond it only when a resumed run's window is shorter
        clean_steps_ = 0;
        grow();
      }
      return;
    case LossScaleKind::deepspeed_zero:
    case LossScaleKind::deepspeed_fused:
      if (clean_steps_ > 0 && clean_steps_ % rule_.window == 0) grow();
      ++clean_steps_;
      return;
  }
  RL_NO_CASE(rule_.kind);
}

void LossScaler::overflowed() {
  switch (rule_.kind) {
    case LossScaleKind::constant:
      return;
    case LossScaleKind::megatron:
      if (--patience_ > 0) return;
      break;
    case LossScaleKind::deepspeed_zero:
      if (patience_ > 1) {
        --patience_;
        return;
      }
      if (scale_ <= rule_.minimum) {
        throw Error(
            fmt::format("train.loss_scale = \"deepspeed_zero\": a gradient overflowed at the smallest loss scale, "
                        "{}; there is none to go down to",
                        rule_.minimum),
            "Resume from an earlier checkpoint with a lower optimizer.learning_rate or with train.precision = "
            "\"bf16\", which needs no loss scale; or lower train.loss_scale_minimum.");
      }
      break;
    case LossScaleKind::deepspeed_fused:
      break;
  }
  scale_ = std::max(scale_ / 2, rule_.minimum);
}

void LossScaler::grow() {
  scale_ = std::min(scale_ * 2, kLargest);
  patience_ = rule_.hysteresis;
}

nlohmann::json LossScaler::to_json() const {
  return {{"kind", name_of(rule_.kind)}, {"scale", scale_}, {"clean_steps", clean_steps_}, {"patience", patience_}};
}

LossScaler LossScaler::from_json(const LossScaleRule& rule, const nlohmann::json& json, std::string_view where) {
  LossScaler scaler(rule);
  try {
    const auto kind = json.at("kind").get<std::string>();
    const auto scale = json.at("scale").get<double>();
    const auto clean_steps = json.at("clean_steps").get<int64_t>();
    const auto patience = json.at("patience").get<int64_t>();
    if (!(scale > 0 && scale <= kLargest)) {
      throw Error(fmt::format("'{}': a loss scale of {} is not possible", where, scale));
    }
    if (clean_steps < 0)
      throw Error(fmt::format("'{}': {} steps without overflow are not possible", where, clean_steps));
    if (rule.kind == LossScaleKind::constant) return scaler;
    scaler.scale_ = std::max(scale, rule.minimum);
    if (kind != name_of(rule.kind)) return scaler;
    scaler.clean_steps_ = clean_steps;
    // A shorter hysteresis than before holds at once.
    scaler.patience_ = std::min(patience, rule.hysteresis);
    return scaler;
  } catch (const nlohmann::json::exception& error) {
    throw Error(fmt::format("'{}': no state of a loss scale: {}", where, error.what()));
  }
}

}  // namespace ridgeline::optim

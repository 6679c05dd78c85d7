// Loss scaling for fp16: gradients are computed of scale * loss, so that small ones do not round to zero, and divided
// by the scale before the update. A dynamic scale falls when a gradient overflows (that step is skipped, on all ranks)
// and rises again after a while without. How exactly differs between trainers; three of their rules are here, so that a
// run moves with its trace of scales.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace ridgeline::optim {

enum class LossScaleKind : uint8_t { constant, megatron, deepspeed_zero, deepspeed_fused };

// "constant", "megatron", "deepspeed_zero", "deepspeed_fused".
std::string_view name_of(LossScaleKind kind);
// Error that lists the names (and the nearest one) for any other.
LossScaleKind loss_scale_of_name(std::string_view name);
std::vector<std::string> loss_scale_names();

// The numbers of a rule. A member at 0 is one that the kind does not read: constant reads `initial` alone,
// deepspeed_fused everything but `hysteresis`.
struct LossScaleRule {
  LossScaleKind kind = LossScaleKind::megatron;
  double initial = 0;
  double minimum = 0;      // at most `initial`
  int64_t window = 0;      // clean steps until the scale doubles, >= 1
  int64_t hysteresis = 0;  // overflows until it halves, >= 1

  bool operator==(const LossScaleRule&) const = default;
};
// The numbers that the kind's own trainer starts with: window 1000, hysteresis 2, minimum 1, initial 2^32 (megatron) or
// 2^16 (deepspeed_*). constant has no usual value: initial 0.
LossScaleRule usual_rule(LossScaleKind kind);

// A state machine, as a value. update() is called once per step, after all ranks have agreed whether a gradient of any
// of them overflowed; the same calls give the same scales on every rank.
//
//   megatron         DynamicGradScaler of Megatron-LM.
//     overflow       patience -= 1; when that leaves patience <= 0: scale = max(scale / 2, minimum).
//     clean          after `window` clean steps in a row: scale *= 2, patience = hysteresis, and the count starts
//     again.
//   deepspeed_zero   DynamicLossScaler of DeepSpeed, with ZeRO.
//     overflow       patience > 1: patience -= 1. Else scale = max(scale / 2, minimum), and an Error when it was there.
//     clean          when the number c of clean steps since the last overflow (or the start), before this one, is a
//                    positive multiple of `window`: scale *= 2, patience = hysteresis. So first after window + 1 of
//                    them. (Since 2023-09; v0.10.3 doubled one step earlier.)
//   deepspeed_fused  FP16_Optimizer of DeepSpeed without ZeRO.
//     overflow       scale = max(scale / 2, minimum), at once. (Hysteresis is not read; it is since 2026-08.)
//     clean          as deepspeed_zero.
//   constant         the scale never changes.
//
// Patience begins at `hysteresis`. A scale grows to 2^127 at most, so that it is a number in fp32.
class LossScaler {
 public:
  // Broken invariant unless initial is finite and positive and the rest is as LossScaleRule says.
  explicit LossScaler(const LossScaleRule& rule);

  const LossScaleRule& rule() const { return rule_; }
  // Of the next step.
  double scale() const { return scale_; }
  // Whether the step that used scale() overflowed. Error with a way out where deepspeed_zero gives up; the state is
  // then unchanged.
  void update(bool overflow);

  // The state (not the rule) for a checkpoint: {"kind", "scale", "clean_steps", "patience"}. Doubles are written so
  // that they read back exactly: a restored machine goes on with the same bits.
  nlohmann::json to_json() const;
  // A machine with `rule` in the state of a checkpoint, which `where` names in errors (missing or impossible values). A
  // rule of another kind than the saved one takes over the scale, raised to its minimum, and begins its counts anew;
  // `constant` keeps its own scale.
  static LossScaler from_json(const LossScaleRule& rule, const nlohmann::json& json, std::string_view where);

  bool operator==(const LossScaler&) const = default;

 private:
  void overflowed();
  void grow();

  LossScaleRule rule_;
  double scale_;
  int64_t clean_steps_ = 0;  // since the last overflow; megatron: or since the scale last grew
  int64_t patience_;         // overflows that are still forgiven, plus one
};

}  // namespace ridgeline::optim

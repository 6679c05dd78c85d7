// The traces are worked out by hand from the rules in loss_scale.h, one update after the other.
#include "ridgeline/optim/loss_scale.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <vector>

#include "ridgeline/base/error.h"

namespace ridgeline::optim {
namespace {

using testing::HasSubstr;

// 'O': the step overflowed; '.': it did not. Then the scale of the next step.
struct Update {
  char step;
  double scale;
};
using Trace = std::vector<Update>;

LossScaleRule small(LossScaleKind kind, int64_t hysteresis = 2) {
  return {.kind = kind, .initial = 16, .minimum = 2, .window = 3, .hysteresis = hysteresis};
}

void expect_trace(LossScaler scaler, const Trace& trace) {
  for (size_t i = 0; i < trace.size(); ++i) {
    scaler.update(trace[i].step == 'O');
    EXPECT_EQ(scaler.scale(), trace[i].scale) << name_of(scaler.rule().kind) << ", update " << i + 1;
  }
}

const Trace kMegatronTrace = {
    {'O', 16}, {'O', 8},  {'O', 4},              // the second overflow halves, and every further one
    {'.', 4},  {'.', 4},  {'O', 2},              // two clean steps restore no patience
    {'O', 2},                                    // not below the minimum
    {'.', 2},  {'.', 2},  {'.', 4},              // three in a row double and restore it
    {'O', 4},                                    // forgiven
    {'.', 4},  {'.', 4},  {'.', 8},              //
    {'.', 8},  {'.', 8},  {'.', 16}, {'.', 16},  // the count begins again at each doubling
    {'O', 16}, {'.', 16}, {'.', 16}, {'O', 8},   // patience was lost by the overflow before
    {'.', 8},  {'.', 8},  {'.', 16},
};

const Trace kZeroTrace = {
    {'.', 16}, {'.', 16}, {'.', 16}, {'.', 32},            // three clean steps before this one
    {'.', 32}, {'.', 32}, {'.', 64}, {'.', 64},            // six before the seventh
    {'O', 64}, {'.', 64}, {'O', 32}, {'O', 16},            // one is forgiven; a clean step restores nothing
    {'.', 16}, {'.', 16}, {'.', 16}, {'.', 32},            // doubled: one is forgiven again
    {'O', 32}, {'O', 16}, {'O', 8},  {'O', 4},  {'O', 2},  //
    {'.', 2},  {'.', 2},  {'.', 2},  {'.', 4},  {'O', 4}, {'O', 2},
};

const Trace kFusedTrace = {
    {'O', 8},                                              // at once
    {'.', 8},  {'.', 8},  {'.', 8},  {'.', 16},            //
    {'.', 16}, {'.', 16}, {'.', 32},                       //
    {'O', 16}, {'O', 8},  {'O', 4},  {'O', 2},  {'O', 2},  // stays at the minimum, and the run goes on
    {'.', 2},  {'.', 2},  {'O', 2},  {'.', 2},  {'.', 2}, {'.', 2}, {'.', 4},
};

TEST(LossScale, MegatronFollowsItsTrace) {
  expect_trace(LossScaler(small(LossScaleKind::megatron)), kMegatronTrace);
}

TEST(LossScale, DeepSpeedZeroFollowsItsTrace) {
  expect_trace(LossScaler(small(LossScaleKind::deepspeed_zero)), kZeroTrace);
}

TEST(LossScale, DeepSpeedFusedFollowsItsTrace) {
  expect_trace(LossScaler(small(LossScaleKind::deepspeed_fused, 0)), kFusedTrace);
}

TEST(LossScale, HysteresisOfOneHalvesAtEveryOverflow) {
  expect_trace(LossScaler(small(LossScaleKind::megatron, 1)), {{'O', 8}, {'.', 8}, {'O', 4}});
  expect_trace(LossScaler(small(LossScaleKind::deepspeed_zero, 1)), {{'O', 8}, {'.', 8}, {'O', 4}});
}

TEST(LossScale, HysteresisOfThreeForgivesTwo) {
  expect_trace(LossScaler(small(LossScaleKind::megatron, 3)), {{'O', 16}, {'O', 16}, {'O', 8}, {'O', 4}});
  expect_trace(LossScaler(small(LossScaleKind::deepspeed_zero, 3)), {{'O', 16}, {'O', 16}, {'O', 8}, {'O', 4}});
}

TEST(LossScale, ConstantNeverChanges) {
  const LossScaleRule rule{.kind = LossScaleKind::constant, .initial = 1000};
  expect_trace(LossScaler(rule), {{'O', 1000}, {'.', 1000}, {'O', 1000}});
}

TEST(LossScale, UsualRulesAreThoseOfTheTrainers) {
  LossScaler megatron(usual_rule(LossScaleKind::megatron));
  EXPECT_EQ(megatron.scale(), 4294967296.0);
  for (int i = 0; i < 999; ++i) megatron.update(false);
  EXPECT_EQ(megatron.scale(), 4294967296.0);
  megatron.update(false);
  EXPECT_EQ(megatron.scale(), 8589934592.0);

  for (const LossScaleKind kind : {LossScaleKind::deepspeed_zero, LossScaleKind::deepspeed_fused}) {
    LossScaler scaler(usual_rule(kind));
    EXPECT_EQ(scaler.scale(), 65536.0);
    for (int i = 0; i < 1000; ++i) scaler.update(false);
    EXPECT_EQ(scaler.scale(), 65536.0);
    scaler.update(false);
    EXPECT_EQ(scaler.scale(), 131072.0);
  }
  // With hysteresis 2 the first overflow costs nothing, without it half.
  LossScaler zero(usual_rule(LossScaleKind::deepspeed_zero)), fused(usual_rule(LossScaleKind::deepspeed_fused));
  zero.update(true);
  fused.update(true);
  EXPECT_EQ(zero.scale(), 65536.0);
  EXPECT_EQ(fused.scale(), 32768.0);
}

TEST(LossScale, DeepSpeedZeroGivesUpAtTheMinimumWithAWayOut) {
  LossScaler scaler(small(LossScaleKind::deepspeed_zero, 1));
  for (int i = 0; i < 3; ++i) scaler.update(true);
  EXPECT_EQ(scaler.scale(), 2);
  const LossScaler before = scaler;
  try {
    scaler.update(true);
    FAIL() << "went on";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("at the smallest loss scale, 2"));
    EXPECT_THAT(error.next_step(), HasSubstr("bf16"));
    EXPECT_THAT(error.next_step(), HasSubstr("optimizer.learning_rate"));
  }
  EXPECT_EQ(scaler, before);
}

TEST(LossScale, ForgivenOverflowsAtTheMinimumDoNotEndTheRun) {
  LossScaleRule rule = small(LossScaleKind::deepspeed_zero);
  rule.initial = rule.minimum;
  LossScaler scaler(rule);
  scaler.update(true);
  EXPECT_EQ(scaler.scale(), 2);
  EXPECT_THROW(scaler.update(true), Error);
}

TEST(LossScale, GrowsToTheLargestPowerOfTwoInFloatAtMost) {
  LossScaleRule rule = small(LossScaleKind::megatron);
  rule.initial = 0x1p126;
  LossScaler scaler(rule);
  for (int i = 0; i < 9; ++i) scaler.update(false);
  EXPECT_EQ(scaler.scale(), 0x1p127);
}

// ----------------------------------------------------------------------------------------------------------
// checkpoints

LossScaler through_text(const LossScaler& scaler) {
  return LossScaler::from_json(scaler.rule(), nlohmann::json::parse(scaler.to_json().dump()), "a checkpoint");
}

TEST(LossScale, ResumedAtAnyUpdateItGoesOnWithTheSameTrace) {
  const std::pair<LossScaleRule, const Trace*> runs[] = {{small(LossScaleKind::megatron), &kMegatronTrace},
                                                         {small(LossScaleKind::deepspeed_zero), &kZeroTrace},
                                                         {small(LossScaleKind::deepspeed_fused, 0), &kFusedTrace}};
  for (const auto& [rule, trace] : runs) {
    LossScaler scaler(rule);
    for (size_t done = 0; done <= trace->size(); ++done) {
      EXPECT_EQ(through_text(scaler), scaler);
      expect_trace(through_text(scaler), Trace(trace->begin() + static_cast<std::ptrdiff_t>(done), trace->end()));
      if (done < trace->size()) scaler.update((*trace)[done].step == 'O');
    }
  }
}

TEST(LossScale, ScalesThatAreNoPowersOfTwoReadBackExactly) {
  LossScaleRule rule = small(LossScaleKind::megatron, 1);
  rule.initial = 1e9 / 3;
  rule.minimum = 0.1;
  LossScaler scaler(rule);
  scaler.update(true);
  EXPECT_EQ(through_text(scaler).scale(), 1e9 / 3 / 2);
}

TEST(LossScale, AnotherKindTakesOverTheScaleAlone) {
  LossScaler megatron(small(LossScaleKind::megatron));
  for (int i = 0; i < 3; ++i) megatron.update(true);  // scale 4, patience spent
  EXPECT_EQ(megatron.scale(), 4);
  const nlohmann::json saved = megatron.to_json();
  LossScaler zero = LossScaler::from_json(small(LossScaleKind::deepspeed_zero), saved, "x");
  expect_trace(zero, {{'O', 4}, {'O', 2}});
  const LossScaleRule constant{.kind = LossScaleKind::constant, .initial = 512};
  EXPECT_EQ(LossScaler::from_json(constant, saved, "x").scale(), 512);
  LossScaleRule higher = small(LossScaleKind::megatron);
  higher.minimum = 8;
  EXPECT_EQ(LossScaler::from_json(higher, saved, "x").scale(), 8);
}

TEST(LossScale, AShorterWindowHoldsFromTheNextStep) {
  LossScaleRule rule = small(LossScaleKind::megatron);
  rule.window = 100;
  LossScaler scaler(rule);
  for (int i = 0; i < 50; ++i) scaler.update(false);
  LossScaler shorter = LossScaler::from_json(small(LossScaleKind::megatron), scaler.to_json(), "x");
  expect_trace(shorter, {{'.', 32}, {'.', 32}, {'.', 32}, {'.', 64}});
}

TEST(LossScale, ImpossibleStatesAreErrorsThatNameTheFile) {
  const nlohmann::json good = LossScaler(small(LossScaleKind::megatron)).to_json();
  const auto expect_refused = [](const nlohmann::json& json, const char* why) {
    try {
      LossScaler::from_json(small(LossScaleKind::megatron), json, "step_7/manifest.json");
      ADD_FAILURE() << "accepted " << json;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("'step_7/manifest.json'"));
      EXPECT_THAT(error.what(), HasSubstr(why));
    }
  };
  for (const char* key : {"kind", "scale", "clean_steps", "patience"}) {
    nlohmann::json json = good;
    json.erase(key);
    expect_refused(json, key);
  }
  const auto with = [&](const char* key, nlohmann::json value) {
    nlohmann::json json = good;
    json[key] = std::move(value);
    return json;
  };
  expect_refused(with("scale", 0.0), "a loss scale of 0");
  expect_refused(with("scale", -4.0), "a loss scale of -4");
  expect_refused(with("scale", 1e300), "a loss scale of 1e+300");
  expect_refused(with("scale", "big"), "type");
  expect_refused(with("clean_steps", -1), "-1 steps");
  expect_refused(nlohmann::json(3), "no state of a loss scale");
}

TEST(LossScale, NamesReadBackAndUnknownOnesGetAHint) {
  EXPECT_EQ(loss_scale_names().size(), 4U);
  for (const std::string& name : loss_scale_names()) EXPECT_EQ(name_of(loss_scale_of_name(name)), name);
  try {
    loss_scale_of_name("megatrn");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("Did you mean megatron?"));
  }
}

TEST(LossScaleDeathTest, AMinimumAboveTheFirstScaleIsABrokenInvariant) {
  LossScaleRule rule = small(LossScaleKind::megatron);
  rule.minimum = 32;
  EXPECT_DEATH(LossScaler{rule}, "smallest loss scale 32 with 16 at first");
}

}  // namespace
}  // namespace ridgeline::optim

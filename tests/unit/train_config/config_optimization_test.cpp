// Keys of the learning rate, the batch ramp, the loss scale and the optimizer: what they become, and what is refused.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "expect_error.h"
#include "ridgeline/train/config.h"
#include "ridgeline/train/config_keys.h"

namespace ridgeline::train {
namespace {

constexpr const char* kScheduled = R"([model]
layers = 4
width = 256
heads = 8
vocab = 4096
context = 256
[train]
steps = 100
global_batch = 24
micro_batch = 2
[optimizer]
learning_rate = 1e-3
)";

Config scheduled(std::vector<std::string> overrides = {}) {
  return parse_config_text(kScheduled, "a.toml", overrides);
}

void expect_refused(const std::vector<std::string>& overrides, std::initializer_list<std::string> fragments,
                    int ranks = 1) {
  expect_error([&] { check(scheduled(overrides), ranks); }, fragments);
}

// ------------------------------------------------------------------------------------------------------------
// schedules

// Of a run of 100 steps of 4 sequences.
std::vector<double> rates(const Config& config) {
  std::vector<double> all;
  for (int64_t k = 0; k < 100; ++k) {
    all.push_back(
        optim::learning_rate(schedule_of(config), {.step = k + 1, .successful_steps = k, .successful_samples = 4 * k}));
  }
  return all;
}

// Another value, which is not the default either.
struct Change {
  void operator()(int64_t* v) const { *v += 10; }
  void operator()(double* v) const { *v = *v / 2 + 1e-5; }
  void operator()(float* v) const { *v = *v / 2 + 1e-5F; }
  void operator()(bool* v) const { *v = !*v; }
  void operator()(std::string* v) const { *v += "x"; }
  void operator()(DatasetList* v) const { *v = "x"; }
  void operator()(const Choice<uint8_t>& v) const {
    *v.value = static_cast<uint8_t>((*v.value + size_t{1}) % v.words.size());
  }
};

// Whatever key sets a part of the schedule: nobody has to list it here.
TEST(ConfigSchedules, AKeyIsAcceptedExactlyWhereItChangesTheLearningRate) {
  std::set<std::string_view> refused;
  for (const std::string_view name : words_of(optim::LearningRateKind{})) {
    const std::string schedule = fmt::format("optimizer.schedule={}", name);
    EXPECT_NO_THROW(check(scheduled({schedule}), 1)) << name;
    EXPECT_NO_THROW(check(scheduled({schedule, "optimizer.warmup_shape=linear"}), 1)) << name;
    const Config before = [&] {
      Config config = scheduled({schedule});
      config.optimizer.schedule = {.kind = config.optimizer.schedule.kind,
                                   .learning_rate = 1e-3,
                                   .min_learning_rate = 2.5e-4,
                                   .warmup_steps = 10,
                                   .warmup_samples = 40,
                                   .decay_samples = 300,
                                   .warmup_shape = optim::WarmupShape::linear};
      return config;
    }();
    for (const Key& key : keys()) {
      Config after = before;
      std::visit(Change{}, key.slot(after));
      if (after.optimizer.schedule == before.optimizer.schedule) continue;
      const std::string value = value_text(slot_of(key, after));
      const std::vector<std::string> overrides = {schedule, fmt::format("{}={}", key.name, value)};
      if (rates(after) != rates(before)) {
        EXPECT_NO_THROW(check(scheduled(overrides), 1)) << name << ", " << overrides.back();
      } else {
        refused.insert(key.name);
        expect_refused(overrides,
                       {fmt::format("--set: {} = {}: not read by optimizer.schedule = \"{}\"", key.name, value, name)});
      }
    }
  }
  EXPECT_EQ(std::ssize(refused),
            std::count_if(keys().begin(), keys().end(), [](const Key& key) { return key.read_by != nullptr; }));
}

TEST(ConfigSchedules, ARefusedKeyNamesTheSchedulesThatReadIt) {
  expect_refused({"optimizer.schedule=megatron_cosine", "optimizer.warmup_steps=10"},
                 {"optimizer.warmup_steps = 10: not read", "constant, linear, cosine, deepspeed_warmup"});
  expect_refused({"optimizer.warmup_samples=10"},
                 {"not read by optimizer.schedule = \"cosine\"",
                  "megatron_constant, megatron_linear, megatron_cosine, megatron_inverse_sqrt."});
  expect_refused({"optimizer.schedule=megatron_constant", "optimizer.decay_samples=10"},
                 {"choose a schedule that reads it: megatron_linear, megatron_cosine"});
  expect_refused({"optimizer.warmup_shape=log"}, {"deepspeed_warmup, deepspeed_warmup_decay."});
}

TEST(ConfigSchedules, KeysAtTheirDefaultAreNoChoice) {
  // So that the effective configuration that a run leaves behind, which holds every key, can be used again.
  for (const std::string_view name : words_of(optim::LearningRateKind{})) {
    const Config config = scheduled({fmt::format("optimizer.schedule={}", name)});
    EXPECT_NO_THROW(check(parse_config_text(to_toml(config, Detail::documented), "config.toml"), 1)) << name;
  }
}

TEST(ConfigSchedules, MegatronDecaysOverTheWholeRunUnlessToldOtherwise) {
  const std::string megatron = "optimizer.schedule=megatron_linear";
  EXPECT_EQ(schedule_of(scheduled({megatron})).decay_samples, 2400);
  EXPECT_EQ(schedule_of(scheduled({megatron, "optimizer.decay_samples=77"})).decay_samples, 77);
  // 100 samples in steps of 2, then 100 in steps of 4, and so on: 11 parts of 100.
  const Config ramp = scheduled({megatron, "train.batch_ramp_start=2", "train.batch_ramp_increment=2",
                                 "train.batch_ramp_samples=1100", "train.steps=80"});
  EXPECT_EQ(schedule_of(ramp).decay_samples, 100 + 4 * 25 + 5 * 6);  // 50, 25 and 5 steps of 80
}

TEST(ConfigSchedules, MegatronsWarmUpMustEndBeforeTheDecay) {
  const std::string megatron = "optimizer.schedule=megatron_cosine";
  EXPECT_NO_THROW(check(scheduled({megatron, "optimizer.warmup_samples=2399"}), 1));
  expect_refused({megatron, "optimizer.warmup_samples=2400"},
                 {"--set: optimizer.warmup_samples = 2400: must be below the sequences of the whole run = 2400",
                  "nearest valid value is 2399; or raise train.steps"});
  expect_refused({megatron, "optimizer.warmup_samples=90", "optimizer.decay_samples=80"},
                 {"optimizer.warmup_samples = 90: must be below optimizer.decay_samples = 80", "79"});
}

// ------------------------------------------------------------------------------------------------------------ batch
// ramp

std::vector<std::string> ramp(int64_t start, int64_t increment, int64_t samples) {
  return {"train.batch_ramp_start=" + std::to_string(start), "train.batch_ramp_increment=" + std::to_string(increment),
          "train.batch_ramp_samples=" + std::to_string(samples)};
}

TEST(ConfigBatchRamp, CarriesEverySetting) {
  const Config config = scheduled(ramp(4, 4, 1000));
  EXPECT_NO_THROW(check(config, 1));
  EXPECT_NO_THROW(check(config, 2));
  const optim::BatchRamp result = batch_ramp_of(config);
  EXPECT_EQ(result.global, 24);
  EXPECT_EQ(result.start, 4);
  EXPECT_EQ(result.increment, 4);
  EXPECT_EQ(result.samples, 1000);
  EXPECT_EQ(batch_ramp_of(scheduled()).start, 0);
}

TEST(ConfigBatchRamp, EveryBatchMustBeAMultipleOfRanksTimesMicroBatch) {
  expect_refused(ramp(5, 2, 10),
                 {"--set: train.batch_ramp_start = 5: not a multiple of ranks x train.micro_batch = 1 x "
                  "2 = 2",
                  "nearest valid value is 6."});
  expect_refused(ramp(4, 4, 10), {"train.batch_ramp_start = 4: not a multiple", "3 x 2 = 6", "value is 6."}, 3);
  expect_refused(ramp(6, 3, 10), {"train.batch_ramp_increment = 3: not a multiple", "3 x 2 = 6", "value is 6."}, 3);
}

TEST(ConfigBatchRamp, TheIncrementMustReachTheGlobalBatch) {
  expect_refused(ramp(4, 6, 10), {"--set: train.batch_ramp_increment = 6: does not divide train.global_batch - "
                                  "train.batch_ramp_start = 20",
                                  "nearest valid value is 4."});
  expect_refused(ramp(4, 0, 10), {"train.batch_ramp_increment = 0", "nearest valid value is 2."});
  expect_refused(ramp(24, 2, 10), {"train.batch_ramp_start = 24: must be below train.global_batch = 24", "is 22."});
  expect_refused(ramp(400, 2, 10), {"train.batch_ramp_start = 400", "is 22."});
  expect_refused(ramp(12, 12, 0),
                 {"train.batch_ramp_samples = 0: the ramp needs a length", "100 steps per batch", "1200."});
  expect_refused(ramp(12, 12, 10), {"train.batch_ramp_start = 12", "leaves no room for a ramp"}, 12);
}

TEST(ConfigBatchRamp, SuggestionsAreValid) {
  EXPECT_NO_THROW(check(scheduled(ramp(6, 2, 10)), 1));
  EXPECT_NO_THROW(check(scheduled(ramp(6, 6, 10)), 3));
  EXPECT_NO_THROW(check(scheduled(ramp(4, 4, 10)), 1));
  EXPECT_NO_THROW(check(scheduled(ramp(4, 2, 10)), 1));
  EXPECT_NO_THROW(check(scheduled(ramp(22, 2, 10)), 1));
  EXPECT_NO_THROW(check(scheduled(ramp(12, 12, 1200)), 1));
}

TEST(ConfigBatchRamp, WithoutAStartTheOthersAreNotRead) {
  expect_refused({"train.batch_ramp_increment=2"}, {"train.batch_ramp_increment = 2: there is no ramp", "start"});
  expect_refused({"train.batch_ramp_samples=9"}, {"train.batch_ramp_samples = 9: there is no ramp", "start"});
}

// ------------------------------------------------------------------------------------------------------------ loss
// scale

optim::LossScaleRule rule_of(std::vector<std::string> overrides) {
  Config config = scheduled(std::move(overrides));
  config.train.precision = Precision::fp16;
  const auto rule = loss_scale_of(config);
  EXPECT_TRUE(rule.has_value());
  return rule.value_or(optim::LossScaleRule{});
}

TEST(ConfigLossScale, IsMegatronsForFp16UnlessToldOtherwise) {
  EXPECT_EQ(rule_of({}), optim::usual_rule(optim::LossScaleKind::megatron));
  for (const std::string& name : optim::loss_scale_names()) {
    if (name == "constant") continue;
    EXPECT_EQ(rule_of({"train.loss_scale=" + name}), optim::usual_rule(optim::loss_scale_of_name(name))) << name;
  }
}

TEST(ConfigLossScale, TakesItsNumbersFromTheKeys) {
  const optim::LossScaleRule rule =
      rule_of({"train.loss_scale=deepspeed_zero", "train.loss_scale_initial=1024", "train.loss_scale_minimum=0.5",
               "train.loss_scale_window=20", "train.loss_scale_hysteresis=3"});
  EXPECT_EQ(rule, (optim::LossScaleRule{.kind = optim::LossScaleKind::deepspeed_zero,
                                        .initial = 1024,
                                        .minimum = 0.5,
                                        .window = 20,
                                        .hysteresis = 3}));
  EXPECT_EQ(rule_of({"train.loss_scale=constant", "train.loss_scale_initial=4096"}).initial, 4096);
}

TEST(ConfigLossScale, OtherPrecisionsHaveNone) {
  EXPECT_FALSE(loss_scale_of(scheduled()).has_value());
  EXPECT_FALSE(loss_scale_of(scheduled({"train.precision=bf16"})).has_value());
  expect_refused(
      {"train.precision=bf16", "train.loss_scale=megatron"},
      {"--set: train.loss_scale = \"megatron\": only fp16 has a loss scale, and train.precision = \"bf16\""});
  for (const char* key : {"initial=2", "minimum=2", "window=2", "hysteresis=2"}) {
    expect_refused({std::string("train.loss_scale_") + key}, {"train.loss_scale_", "only fp16 has a loss scale"});
  }
}

TEST(ConfigLossScale, RefusesWhatTheKindDoesNotRead) {
  expect_error(
      [] {
        rule_of({"train.loss_scale=deepspeed_fused", "train.loss_scale_hysteresis=2"});
      },
      {"train.loss_scale_hysteresis = 2: not read by train.loss_scale = \"deepspeed_fused\""});
  for (const char* key : {"minimum", "window", "hysteresis"}) {
    const std::string given = std::string("train.loss_scale_") + key + "=2";
    expect_error(
        [&] {
          rule_of({"train.loss_scale=constant", "train.loss_scale_initial=8", given});
        },
        {std::string("train.loss_scale_") + key, "not read by train.loss_scale = \"constant\""});
  }
  expect_error([] { rule_of({"train.loss_scale=constant"}); }, {"train.loss_scale_initial: not given"});
}

TEST(ConfigLossScale, TheMinimumIsNotAboveTheFirstScale) {
  expect_error(
      [] {
        rule_of({"train.loss_scale_minimum=8", "train.loss_scale_initial=4"});
      },
      {"train.loss_scale_minimum = 8.0: above the first loss scale, 4", "nearest valid value is 4."});
  expect_error([] { rule_of({"train.loss_scale_initial=0.25"}); },
               {"train.loss_scale_initial = 0.25: below the smallest loss scale, 1", "nearest valid value is 1."});
}

// ------------------------------------------------------------------------------------------------------------- the
// table

TEST(ConfigOptimizer, FormAndStateAreWords) {
  EXPECT_EQ(scheduled().optimizer.form, AdamForm::adamw);
  EXPECT_EQ(scheduled().optimizer.state, Storage::fp32);
  EXPECT_EQ(scheduled({"optimizer.form=adam"}).optimizer.form, AdamForm::adam);
  EXPECT_EQ(scheduled({"optimizer.state=bf16"}).optimizer.state, Storage::bf16);
  expect_error([] { scheduled({"optimizer.form=adamW"}); },
               {"must be adamw | adam", "nearest valid value is \"adamw\""});
  expect_error([] { scheduled({"optimizer.state=fp16"}); }, {"must be fp32 | bf16"});
  expect_error([] { scheduled({"train.loss_scale=1024"}); }, {"must be usual | constant | megatron"});
}

// ------------------------------------------------------------------------------------------------------------ offload

TEST(ConfigOffload, WhereAndHowLargeAreReadForAFileAlone) {
  for (const char* const offload : {"none", "host"}) {
    const std::string where = std::string("optimizer.offload=") + offload;
    EXPECT_NO_THROW(check(scheduled({where}), 1));
    for (const char* const key : {"optimizer.offload_directory=/scratch", "optimizer.offload_buffer=2097152"})
      expect_refused({where, key}, {"--set: optimizer.offload_", "not read by optimizer.offload", "\"file\""});
  }
  EXPECT_NO_THROW(check(
      scheduled({"optimizer.offload=file", "optimizer.offload_directory=/scratch", "optimizer.offload_buffer=1048576"}),
      1));
  expect_refused({"optimizer.offload=file", "optimizer.offload_buffer=1048575"},
                 {"optimizer.offload_buffer", "at least 1048576"});
  expect_refused({"optimizer.offload=nvme"}, {"optimizer.offload", "none", "host", "file"});
}

}  // namespace
}  // namespace ridgeline::train

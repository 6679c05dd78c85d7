#include "ridgeline/optim/learning_rate.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "ridgeline/base/error.h"

namespace ridgeline::optim {
namespace {

double ratio(int64_t part, int64_t whole) {
  return static_cast<double>(part) / static_cast<double>(whole);
}

// What is left of the way from the peak to the minimum at progress p in [0, 1].
double linear_remainder(double p) {
  return 1.0 - p;
}
double cosine_remainder(double p) {
  return 0.5 * (1.0 + std::cos(std::numbers::pi * p));
}

double between(const Schedule& schedule, double share) {
  return schedule.min_learning_rate + (schedule.learning_rate - schedule.min_learning_rate) * share;
}

using Formula = double (*)(const Schedule& schedule, const Progress& progress);
using Remainder = double (*)(double p);

double constant_rate(const Schedule& schedule, const Progress& progress) {
  const int64_t s = progress.step, warmup = schedule.warmup_steps;
  return s <= warmup ? schedule.learning_rate * static_cast<double>(s) / static_cast<double>(warmup)
                     : schedule.learning_rate;
}

template <Remainder remainder>
double decay(const Schedule& schedule, const Progress& progress) {
  const int64_t s = progress.step, warmup = schedule.warmup_steps, end = schedule.steps;
  if (s <= warmup) return constant_rate(schedule, progress);
  if (s >= end) return schedule.min_learning_rate;
  return between(schedule, remainder(ratio(s - warmup, end - warmup)));
}

double megatron_constant_rate(const Schedule& schedule, const Progress& progress) {
  const int64_t n = progress.successful_samples, warmup = schedule.warmup_samples;
  return n <= warmup && warmup > 0 ? schedule.learning_rate * ratio(n, warmup) : schedule.learning_rate;
}

template <Remainder remainder>
double megatron_decay(const Schedule& schedule, const Progress& progress) {
  const int64_t n = progress.successful_samples, warmup = schedule.warmup_samples, end = schedule.decay_samples;
  if (n <= warmup && warmup > 0) return megatron_constant_rate(schedule, progress);
  if (n > end) return schedule.min_learning_rate;
  return between(schedule, remainder(ratio(n - warmup, end - warmup)));
}

double megatron_inverse_sqrt_rate(const Schedule& schedule, const Progress& progress) {
  const int64_t n = progress.successful_samples, warmup = schedule.warmup_samples;
  if (n <= warmup && warmup > 0) return megatron_constant_rate(schedule, progress);
  if (n > schedule.decay_samples) return schedule.min_learning_rate;
  const double root = std::sqrt(static_cast<double>(std::max<int64_t>(warmup, 1))) /
                      std::sqrt(static_cast<double>(std::max<int64_t>(n, 1)));
  return std::max(schedule.min_learning_rate, schedule.learning_rate * root);
}

int64_t deepspeed_warmup_steps(const Schedule& schedule) {
  return std::max<int64_t>(2, schedule.warmup_steps);
}

double deepspeed_warmup_rate(const Schedule& schedule, const Progress& progress) {
  const int64_t j = progress.successful_steps - 1, warmup = deepspeed_warmup_steps(schedule);
  if (j < 0) return schedule.min_learning_rate;
  if (j >= warmup) return schedule.learning_rate;
  if (schedule.warmup_shape == WarmupShape::linear) return between(schedule, ratio(j, warmup));
  return between(schedule, std::log(static_cast<double>(j + 1)) / std::log(static_cast<double>(warmup)));
}

double deepspeed_warmup_decay_rate(const Schedule& schedule, const Progress& progress) {
  const int64_t j = progress.successful_steps - 1, warmup = deepspeed_warmup_steps(schedule), end = schedule.steps;
  if (j < warmup) return deepspeed_warmup_rate(schedule, progress);
  return between(schedule, std::max(0.0, ratio(end - j, std::max<int64_t>(1, end - warmup))));
}

// The remainder takes p beyond 1: transformers limits the outcome, not p.
template <Remainder remainder>
double hugging_face(const Schedule& schedule, const Progress& progress) {
  const int64_t k = progress.successful_steps, warmup = schedule.warmup_steps, end = schedule.steps;
  if (k < warmup) return schedule.learning_rate * ratio(k, warmup);
  return schedule.learning_rate * std::max(0.0, remainder(ratio(k - warmup, std::max<int64_t>(1, end - warmup))));
}

struct Kind {
  LearningRateKind kind;
  std::string_view name;
  ScheduleSettings settings;
  Formula formula;
};
constexpr ScheduleSettings kBySteps{.steps = true}, kByStepsToMinimum{.minimum = true, .steps = true},
    kBySamples{.samples = true}, kBySamplesToMinimum{.minimum = true, .samples = true, .decay = true},
    kDeepSpeed{.minimum = true, .steps = true, .warmup_shape = true};
constexpr auto kKinds = std::to_array<Kind>({
    {LearningRateKind::constant, "constant", kBySteps, constant_rate},
    {LearningRateKind::linear, "linear", kByStepsToMinimum, decay<linear_remainder>},
    {LearningRateKind::cosine, "cosine", kByStepsToMinimum, decay<cosine_remainder>},
    {LearningRateKind::megatron_constant, "megatron_constant", kBySamples, megatron_constant_rate},
    {LearningRateKind::megatron_linear, "megatron_linear", kBySamplesToMinimum, megatron_decay<linear_remainder>},
    {LearningRateKind::megatron_cosine, "megatron_cosine", kBySamplesToMinimum, megatron_decay<cosine_remainder>},
    {LearningRateKind::megatron_inverse_sqrt, "megatron_inverse_sqrt", kBySamplesToMinimum, megatron_inverse_sqrt_rate},
    {LearningRateKind::deepspeed_warmup, "deepspeed_warmup", kDeepSpeed, deepspeed_warmup_rate},
    {LearningRateKind::deepspeed_warmup_decay, "deepspeed_warmup_decay", kDeepSpeed, deepspeed_warmup_decay_rate},
    {LearningRateKind::hugging_face_linear, "hugging_face_linear", kBySteps, hugging_face<linear_remainder>},
    {LearningRateKind::hugging_face_cosine, "hugging_face_cosine", kBySteps, hugging_face<cosine_remainder>},
});

constexpr bool in_order() {
  for (size_t i = 0; i < kKinds.size(); ++i) {
    if (kKinds[i].kind != static_cast<LearningRateKind>(i)) return false;
  }
  return true;
}
static_assert(in_order(), "a row for each enumerator, in their order");

const Kind& row_of(LearningRateKind kind) {
  const auto number = static_cast<size_t>(kind);
  RL_CHECK(number, <, kKinds.size());
  return kKinds[number];
}

}  // namespace

std::span<const std::string_view> words_of(LearningRateKind /*kind*/) {
  static constexpr auto kWords = [] {
    std::array<std::string_view, kKinds.size()> words;
    std::transform(kKinds.begin(), kKinds.end(), words.begin(), [](const Kind& row) { return row.name; });
    return words;
  }();
  return kWords;
}

std::span<const std::string_view> words_of(WarmupShape /*shape*/) {
  static constexpr std::array<std::string_view, 3> kWords = {"usual", "linear", "log"};
  return kWords;
}

ScheduleSettings settings_of(LearningRateKind kind) {
  return row_of(kind).settings;
}

double learning_rate(const Schedule& schedule, const Progress& progress) {
  const Kind& row = row_of(schedule.kind);
  RL_CHECK(progress.step, >=, 1);
  RL_CHECK(progress.successful_steps, >=, 0);
  RL_CHECK(progress.successful_samples, >=, 0);
  if (row.settings.steps) RL_CHECK(schedule.warmup_steps, <, schedule.steps);
  if (row.settings.decay) RL_CHECK(schedule.warmup_samples, <, schedule.decay_samples);
  return row.formula(schedule, progress);
}

}  // namespace ridgeline::optim

// Learning rates as pure functions of a run's progress, so that a resumed run, another layout and the planner see the
// same one. Besides Ridgeline's own schedules: those of Megatron-LM, DeepSpeed and Hugging Face's Trainer, update for
// update, so that a run moves here with its curve.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace ridgeline::optim {

// The formula of each is at learning_rate().
enum class LearningRateKind : uint8_t {
  constant,
  linear,
  cosine,
  megatron_constant,
  megatron_linear,
  megatron_cosine,
  megatron_inverse_sqrt,
  deepspeed_warmup,
  deepspeed_warmup_decay,
  hugging_face_linear,
  hugging_face_cosine
};
std::span<const std::string_view> words_of(LearningRateKind kind);  // the enumerators' own spelling

// How deepspeed_* rise; `usual` is their default, logarithmic.
enum class WarmupShape : uint8_t { usual, linear, log };
std::span<const std::string_view> words_of(WarmupShape shape);

// Which members of Schedule a kind reads, besides `kind` and `learning_rate`. `steps` is a run's length, and no choice.
struct ScheduleSettings {
  bool minimum = false;       // min_learning_rate
  bool steps = false;         // warmup_steps and steps
  bool samples = false;       // warmup_samples
  bool decay = false;         // decay_samples
  bool warmup_shape = false;  // the member of that name
};
ScheduleSettings settings_of(LearningRateKind kind);

struct Schedule {
  LearningRateKind kind = LearningRateKind::cosine;
  double learning_rate = 0.0;      // the peak
  double min_learning_rate = 0.0;  // low
  int64_t warmup_steps = 0;        // W of kinds that count steps
  int64_t steps = 0;               // N, of the whole run
  int64_t warmup_samples = 0;      // W of kinds that count samples
  int64_t decay_samples = 0;       // D, where they reach the minimum
  WarmupShape warmup_shape = WarmupShape::usual;

  bool operator==(const Schedule&) const = default;
};

// Where a run stands when step s is about to begin. A step whose gradients overflowed is skipped: it counts as a step,
// but neither it nor its samples count as successful.
struct Progress {
  int64_t step = 1;                // s, from 1
  int64_t successful_steps = 0;    // k, before this step
  int64_t successful_samples = 0;  // n, of those k steps
};

// The learning rate of the step that is about to begin, in double. With peak = learning_rate, low = min_learning_rate:
//
//   constant, linear, cosine: by steps s = 1 … N; the peak is reached at step W, the minimum at step N.
//     s <= W                   peak s / W
//     s >  W, with p = (s - W) / (N - W):
//       constant               peak
//       linear                 low + (peak - low) (1 - p)
//       cosine                 low + (peak - low) (1 + cos(pi p)) / 2    (Loshchilov, Hutter, "SGDR", 2017)
//     s >= N > W               low, exactly (constant: peak)
//
//   megatron_*: by samples n (OptimizerParamScheduler of Megatron-LM). The first step runs at n = 0.
//     n <= W, W > 0            peak n / W
//     else megatron_constant   peak
//     else n > D               low
//     else with r = (n - W) / (D - W):
//       megatron_linear        low + (peak - low) (1 - r)
//       megatron_cosine        low + (peak - low) (1 + cos(pi r)) / 2
//       megatron_inverse_sqrt  max(low, peak sqrt(max(W, 1)) / sqrt(max(n, 1)))
//
//   deepspeed_*: WarmupLR and WarmupDecayLR of DeepSpeed. j = k - 1, since the scheduler steps after the update, and W
//   is at least 2. low + (peak - low) gamma, where
//     j < 0                    gamma = 0. (So since 2023-10; v0.10.3 ran the very first update at the peak.)
//     j < W                    gamma = j / W where the warm-up is linear, else ln(j + 1) / ln(W)
//     j >= W, warmup           gamma = 1
//     j >= W, warmup_decay     gamma = max(0, (N - j) / max(1, N - W))
//
//   hugging_face_*: get_linear_schedule_with_warmup and get_cosine_schedule_with_warmup (half a period) of
//   transformers.
//     k < W                    peak k / W
//     hugging_face_linear      peak max(0, (N - k) / max(1, N - W))
//     hugging_face_cosine      peak max(0, (1 + cos(pi p)) / 2), p = (k - W) / max(1, N - W)
//
// Requires s >= 1; k, n >= 0; W < N (deepspeed_*: of the W as given) and W < D for the kinds that read them.
double learning_rate(const Schedule& schedule, const Progress& progress);

}  // namespace ridgeline::optim

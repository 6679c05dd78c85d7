// The keys of the optimizer, of the learning rate, of the batch ramp and of fp16's loss scale.
#include "ridgeline/optim/loss_scale.h"
#include "ridgeline/train/config_keys.h"

namespace ridgeline::train {
namespace {

std::vector<std::string> loss_scale_words() {
  std::vector<std::string> words = optim::loss_scale_names();
  words.insert(words.begin(), "usual");
  return words;
}

}  // namespace

std::vector<Key> batch_and_scale_keys() {
  return {
      {.name = "train.batch_ramp_start",
       .unit = "sequences",
       .slot = [](Config& c) -> Slot { return &c.train.batch_ramp_start; },
       .meaning = "Global batch of the first steps, from which it grows to train.global_batch (Megatron's "
                  "--rampup-batch-size). 0: no ramp.",
       .low = 0,
       .high = 1 << 30},
      {.name = "train.batch_ramp_increment",
       .unit = "sequences",
       .slot = [](Config& c) -> Slot { return &c.train.batch_ramp_increment; },
       .meaning =
           "How much the ramp adds at a time: divides the way to train.global_batch, and is a multiple of ranks x "
           "micro_batch.",
       .low = 0,
       .high = 1 << 30},
      {.name = "train.batch_ramp_samples",
       .unit = "sequences",
       .slot = [](Config& c) -> Slot { return &c.train.batch_ramp_samples; },
       .meaning = "Training sequences over which the ramp goes, in equal parts.",
       .low = 0,
       .high = kNoLimit},
      {.name = "train.loss_scale",
       .unit = "",
       .slot = [](Config& c) -> Slot { return &c.train.loss_scale; },
       .meaning =
           "fp16: what happens to the loss scale when gradients overflow, and when they do not. megatron: "
           "DynamicGradScaler; deepspeed_zero: DynamicLossScaler, which gives up at the minimum; deepspeed_fused: "
           "FP16_Optimizer, which halves at once; constant: loss_scale_initial throughout. usual: megatron.",
       .words = loss_scale_words()},
      {.name = "train.loss_scale_initial",
       .unit = "",
       .slot = [](Config& c) -> Slot { return &c.train.loss_scale_initial; },
       .meaning = "The first loss scale. 0: the kind's own, 2^32 (megatron) or 2^16 (deepspeed_*).",
       .low = 0,
       .high = 0x1p127,
       .least = 0x1p-126},
      {.name = "train.loss_scale_minimum",
       .unit = "",
       .slot = [](Config& c) -> Slot { return &c.train.loss_scale_minimum; },
       .meaning = "The loss scale goes no lower. 0: the kind's own, 1.",
       .low = 0,
       .high = 0x1p127,
       .least = 0x1p-126},
      {.name = "train.loss_scale_window",
       .unit = "steps",
       .slot = [](Config& c) -> Slot { return &c.train.loss_scale_window; },
       .meaning = "Steps without overflow after which the loss scale doubles. 0: the kind's own, 1000.",
       .low = 0,
       .high = kNoLimit},
      {.name = "train.loss_scale_hysteresis",
       .unit = "overflows",
       .slot = [](Config& c) -> Slot { return &c.train.loss_scale_hysteresis; },
       .meaning = "Overflows until the loss scale halves: megatron, deepspeed_zero. 0: the kind's own, 2.",
       .low = 0,
       .high = kNoLimit},
  };
}

std::vector<Key> optimizer_keys() {
  using Settings = optim::ScheduleSettings;
  return {
      {.name = "optimizer.learning_rate",
       .unit = "",
       .slot = [](Config& c) -> Slot { return &c.optimizer.schedule.learning_rate; },
       .meaning = "Peak learning rate, reached after the warm-up.",
       .low = 0,
       .high = 1000},
      {.name = "optimizer.min_learning_rate",
       .unit = "",
       .slot = [](Config& c) -> Slot { return &c.optimizer.schedule.min_learning_rate; },
       .meaning =
           "Learning rate where the schedule ends: linear, cosine, megatron_*; deepspeed_*: where it begins too. "
           "constant and hugging_face_* have none.",
       .low = 0,
       .high = 1000,
       .read_by = &Settings::minimum},
      {.name = "optimizer.schedule",
       .unit = "",
       .slot = [](Config& c) -> Slot { return choice(c.optimizer.schedule.kind); },
       .meaning =
           "How the learning rate rises and falls. constant, linear, cosine: by steps; the peak is reached at step "
           "warmup_steps, the minimum at step train.steps. The others are those trainers' own, update for update: "
           "megatron_* by samples, deepspeed_* (WarmupLR, WarmupDecayLR) and hugging_face_* by steps that were not "
           "skipped; each of them begins at or near 0. Formulas: docs/schedules.md.",
       .words = words_for(optim::LearningRateKind{})},
      {.name = "optimizer.warmup_steps",
       .unit = "steps",
       .slot = [](Config& c) -> Slot { return &c.optimizer.schedule.warmup_steps; },
       .meaning = "Steps over which the learning rate rises to its peak; fewer than train.steps. Of every schedule but "
                  "megatron_*.",
       .low = 0,
       .high = kNoLimit,
       .read_by = &Settings::steps},
      {.name = "optimizer.warmup_shape",
       .unit = "",
       .slot = [](Config& c) -> Slot { return choice(c.optimizer.schedule.warmup_shape); },
       .meaning =
           "How it rises. usual: log for deepspeed_* (their default), linear for all others. Only deepspeed_* knows "
           "log.",
       .words = words_for(optim::WarmupShape{}),
       .read_by = &Settings::warmup_shape},
      {.name = "optimizer.warmup_samples",
       .unit = "sequences",
       .slot = [](Config& c) -> Slot { return &c.optimizer.schedule.warmup_samples; },
       .meaning = "megatron_*: training sequences over which the learning rate rises to its peak.",
       .low = 0,
       .high = kNoLimit,
       .read_by = &Settings::samples},
      {.name = "optimizer.decay_samples",
       .unit = "sequences",
       .slot = [](Config& c) -> Slot { return &c.optimizer.schedule.decay_samples; },
       .meaning = "megatron_linear, _cosine, _inverse_sqrt: training sequences after which the learning rate is at its "
                  "minimum, the warm-up's included. 0: those of the whole run.",
       .low = 0,
       .high = kNoLimit,
       .read_by = &Settings::decay},
      {.name = "optimizer.form",
       .unit = "",
       .slot = [](Config& c) -> Slot { return choice(c.optimizer.form); },
       .meaning =
           "adamw: weight decay apart from the moments (Loshchilov and Hutter). adam: decay added to the gradient "
           "before them (L2; DeepSpeed's adam_w_mode = false).",
       .words = words_for(Config{}.optimizer.form)},
      {.name = "optimizer.state",
       .unit = "",
       .slot = [](Config& c) -> Slot { return choice(c.optimizer.state); },
       .meaning = "How both moments are stored. bf16: 4 bytes per parameter instead of 8, rounded to nearest, so that "
                  "the second can only fall where beta2 is at most 0.99.",
       .words = words_for(Config{}.optimizer.state)},
      {.name = "optimizer.offload",
       .unit = "",
       .slot = [](Config& c) -> Slot { return choice(c.optimizer.offload); },
       .meaning = "Where the optimizer's state lies: the moments, and the master weights where products read a 2-byte "
                  "copy of them. file: in a file of each rank, from which each update streams it through a window "
                  "(DeepSpeed's offload_optimizer to nvme); the same bits. host: in host memory, where on CPUs it lies "
                  "anyway. none: beside the weights.",
       .words = words_for(Config{}.optimizer.offload)},
      {.name = "optimizer.offload_directory",
       .unit = "",
       .slot = [](Config& c) -> Slot { return &c.optimizer.offload_directory; },
       .meaning =
           "offload = file: a folder on a fast disk of the rank's own host (NVMe). The files in it have no names "
           "and vanish with the run. \"\": `offload` in the run's folder (--out)."},
      {.name = "optimizer.offload_buffer",
       .unit = "bytes",
       .slot = [](Config& c) -> Slot { return &c.optimizer.offload_buffer; },
       .meaning =
           "offload = file: the window in each rank's memory. So much is read ahead beside forward and backward, "
           "and written behind beside the next step's.",
       .low = 1 << 20,
       .high = kNoLimit},
      {.name = "optimizer.beta1",
       .unit = "",
       .slot = [](Config& c) -> Slot { return &c.optimizer.beta1; },
       .meaning = "Decay of Adam's running mean of gradients.",
       .low = 0,
       .high = 1,
       .below_high = true},
      {.name = "optimizer.beta2",
       .unit = "",
       .slot = [](Config& c) -> Slot { return &c.optimizer.beta2; },
       .meaning = "Decay of Adam's running mean of squared gradients.",
       .low = 0,
       .high = 1,
       .below_high = true},
      {.name = "optimizer.epsilon",
       .unit = "",
       .slot = [](Config& c) -> Slot { return &c.optimizer.epsilon; },
       .meaning = "Added to the root of the second moment.",
       .low = 1e-20,
       .high = 1},
      {.name = "optimizer.weight_decay",
       .unit = "",
       .slot = [](Config& c) -> Slot { return &c.optimizer.weight_decay; },
       .meaning = "Weight decay, as optimizer.form says; of matrices only (not of biases and norms).",
       .low = 0,
       .high = 1000},
      {.name = "optimizer.clip",
       .unit = "",
       .slot = [](Config& c) -> Slot { return &c.optimizer.clip; },
       .meaning = "Largest global norm of the gradient; larger ones are scaled down to it. 0: off.",
       .low = 0,
       .high = 1e30},
  };
}

}  // namespace ridgeline::train

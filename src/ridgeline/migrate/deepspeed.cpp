// What DeepSpeed's JSON decides, whoever hands it the model.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "ridgeline/base/count.h"
#include "ridgeline/base/error.h"
#include "ridgeline/migrate/original.h"

namespace ridgeline::migrate {
namespace {

// Groups and keys of DeepSpeed's that no key here corresponds to. A name stands for everything below it, too.
struct JsonRow {
  std::string_view name;
  std::string_view why;
};
constexpr std::string_view kTransfers =
    "transfers are planned block by block and overlap; parallel.prefetch says how far";
constexpr std::string_view kObserved = "every run writes metrics.jsonl and TensorBoard events";
constexpr std::array<JsonRow, 42> kWithoutEquivalent = {{
    {"zero_optimization.reduce_bucket_size", kTransfers},
    {"zero_optimization.allgather_bucket_size", kTransfers},
    {"zero_optimization.allgather_partitions", kTransfers},
    {"zero_optimization.reduce_scatter", kTransfers},
    {"zero_optimization.overlap_comm", kTransfers},
    {"zero_optimization.contiguous_gradients", kTransfers},
    {"zero_optimization.sub_group_size", kTransfers},
    {"zero_optimization.round_robin_gradients", kTransfers},
    {"zero_optimization.stage3_max_live_parameters", kTransfers},
    {"zero_optimization.stage3_max_reuse_distance", kTransfers},
    {"zero_optimization.stage3_prefetch_bucket_size", kTransfers},
    {"zero_optimization.stage3_param_persistence_threshold", kTransfers},
    {"zero_optimization.stage3_gather_16bit_weights_on_model_save", "checkpoints and exports are always whole"},
    {"zero_optimization.stage3_gather_fp16_weights_on_model_save", "checkpoints and exports are always whole"},
    {"zero_optimization.elastic_checkpoint", "any layout reads any checkpoint"},
    {"zero_optimization.load_from_fp32_weights", "checkpoints hold the master weights"},
    {"zero_optimization.ignore_unused_parameters", "no parameter is unused"},
    {"zero_optimization.offload_param", "parameters are never offloaded"},
    {"zero_optimization.cpu_offload_params", "parameters are never offloaded"},
    {"activation_checkpointing", "how DeepSpeed recomputes; whether it does, the program that it starts decides"},
    {"steps_per_print", kObserved},
    {"wall_clock_breakdown", kObserved},
    {"tensorboard", kObserved},
    {"wandb", kObserved},
    {"csv_monitor", kObserved},
    {"flops_profiler", "metrics.jsonl has FLOPs and MFU of every step"},
    {"dump_state", kObserved},
    {"memory_breakdown", "`ridgeline plan` lists every byte before the run"},
    {"comms_logger", "`ridgeline train --trace` writes every transfer"},
    {"prescale_gradients", "gradients are means, exact in fp32"},
    {"gradient_predivide_factor", "gradients are means, exact in fp32"},
    {"sparse_gradients", "gradients are dense"},
    {"zero_allow_untested_optimizer", "there is one optimizer, tested at every level"},
    {"zero_force_ds_cpu_optimizer", "there is one optimizer, tested at every level"},
    {"fp16.auto_cast", "inputs are tokens"},
    {"fp16.fp16_master_weights_and_grads", "master weights of fp16 are fp32"},
    {"fp16.consecutive_hysteresis", "not supported"},
    {"amp", "NVIDIA's apex: use train.precision"},
    {"data_efficiency", "not supported"},
    {"curriculum_learning", "not supported"},
    {"aio", "`ridgeline plan` and the offload's window (optimizer.offload_buffer) take its place"},
    {"compression_training", "not supported"},
}};

constexpr auto kKnownPaths = std::to_array<std::string_view>({"train_batch_size",
                                                              "train_micro_batch_size_per_gpu",
                                                              "gradient_accumulation_steps",
                                                              "gradient_clipping",
                                                              "communication_data_type",
                                                              "zero_optimization.stage",
                                                              "zero_optimization.offload_optimizer.device",
                                                              "zero_optimization.offload_optimizer.nvme_path",
                                                              "zero_optimization.mics_shard_size",
                                                              "zero_optimization.cpu_offload",
                                                              "fp16.enabled",
                                                              "fp16.loss_scale",
                                                              "fp16.initial_scale_power",
                                                              "fp16.loss_scale_window",
                                                              "fp16.hysteresis",
                                                              "fp16.min_loss_scale",
                                                              "bf16.enabled",
                                                              "bfloat16.enabled",
                                                              "optimizer.type",
                                                              "optimizer.params.lr",
                                                              "optimizer.params.betas",
                                                              "optimizer.params.eps",
                                                              "optimizer.params.weight_decay",
                                                              "optimizer.params.torch_adam",
                                                              "optimizer.params.adam_w_mode",
                                                              "optimizer.params.bias_correction",
                                                              "scheduler.type",
                                                              "scheduler.params.total_num_steps",
                                                              "scheduler.params.warmup_min_lr",
                                                              "scheduler.params.warmup_max_lr",
                                                              "scheduler.params.warmup_num_steps",
                                                              "scheduler.params.warmup_type",
                                                              "scheduler.params.last_batch_iteration"});

bool below(std::string_view path, std::string_view group) {
  return path.starts_with(group) && (path.size() == group.size() || path[group.size()] == '.');
}

void translate_offload(DeepSpeedJson& json, Draft& draft) {
  const std::string device = "zero_optimization.offload_optimizer.device", old = "zero_optimization.cpu_offload";
  const std::string path = "zero_optimization.offload_optimizer.nvme_path";
  const std::string where = json.word(device).value_or("none");
  const std::optional<std::string> folder = json.word(path);
  for (const char* performance :
       {"buffer_count", "pin_memory", "pipeline_read", "pipeline_write", "fast_init", "ratio"})
    json.mark_read(fmt::format("zero_optimization.offload_optimizer.{}", performance));
  if (where == "nvme") {
    draft.set("optimizer.offload", toml("file"), json.where(device));
    if (folder) draft.set("optimizer.offload_directory", toml(std::string_view(*folder)), json.where(path));
  } else if (where == "cpu") {
    draft.set("optimizer.offload", toml("host"), json.where(device));
  } else if (json.truth(old).value_or(false)) {
    draft.set("optimizer.offload", toml("host"), json.where(old));
  } else if (where != "none") {
    draft.say(Section::unknown, fmt::format("{}: no such device", json.where(device)));
  }
}

}  // namespace

int64_t zero_stage(DeepSpeedJson& json) {
  return json.whole("zero_optimization.stage").value_or(0);
}

void translate_zero(Original& original, int64_t data_parallel, Draft& draft) {
  DeepSpeedJson& json = *original.json;
  const std::string path = "zero_optimization.stage";
  const int64_t stage = zero_stage(json);
  constexpr std::array<const char*, 4> kLevels = {"none", "optimizer", "gradients", "parameters"};
  if (stage < 0 || stage > 3)
    throw Error(fmt::format("{}: {} = {}: must be 0, 1, 2 or 3", json.origin(path).text(), path, stage),
                "DeepSpeed would refuse it, too: correct the file.");
  draft.set("parallel.shard", toml(kLevels[static_cast<size_t>(stage)]),
            json.has(path) ? json.where(path) : fmt::format("no zero_optimization in {}", json.name()));
  if (stage > 0 && data_parallel == 1) {
    draft.say(Section::dead,
              fmt::format("{}: ZeRO cuts over data-parallel ranks, and there is one: nothing is cut. The "
                          "configuration keeps it; parallel.shard = \"none\" would be the same",
                          json.where(path)));
  }
  const std::string group = "zero_optimization.mics_shard_size";
  if (const std::optional<int64_t> size = json.whole(group); size && *size > 0)
    draft.set("parallel.shard_group", toml(*size), json.where(group));
  const std::string wire = "communication_data_type";
  if (const std::optional<std::string> type = json.word(wire)) {
    if (*type == "fp32" || *type == "bfp16" || *type == "bf16") {
      draft.set("parallel.reduce_dtype", toml(*type == "fp32" ? "fp32" : "bf16"), json.where(wire));
    } else {
      draft.say(Section::no_equivalent, fmt::format("{}: gradients travel as fp32 or bf16", json.where(wire)));
    }
  }
  translate_offload(json, draft);
}

void translate_optimizer_block(Original& original, Draft& draft) {
  DeepSpeedJson& json = *original.json;
  const std::string type = json.word("optimizer.type").value_or("");
  const bool adam = type == "Adam" || type == "AdamW" || type == "FusedAdam";
  if (!adam) {
    draft.say(Section::no_equivalent,
              fmt::format("{}: there is Adam alone; the configuration has AdamW", json.where("optimizer.type")));
  }
  const std::string mode = "optimizer.params.adam_w_mode";
  const bool decoupled = type == "AdamW" || json.truth(mode).value_or(true);
  draft.set("optimizer.form", toml(adam && !decoupled ? "adam" : "adamw"),
            json.has(mode) && type != "AdamW" ? json.where(mode) : json.where("optimizer.type"));
  json.mark_read("optimizer.params.torch_adam");  // who computes it, not what
  if (json.truth("optimizer.params.bias_correction") == false)
    draft.say(Section::no_equivalent,
              fmt::format("{}: bias is always corrected", json.where("optimizer.params.bias_correction")));
  const std::pair<const char*, const char*> numbers[] = {{"optimizer.params.lr", "optimizer.learning_rate"},
                                                         {"optimizer.params.eps", "optimizer.epsilon"},
                                                         {"optimizer.params.weight_decay", "optimizer.weight_decay"}};
  for (const auto& [path, key] : numbers) {
    if (const auto value = json.number(path); value && !draft.has(key)) draft.set(key, toml(*value), json.where(path));
  }
}

bool translate_scheduler_block(Original& original, int64_t steps, Draft& draft) {
  DeepSpeedJson& json = *original.json;
  const std::string type = json.word("scheduler.type").value_or("");
  const std::string params = "scheduler.params.";
  if (type != "WarmupDecayLR" && type != "WarmupLR") {
    draft.say(Section::no_equivalent, fmt::format("{}: there are WarmupLR and WarmupDecayLR of DeepSpeed's schedules; "
                                                  "choose another optimizer.schedule",
                                                  json.where("scheduler.type")));
    return false;
  }
  const bool decays = type == "WarmupDecayLR";
  draft.set("optimizer.schedule", toml(decays ? "deepspeed_warmup_decay" : "deepspeed_warmup"),
            json.where("scheduler.type"));
  if (json.word(params + "warmup_type") == "linear")
    draft.set("optimizer.warmup_shape", toml("linear"), json.where(params + "warmup_type"));
  if (const auto least = json.number(params + "warmup_min_lr"))
    draft.set("optimizer.min_learning_rate", toml(*least), json.where(params + "warmup_min_lr"));
  if (const auto warmup = json.whole(params + "warmup_num_steps"))
    draft.set("optimizer.warmup_steps", toml(*warmup), json.where(params + "warmup_num_steps"));
  if (const auto peak = json.number(params + "warmup_max_lr"))
    draft.set("optimizer.learning_rate", toml(*peak), json.where(params + "warmup_max_lr"));
  if (const auto total = json.whole(params + "total_num_steps"); total && decays) {
    const std::string where = json.where(params + "total_num_steps");
    if (steps == 0) {
      draft.set("train.steps", toml(*total), where);
    } else if (*total != steps) {
      draft.say(Section::disagreement,
                fmt::format("{}: the run has {}. The original's rate is at its minimum after {}; here it falls "
                            "until train.steps",
                            where, format_counted(steps, "step"), *total));
    }
  }
  return true;
}

void report_json(Original& original, Draft& draft) {
  DeepSpeedJson& json = *original.json;
  std::vector<std::string> known(kKnownPaths.begin(), kKnownPaths.end());
  for (const JsonRow& row : kWithoutEquivalent) known.emplace_back(row.name);
  for (const std::string& path : json.unread()) {
    const auto row = std::find_if(kWithoutEquivalent.begin(), kWithoutEquivalent.end(),
                                  [&](const JsonRow& each) { return below(path, each.name); });
    if (row != kWithoutEquivalent.end()) {
      draft.say(Section::no_equivalent, fmt::format("{}: {}", json.where(path), row->why));
    } else if (std::find(known.begin(), known.end(), path) != known.end()) {
      draft.say(Section::dead, fmt::format("{}: beside the other settings it changes nothing", json.where(path)));
    } else {
      const std::string guess = nearest(path, known);
      draft.say(Section::unknown, fmt::format("{}: not translated{}", json.where(path),
                                              guess.empty() ? "; no known key has a similar name"
                                                            : fmt::format("; the nearest known key is {}", guess)));
    }
  }
}

void translate_deepspeed_alone(Original& original, Draft& draft) {
  DeepSpeedJson& json = *original.json;
  const int64_t ranks = original.world;
  const auto batch = json.whole("train_batch_size"), micro = json.whole("train_micro_batch_size_per_gpu"),
             steps = json.whole("gradient_accumulation_steps");
  const int64_t accumulated = steps.value_or(1);
  constexpr int64_t kMost = 1 << 30;
  if (accumulated < 1 || accumulated > kMost / ranks || micro.value_or(1) < 1 ||
      micro.value_or(1) > kMost / (ranks * accumulated))
    throw Error(
        fmt::format("{}: no batch that can be counted: gradient_accumulation_steps, train_micro_batch_size_per_gpu "
                    "and {}",
                    json.name(), format_counted(ranks, "rank")),
        "Correct the file, or --world.");
  const int64_t each = micro   ? *micro
                       : batch ? std::max<int64_t>(1, *batch / std::max<int64_t>(1, ranks * accumulated))
                               : 1;
  const int64_t whole = batch ? *batch : ranks * each * accumulated;
  const char* const paths[] = {"train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"};
  std::string from;
  for (const char* path : paths) {
    if (json.has(path)) from += (from.empty() ? "" : ", ") + json.where(path);
  }
  if (from.empty()) from = "no batch in " + json.name();
  draft.set("train.micro_batch", toml(each), from);
  draft.set("train.global_batch", toml(whole), from, fmt::format("On {}.", format_counted(ranks, "rank")));
  const bool half = json.truth("fp16.enabled").value_or(false);
  const char* const brain = json.has("bf16.enabled") ? "bf16.enabled" : "bfloat16.enabled";
  if (half) {
    draft.set("train.precision", toml("fp16"), json.where("fp16.enabled"));
    translate_loss_scale(original, draft);
  } else if (json.truth(brain).value_or(false)) {
    draft.set("train.precision", toml("bf16"), json.where(brain));
  }
  draft.set("optimizer.clip", toml(json.number("gradient_clipping").value_or(0.0)),
            json.has("gradient_clipping") ? json.where("gradient_clipping")
                                          : fmt::format("no gradient_clipping in {}", json.name()));
  if (!json.has("gradient_clipping")) draft.alternative("optimizer.clip", toml(1.0), "DeepSpeed since 2026-06");
  translate_zero(original, ranks, draft);
  if (json.has("optimizer.type")) translate_optimizer_block(original, draft);
  if (json.has("scheduler.type")) translate_scheduler_block(original, 0, draft);
  draft.say(Section::fill_in,
            fmt::format("{} says nothing of the model, the data and the length of the run: model.preset "
                        "or sizes, train.sequence, train.steps",
                        json.name()));
  report_json(original, draft);
}

}  // namespace ridgeline::migrate

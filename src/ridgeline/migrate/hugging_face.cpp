// Hugging Face's Trainer: flags of TrainingArguments, DeepSpeed's JSON with "auto", and what the script shows.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "ridgeline/base/count.h"
#include "ridgeline/base/error.h"
#include "ridgeline/migrate/flag_tables.h"
#include "ridgeline/migrate/original.h"

namespace ridgeline::migrate {
namespace {

// Translates one command line. The methods are called in the order in which they stand.
class Trainer {
 public:
  Trainer(Original& original, Draft& draft) : original_(original), flags_(original.flags), draft_(draft) {}

  void translate() {
    complete_abbreviations(trainer_flags(), original_, draft_);
    if (original_.world == 0) {
      original_.world = 1;
      draft_.say(Section::fill_in, "Ranks: no launcher says how many; taken as 1. Otherwise: --world N");
    }
    translate_rows(trainer_flags(), kTrainers, original_, draft_);
    for (const char* name : {"deepspeed", "deepspeed_config"}) flags_.find(name);
    model();
    sequence();
    length();
    batch();
    rate();
    precision();
    clipping();
    optimizer();
    schedule();
    sharding();
    evaluation_and_checkpoints();
    data();
    raise_mismatches();
    report_flags(trainer_flags(), original_, draft_);
    if (original_.json != nullptr) report_json(original_, draft_);
  }

 private:
  std::string where(std::string_view name) { return original_.where(name, kTrainers); }
  DeepSpeedJson& json() { return *original_.json; }
  bool deepspeed() const { return original_.json != nullptr; }

  // "auto" semantics: a key with another value is compared with the Trainer's, and the start fails where they differ.
  void compare(const std::string& path, double ours, const std::string& named) {
    if (!deepspeed()) return;
    const auto theirs = json().number(path);
    if (theirs && *theirs != ours) mismatches_.push_back(fmt::format("{} against {}", json().where(path), named));
  }
  void compare(const std::string& path, bool ours, const std::string& named) {
    if (!deepspeed()) return;
    const auto theirs = json().truth(path);
    if (theirs && *theirs != ours) mismatches_.push_back(fmt::format("{} against {}", json().where(path), named));
  }
  void raise_mismatches() {
    if (mismatches_.empty()) return;
    draft_.say(
        Section::disagreement,
        fmt::format("{}: Hugging Face compares every key of the JSON that is not \"auto\" with its own value, and the "
                    "original ends in a ValueError before the first step. The configuration follows the command "
                    "line",
                    fmt::join(mismatches_, "; ")));
  }

  // ----------------------------------------------------------------------------------------------------------- model
  void model() {
    std::string named, from;
    for (const char* name : {"model_name_or_path", "model_name", "model"}) {
      if (const Flag* const flag = flags_.find(name)) named = flag->value(), from = flag->where();
    }
    if (!original_.model.empty()) named = original_.model, from = "--model";
    if (named.empty() && original_.python != nullptr) return model_of_script();
    if (named.empty()) {
      draft_.say(
          Section::fill_in,
          fmt::format(
              "model.preset: the command line names no model{}. Give --model NAME, or the script",
              original_.script.empty() ? "" : fmt::format(", and {} is not among the inputs", original_.script)));
      return;
    }
    set_model(named, from, draft_);
  }

  // The last one that a script loads is the one that it trains; one that its name speaks of is the one that is meant.
  void model_of_script() {
    const PythonScript& script = *original_.python;
    if (script.models.empty()) {
      draft_.say(Section::fill_in,
                 fmt::format("model.preset: {} loads no model by a name that can be read off it. Give "
                             "--model NAME",
                             script.name));
      return;
    }
    const PythonScript::Model& trained = script.models.back();
    const PythonScript::Model* meant = &trained;
    for (const PythonScript::Model& each : script.models) {
      if (each.name != trained.name && speaks_of(each.name)) meant = &each;
    }
    const auto place = [&](const PythonScript::Model& each) {
      return fmt::format("'{}' ({}:{})", each.name, script.name, each.line);
    };
    set_model(meant->name, place(*meant), draft_);
    if (meant == &trained) return;
    draft_.say(Section::disagreement,
               fmt::format("The script is named after {}, loads it on every rank, throws it away, and trains {}. The "
                           "configuration has the former",
                           place(*meant), place(trained)));
    const std::string preset = preset_of(trained.name);
    if (draft_.has("model.preset") && !preset.empty())
      draft_.alternative("model.preset", toml(std::string_view(preset)),
                         preset.starts_with("gpt2") ? "what the original trains, with model.dropout = 0.1"
                                                    : "what the original trains");
  }

  // "gptJ_oscar_fsdp.py" of "gpt-j-6b".
  bool speaks_of(const std::string& model) const {
    const auto letters = [](std::string_view text) {
      std::string result;
      for (const char c : text) {
        if (std::isalnum(static_cast<unsigned char>(c)) != 0)
          result += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      }
      return result;
    };
    const std::string script = letters(file_name(original_.script)), name = letters(file_name(model));
    size_t common = 0;
    while (common < std::min(script.size(), name.size()) && script[common] == name[common]) ++common;
    return common >= 4;
  }

  void sequence() {
    const PythonScript* const script = original_.python;
    for (const char* name : {"max_len", "block_size", "max_seq_length"}) {
      const Flag* const flag = flags_.find(name);
      if (flag == nullptr) continue;
      if (script != nullptr && !script->reads(name)) {
        draft_.say(Section::dead,
                   fmt::format("{}: {} defines it and never reads it{}", flag->where(), script->name,
                               script->block_length == 0 ? ""
                                                         : fmt::format("; its blocks have {} tokens (line {})",
                                                                       script->block_length, script->block_line)));
      } else {
        draft_.set("train.sequence", toml(*flags_.whole(name)), flag->where());
      }
    }
    if (!draft_.has("train.sequence") && script != nullptr && script->block_length > 0)
      draft_.set("train.sequence", toml(script->block_length),
                 fmt::format("`max_length={}` ({}:{})", script->block_length, script->name, script->block_line));
    if (!draft_.has("train.sequence"))
      draft_.say(Section::fill_in, "train.sequence: nothing says how long the blocks are; left at the model's context");
  }

  // ---------------------------------------------------------------------------------------------------------- length
  void length() {
    steps_ = flags_.whole("max_steps").value_or(-1);
    constexpr int64_t kMost = int64_t{1} << 32;
    if (steps_ > kMost)
      throw Error(fmt::format("{}: more steps than a run can have", where("max_steps")), "Correct the script.");
    if (steps_ > 0) {
      draft_.set("train.steps", toml(steps_), where("max_steps"));
      if (flags_.find("num_train_epochs") != nullptr)
        draft_.say(Section::dead, fmt::format("{}: --max_steps overrides it", where("num_train_epochs")));
      return;
    }
    steps_ = 0;
    draft_.say(Section::fill_in,
               fmt::format("train.steps: {} counts epochs ({}). Steps = epochs x sequences / train.global_batch",
                           where("num_train_epochs"), flags_.number("num_train_epochs").value_or(3)));
  }

  void batch() {
    constexpr int64_t kMost = 1 << 30;
    const auto micro = flags_.whole("per_device_train_batch_size");
    const int64_t each = micro.value_or(8), asked = flags_.whole("gradient_accumulation_steps").value_or(1);
    if (each < 1 || asked < 1 || each > kMost || asked > kMost || each * asked > kMost / original_.world)
      throw Error(fmt::format("{}, {}, {}: no batch that can be counted", where("per_device_train_batch_size"),
                              where("gradient_accumulation_steps"), format_counted(original_.world, "rank")),
                  "Correct the script.");
    draft_.set("train.micro_batch", toml(each), where("per_device_train_batch_size"));
    draft_.set("train.global_batch", toml(original_.world * each * asked),
               asked > 1 ? where("gradient_accumulation_steps") : where("per_device_train_batch_size"),
               fmt::format("{} x {} x {} accumulated.", format_counted(original_.world, "rank"), each, asked));
    compare("train_micro_batch_size_per_gpu", static_cast<double>(each), where("per_device_train_batch_size"));
    compare("gradient_accumulation_steps", static_cast<double>(asked), where("gradient_accumulation_steps"));
    compare("train_batch_size", static_cast<double>(original_.world * each * asked), "the Trainer's batch");
    if (deepspeed()) lost_accumulation(each, asked);
  }

  void lost_accumulation(int64_t each, int64_t asked) {
    if (asked == 1 || json().has("gradient_accumulation_steps") || json().has("train_batch_size")) return;
    const int64_t actual = original_.world * each;
    std::string text = fmt::format(
        "Gradient accumulation: {}, while {} has no gradient_accumulation_steps. A key that is missing is neither "
        "filled "
        "in nor compared (only \"auto\" is), and DeepSpeed takes 1: the original updates the weights after every {} "
        "sequences, {} times as often as meant",
        where("gradient_accumulation_steps"), json().name(), actual, asked);
    if (json().has("scheduler") && steps_ > 0)
      text += fmt::format(", and its learning rate, made for {} updates, is at its end after {} of {}", steps_, steps_,
                          steps_ * asked);
    draft_.say(
        Section::disagreement,
        text + fmt::format(". The configuration accumulates as the command line says: batches of {}", actual * asked));
    draft_.alternative("train.global_batch", toml(actual), "as DeepSpeed takes it, nothing accumulated");
  }

  // ------------------------------------------------------------------------------------------ optimizer and schedule
  void rate() {
    rate_ = flags_.number("learning_rate").value_or(5e-5);
    draft_.set("optimizer.learning_rate", toml(rate_), where("learning_rate"));
    compare("optimizer.params.lr", rate_, where("learning_rate"));
    compare("optimizer.params.eps", flags_.number("adam_epsilon").value_or(1e-8), where("adam_epsilon"));
    compare("optimizer.params.weight_decay", flags_.number("weight_decay").value_or(0), where("weight_decay"));
    if (deepspeed()) json().is_auto("optimizer.params.betas");
  }

  void optimizer() {
    if (deepspeed() && json().has("optimizer.type")) return translate_optimizer_block(original_, draft_);
    const std::string name = flags_.word("optim").value_or("adamw_torch");
    draft_.set("optimizer.form", toml("adamw"), where("optim"));
    if (!name.starts_with("adamw"))
      draft_.say(Section::no_equivalent,
                 fmt::format("{}: there is Adam alone; the configuration has AdamW", where("optim")));
  }

  int64_t warmup() {
    const int64_t given = flags_.whole("warmup_steps").value_or(0);
    const double ratio = flags_.number("warmup_ratio").value_or(0);
    const bool by_ratio = given == 0 && ratio > 0 && ratio < 1 && steps_ > 0;
    const int64_t steps = by_ratio ? static_cast<int64_t>(std::ceil(static_cast<double>(steps_) * ratio)) : given;
    draft_.set("optimizer.warmup_steps", toml(steps), where(by_ratio ? "warmup_ratio" : "warmup_steps"));
    return steps;
  }

  void schedule() {
    const int64_t steps = warmup();
    if (deepspeed() && json().has("scheduler.type")) {
      compare("scheduler.params.warmup_num_steps", static_cast<double>(steps), where("warmup_steps"));
      compare("scheduler.params.warmup_max_lr", rate_, where("learning_rate"));
      if (steps_ > 0) compare("scheduler.params.total_num_steps", static_cast<double>(steps_), where("max_steps"));
      for (const char* key : {"warmup_min_lr", "warmup_max_lr", "warmup_num_steps", "total_num_steps"})
        json().is_auto(std::string("scheduler.params.") + key);
      if (flags_.find("lr_scheduler_type") != nullptr)
        draft_.say(Section::dead,
                   fmt::format("{}: the JSON has a scheduler, which DeepSpeed makes", where("lr_scheduler_type")));
      translate_scheduler_block(original_, steps_, draft_);
      draft_.set("optimizer.learning_rate", toml(rate_), where("learning_rate"));
      return draft_.set("optimizer.warmup_steps", toml(steps), where("warmup_steps"));
    }
    const std::string type = flags_.word("lr_scheduler_type").value_or("linear");
    const std::string from = where("lr_scheduler_type");
    if (type == "linear" || type == "cosine") {
      draft_.set("optimizer.schedule", toml(std::string_view("hugging_face_" + type)), from);
    } else if (type == "constant" || type == "constant_with_warmup") {
      draft_.set("optimizer.schedule", toml("constant"), from);
      if (type == "constant") draft_.set("optimizer.warmup_steps", toml(int64_t{0}), from);
      if (type != "constant")
        draft_.say(Section::notice,
                   fmt::format("{}: the warm-up begins at rate/warmup_steps here, and at 0 there: every "
                               "rate comes one step earlier",
                               from));
    } else {
      draft_.set("optimizer.schedule", toml("hugging_face_linear"), "The Trainer's default of --lr_scheduler_type");
      draft_.say(Section::no_equivalent,
                 fmt::format("{}: there is no such schedule; the configuration has the Trainer's "
                             "default, linear (docs/schedules.md lists what there is)",
                             from));
    }
  }

  // ------------------------------------------------------------------------------------------------------- precision
  void precision() {
    const bool half = flags_.truth("fp16"), brain = flags_.truth("bf16");
    const char* const asked = half ? "fp16" : brain ? "bf16" : "fp32";
    draft_.set("train.precision", toml(asked), half || brain ? where(asked) : "neither --fp16 nor --bf16");
    if (!half && !brain)
      draft_.alternative("train.precision", toml("bf16"), "half the memory of activations, and faster");
    if (!deepspeed()) return;
    compare("fp16.enabled", half, half ? where("fp16") : "no --fp16");
    compare("bf16.enabled", brain, brain ? where("bf16") : "no --bf16");
    const bool automatic = json().is_auto("fp16.enabled");
    if (half && (automatic || json().truth("fp16.enabled") == true)) return translate_loss_scale(original_, draft_);
    std::vector<std::string> ignored;
    for (const char* name : {"fp16.loss_scale", "fp16.initial_scale_power", "fp16.loss_scale_window", "fp16.hysteresis",
                             "fp16.min_loss_scale"}) {
      json().mark_read(name);
      if (json().has(name)) ignored.push_back(json().where(name));
    }
    if (!json().has("fp16.enabled")) return;
    draft_.say(Section::dead,
               fmt::format("{}: \"auto\" stands for the command line's --fp16, which is not given: the "
                           "original runs in {}{}",
                           json().where("fp16.enabled"), asked,
                           ignored.empty() ? "" : fmt::format(", and never reads {}", fmt::join(ignored, ", "))));
  }

  void clipping() {
    const double clip = flags_.number("max_grad_norm").value_or(1.0);
    draft_.set("optimizer.clip", toml(clip), where("max_grad_norm"));
    if (!deepspeed()) return;
    compare("gradient_clipping", clip, where("max_grad_norm"));
    if (json().is_auto("gradient_clipping") || json().has("gradient_clipping")) return;
    draft_.say(
        Section::disagreement,
        fmt::format("Clipping: {} never reaches DeepSpeed, whose JSON ({}) has no gradient_clipping: the original does "
                    "not clip with DeepSpeed before 2026-06, and clips at 1 since. The configuration clips at {}",
                    where("max_grad_norm"), json().name(), clip));
    draft_.alternative("optimizer.clip", toml(0.0), "as DeepSpeed did before 2026-06: no clipping");
  }

  // -------------------------------------------------------------------------------------------------------- sharding
  void sharding() {
    if (flags_.truth("gradient_checkpointing"))
      draft_.set("train.recompute", toml("full"), where("gradient_checkpointing"));
    if (deepspeed()) {
      translate_zero(original_, original_.world, draft_);
      if (!json().has("zero_optimization"))
        draft_.say(Section::notice,
                   fmt::format("{} has no zero_optimization: Trainers since accelerate 0.23 refuse it (\"Please "
                               "specify the ZeRO optimization config\"); older ones run stage 0",
                               json().name()));
      return;
    }
    if (const Flag* const flag = flags_.find("fsdp")) return fsdp_by_flag(*flag);
    const PythonScript* const script = original_.python;
    if (script != nullptr && script->fsdp_line > 0) return fsdp_in_script(*script);
    draft_.set("parallel.shard", toml("none"), "neither DeepSpeed nor FSDP");
  }

  void fsdp_by_flag(const Flag& flag) {
    std::string all;
    for (const std::string& value : flag.values) all += value + " ";
    const auto has = [&](std::string_view word) { return all.find(word) != std::string::npos; };
    if (all.empty()) return;
    draft_.set("parallel.shard",
               toml(has("shard_grad_op")             ? "gradients"
                    : has("shard") || all == "True " ? "parameters"
                                                     : "none"),
               flag.where());
    if (has("hybrid"))
      draft_.say(Section::fill_in, fmt::format("{}: parallel.shard_group = the ranks of a node", flag.where()));
    if (has("offload"))
      draft_.say(Section::no_equivalent, fmt::format("{}: parameters are never offloaded", flag.where()));
    const bool wraps =
        has("auto_wrap") || flags_.has("fsdp_config") || flags_.has("fsdp_transformer_layer_cls_to_wrap");
    if (!wraps) one_unit(flag.where());
    for (const char* name : {"fsdp_config", "fsdp_transformer_layer_cls_to_wrap"}) {
      if (flags_.find(name) != nullptr)
        draft_.say(Section::no_equivalent, fmt::format("{}: every block is a unit of its own", where(name)));
    }
  }

  void fsdp_in_script(const PythonScript& script) {
    const std::string place = fmt::format("`FSDP(...)` ({}:{})", script.name, script.fsdp_line);
    draft_.set("parallel.shard", toml("parameters"), place);
    if (!script.fsdp_policy) one_unit(place);
    if (!script.fsdp_mixed_precision)
      draft_.say(Section::notice,
                 fmt::format("{}: without mixed_precision; weights and activations of the original are {}", place,
                             flags_.truth("bf16") || flags_.truth("fp16") ? "cast by autocast alone" : "fp32"));
  }

  void one_unit(const std::string& place) {
    draft_.say(
        Section::disagreement,
        fmt::format("{}: without a wrapping policy the whole model is one unit, gathered as a whole: nothing is saved "
                    "while it computes. In the configuration every block is a unit of its own",
                    place));
  }

  // ------------------------------------------------------------------------------------------- evaluation and output
  void evaluation_and_checkpoints() {
    const int64_t saves =
        flags_.word("save_strategy").value_or("steps") == "steps" ? flags_.whole("save_steps").value_or(500) : 0;
    if (steps_ > 0 && saves >= steps_) {
      draft_.say(Section::dead, fmt::format("{}: every {}, of {}. Ridgeline saves after the last step anyway",
                                            where("save_steps"), format_counted(saves, "step"), steps_));
    } else if (saves > 0) {
      draft_.set("train.save_every", toml(saves), where("save_steps"));
    }
    const char* const strategy = flags_.has("eval_strategy") ? "eval_strategy" : "evaluation_strategy";
    const std::string when = flags_.word(strategy).value_or("no");
    const auto every = flags_.whole("eval_steps");
    if (when == "steps") {
      draft_.set("train.eval_every", toml(every.value_or(500)), where("eval_steps"));
    } else if (every) {
      draft_.say(Section::dead,
                 fmt::format("{}: without --{} steps nothing is evaluated", where("eval_steps"), strategy));
    }
    if (when == "epoch")
      draft_.say(Section::fill_in, fmt::format("{}: train.eval_every counts steps", where(strategy)));
    for (const char* name : {"do_train", "do_eval"}) flags_.truth(name);
  }

  void data() {
    std::string named;
    for (const char* name : {"train_file", "dataset_name", "tokenizer_name"}) {
      if (const Flag* const flag = flags_.find(name))
        named += (named.empty() ? " Named there: " : ", ") + flag->where();
    }
    draft_.say(Section::fill_in,
               fmt::format("data.train: the text as .txt or .jsonl, then `ridgeline prepare --tokenizer DIR "
                           "--out PREFIX FILE`, and data.train = PREFIX.{}",
                           named));
    draft_.say(Section::notice,
               "Data: documents follow one another here and every token is used, the end of a block "
               "included; a Trainer's script cuts and drops as it is written. Where it cuts each document into blocks "
               "and drops the rest, `ridgeline prepare --blocks N` does the same (N: train.sequence)");
  }

  Original& original_;
  Arguments& flags_;
  Draft& draft_;
  std::vector<std::string> mismatches_;
  int64_t steps_ = 0;
  double rate_ = 0;
};

}  // namespace

void translate_hugging_face(Original& original, Draft& draft) {
  Trainer(original, draft).translate();
}

}  // namespace ridgeline::migrate

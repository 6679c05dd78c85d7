// Megatron-LM's command line, and Megatron-DeepSpeed's with a JSON beside it.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "ridgeline/base/count.h"
#include "ridgeline/base/error.h"
#include "ridgeline/base/words.h"
#include "ridgeline/migrate/flag_tables.h"
#include "ridgeline/migrate/original.h"
#include "ridgeline/optim/batch_ramp.h"
#include "ridgeline/optim/learning_rate.h"
#include "ridgeline/train/config.h"

namespace ridgeline::migrate {
namespace {

constexpr int64_t kCountable = 1 << 30;  // sizes whose products with a few others fit 64 bits
constexpr std::string_view kHandsOver =
    "under --deepspeed Megatron hands its optimizer to DeepSpeed, which reads the JSON alone";

// Translates one command line. The methods are called in the order in which they stand.
class Megatron {
 public:
  Megatron(Original& original, Draft& draft) : original_(original), flags_(original.flags), draft_(draft) {}

  void translate() {
    original_.joint = '-';
    complete_abbreviations(megatron_flags(), original_, draft_);
    find_deepspeed();
    translate_rows(megatron_flags(), kMegatrons, original_, draft_);
    model_options();
    layout();
    vocabulary();
    batch();
    length();
    learning_rate();
    precision();
    clipping();
    recomputation();
    evaluation_and_checkpoints();
    translate_megatron_data(original_, draft_);
    uneven_stages();
    starting_program();
    report_flags(megatron_flags(), original_, draft_);
    if (!deepspeed()) return;
    unread_blocks();
    report_json(original_, draft_);
  }

 private:
  std::string where(std::string_view name) { return original_.where(name, kMegatrons); }
  DeepSpeedJson& json() { return *original_.json; }
  bool deepspeed() const { return original_.json != nullptr; }

  void unread_blocks() {
    for (const std::string& path : json().unread()) {
      if (!path.starts_with("optimizer.") && !path.starts_with("scheduler.")) continue;
      json().mark_read(path);
      draft_.say(Section::dead,
                 fmt::format("{}: Megatron hands its own optimizer and schedule to DeepSpeed, which then "
                             "makes none of its own",
                             json().where(path)));
    }
  }

  void find_deepspeed() {
    const bool asked = flags_.truth("deepspeed");
    flags_.find("deepspeed_config");
    if (asked && !deepspeed()) {
      draft_.say(Section::fill_in, fmt::format("{}: DeepSpeed's JSON is not among the inputs; give it, too: precision, "
                                               "clipping and sharding are in it",
                                               where("deepspeed")));
    }
    if (!asked && deepspeed()) {
      draft_.say(Section::dead, fmt::format("{}: the command line has no --deepspeed, so that it is never read",
                                            original_.json->name()));
      original_.json = nullptr;
    }
  }

  // ----------------------------------------------------------------------------------------------------------- model
  void model_options() {
    positions();
    if (flags_.truth("swiglu")) draft_.set("model.mlp", toml("swiglu"), where("swiglu"));
    if (flags_.truth("no_bias_gelu_fusion")) {
      draft_.set("model.mlp", toml("gelu_erf"), where("no_bias_gelu_fusion"),
                 "Megatron's fused GELU is the tanh form, its plain one the exact function.");
    }
    if (const auto ffn = flags_.whole("ffn_hidden_size")) {
      draft_.set("model.ffn", toml(*ffn), where("ffn_hidden_size"));
    } else if (const auto width = flags_.whole("hidden_size");
               width && std::abs(*width) < kCountable && flags_.truth("swiglu")) {
      draft_.set("model.ffn", toml(*width * 4 * 2 / 3 / 64 * 64), where("ffn_hidden_size"),
                 "With --swiglu: 8/3 of the width, down to a multiple of 64.");
    }
    const std::string norm = flags_.word("normalization").value_or("LayerNorm");
    if (norm == "RMSNorm") draft_.set("model.norm", toml("rms"), where("normalization"));
    if (norm != "RMSNorm" && norm != "LayerNorm")
      draft_.say(Section::no_equivalent, fmt::format("{}: there are layer and RMS norm", where("normalization")));
    if (flags_.truth("disable_bias_linear")) {
      const bool qkv = flags_.truth("add_qkv_bias");
      draft_.set("model.qkv_bias", toml(qkv), where(qkv ? "add_qkv_bias" : "disable_bias_linear"));
      for (const char* key : {"model.out_bias", "model.mlp_bias"})
        draft_.set(key, toml(false), where("disable_bias_linear"));
    }
    if (flags_.truth("untie_embeddings_and_output_weights"))
      draft_.set("model.tied", toml(false), where("untie_embeddings_and_output_weights"));
    const char* const groups = flags_.has("num_key_value_heads") ? "num_key_value_heads" : "num_query_groups";
    const bool grouped = flags_.truth("group_query_attention") || flags_.has("num_key_value_heads");
    if (const auto heads = grouped ? flags_.whole(groups) : std::nullopt)
      draft_.set("model.kv_heads", toml(*heads), where(groups));
    dropout();
  }

  void positions() {
    const std::string type = flags_.word("position_embedding_type").value_or("learned_absolute");
    const bool turned = type == "rope" || flags_.truth("use_rotary_position_embeddings");
    const char* const flag = type == "rope" ? "position_embedding_type" : "use_rotary_position_embeddings";
    if (turned) draft_.set("model.positions", toml("rotary"), where(flag));
    if (!turned && type != "learned_absolute")
      draft_.say(Section::no_equivalent, fmt::format("{}: there are learned and rotary positions", where(flag)));
    const double percent = turned ? flags_.number("rotary_percent").value_or(1.0) : 1.0;
    const auto width = flags_.whole("hidden_size"), heads = flags_.whole("num_attention_heads");
    if (percent > 0 && percent < 1 && width && heads && *heads > 0) {
      const double head = static_cast<double>(flags_.whole("kv_channels").value_or(*width / *heads));
      draft_.set("model.rotary_width", toml(static_cast<int64_t>(head * percent)), where("rotary_percent"));
    }
    if (turned) flags_.truth("no_position_embedding");  // says the same
  }

  void dropout() {
    const double hidden = flags_.number("hidden_dropout").value_or(0.1),
                 attention = flags_.number("attention_dropout").value_or(0.1);
    draft_.set("model.dropout", toml(hidden), where("hidden_dropout"));
    if (hidden == attention) return;
    draft_.say(Section::no_equivalent, fmt::format("{} beside {}: there is one rate of dropout; the configuration has "
                                                   "that of --hidden-dropout",
                                                   where("attention_dropout"), where("hidden_dropout")));
  }

  void vocabulary() {
    const int64_t unit =
        std::clamp<int64_t>(flags_.whole("make_vocab_size_divisible_by").value_or(128), 0, kCountable) * tensor_;
    const std::string type = flags_.word("tokenizer_type").value_or("GPT2BPETokenizer");
    std::string files;
    for (const char* file : {"vocab_file", "merge_file", "tokenizer_model"}) {
      if (flags_.find(file) != nullptr) files += (files.empty() ? "" : ", ") + where(file);
    }
    if (!files.empty())
      draft_.say(Section::fill_in,
                 fmt::format("data.tokenizer, out of {}: a folder with tokenizer.json, or with vocab.json "
                             "and merges.txt; for generated text and bits per byte",
                             files));
    if (const auto padded = flags_.whole("padded_vocab_size"))
      return draft_.set("model.vocab", toml(*padded), where("padded_vocab_size"));
    std::optional<int64_t> tokens = flags_.whole("vocab_size");
    std::string from = where("vocab_size");
    if (!tokens && type == "GPT2BPETokenizer") {
      tokens = 50257;
      from = where("tokenizer_type") + ", GPT-2's 50257 tokens";
    }
    if (!tokens || unit < 1 || *tokens < 1 || *tokens > (int64_t{1} << 31)) {
      draft_.say(Section::fill_in,
                 fmt::format("model.vocab: the tokenizer ({}) says how many tokens there are; Megatron "
                             "pads that to a multiple of {}",
                             where("tokenizer_type"), unit));
      return;
    }
    const int64_t padded = (*tokens + unit - 1) / unit * unit;
    draft_.set("model.vocab", toml(padded), from,
               fmt::format("Padded, as there, to a multiple of {}; no multiple is needed here.", unit));
    if (padded != *tokens)
      draft_.alternative("model.vocab", toml(*tokens),
                         fmt::format("the same model without the {} rows that no token has", padded - *tokens));
  }

  // ---------------------------------------------------------------------------------------------------------- layout
  void layout() {
    tensor_ = std::max<int64_t>(1, flags_.whole("tensor_model_parallel_size").value_or(1));
    stages_ = std::max<int64_t>(1, flags_.whole("pipeline_model_parallel_size").value_or(1));
    if (flags_.truth("no_pipeline_parallel") && stages_ == 1)
      draft_.set("parallel.pipeline", toml(int64_t{1}), where("no_pipeline_parallel"));
    if (tensor_ > train::kMostRanks || stages_ > train::kMostRanks / tensor_)
      throw Error(fmt::format("{} x {}: more than {} ranks", where("tensor_model_parallel_size"),
                              where("pipeline_model_parallel_size"), train::kMostRanks),
                  "Correct the script.");
    const int64_t copy = tensor_ * stages_;
    if (original_.world == 0) {
      original_.world = copy;
      draft_.say(Section::fill_in, fmt::format("Ranks: no launcher says how many; taken as {}, one copy of the model. "
                                               "Otherwise: --world N",
                                               copy));
    }
    copies_ = std::max<int64_t>(1, original_.world / copy);
    if (const auto context = flags_.whole("context_parallel_size"); context && *context > 1)
      draft_.say(Section::no_equivalent, fmt::format("{}: not in this version", where("context_parallel_size")));
    if (flags_.truth("sequence_parallel") && tensor_ > 1)
      draft_.set("parallel.sequence", toml(true), where("sequence_parallel"));
    virtual_stages();
    if (deepspeed()) {
      translate_zero(original_, copies_, draft_);
      compare_stage();
    } else {
      const bool distributed = flags_.truth("use_distributed_optimizer");
      draft_.set("parallel.shard", toml(distributed ? "optimizer" : "none"),
                 distributed ? where("use_distributed_optimizer") : "no --use-distributed-optimizer");
    }
  }

  void virtual_stages() {
    if (const auto chunks = flags_.whole("num_virtual_stages_per_pipeline_rank"); chunks && *chunks > 1)
      chunks_ = *chunks;
    const auto layers = flags_.whole("num_layers"), each = flags_.whole("num_layers_per_virtual_pipeline_stage");
    if (layers && each && *each > 0) chunks_ = std::max<int64_t>(1, *layers / stages_ / *each);
    if (chunks_ == 1 || stages_ == 1) return;
    const std::string from =
        where(each ? "num_layers_per_virtual_pipeline_stage" : "num_virtual_stages_per_pipeline_rank");
    draft_.set("parallel.schedule", toml("interleaved"), from);
    draft_.set("parallel.chunks", toml(chunks_), from);
  }

  void compare_stage() {
    const auto stage = flags_.whole("zero_stage");
    if (!stage || *stage == zero_stage(json())) return;
    draft_.say(Section::disagreement,
               fmt::format("{} against {}: DeepSpeed's engine follows the JSON, and so does the configuration",
                           where("zero_stage"),
                           json().has("zero_optimization.stage") ? json().where("zero_optimization.stage")
                                                                 : "no zero_optimization in " + json().name()));
  }

  // ----------------------------------------------------------------------------------------------------------- batch
  void batch() {
    micro_ = std::max<int64_t>(1, flags_.whole("micro_batch_size").value_or(1));
    constexpr int64_t kMost = 1 << 30;
    if (micro_ > kMost / copies_)
      throw Error(fmt::format("{}: too large", where("micro_batch_size")), "Correct the script.");
    const auto given = flags_.whole("global_batch_size");
    ramp_.global = given.value_or(micro_ * copies_);
    if (ramp_.global < 1 || ramp_.global > kMost)
      throw Error(fmt::format("{}: a number from 1 to 2^30 is expected", where("global_batch_size")),
                  "Correct the script.");
    draft_.set("train.global_batch", toml(ramp_.global),
               given ? where("global_batch_size")
                     : fmt::format("no --global-batch-size: micro-batch {} x {} data-parallel", micro_, copies_));
    batch_ramp();
    if (deepspeed()) compare_batch();
    bubble();
  }

  void batch_ramp() {
    const Flag* const flag = flags_.find("rampup_batch_size");
    if (flag == nullptr) return;
    optim::BatchRamp ramp = ramp_;
    constexpr int64_t kMostParts = 1 << 20, kMostSamples = int64_t{1} << 50;  // all of them are walked through
    const bool whole = flag->values.size() == 3 && read_whole(flag->values[0], ramp.start) &&
                       read_whole(flag->values[1], ramp.increment) && read_whole(flag->values[2], ramp.samples);
    const bool possible = whole && ramp.start >= 1 && ramp.increment >= 1 && ramp.samples >= 1 &&
                          ramp.start < ramp.global && (ramp.global - ramp.start) % ramp.increment == 0 &&
                          (ramp.global - ramp.start) / ramp.increment <= kMostParts && ramp.samples <= kMostSamples;
    if (!possible)
      throw Error(fmt::format("{}: {}: three numbers are expected, START INCREMENT SAMPLES, of which INCREMENT divides "
                              "the way from START to the global batch of {}",
                              flag->origin.text(), flag->text(), ramp.global),
                  "Megatron would refuse it, too: correct the script.");
    ramp_ = ramp;
    draft_.set("train.batch_ramp_start", toml(ramp.start), flag->where());
    draft_.set("train.batch_ramp_increment", toml(ramp.increment), flag->where());
    draft_.set("train.batch_ramp_samples", toml(ramp.samples), flag->where());
  }

  // What the engine accumulates, and what the loader yields for it.
  void compare_batch() {
    const std::string path = "train_micro_batch_size_per_gpu";
    const auto engine = json().whole(path);
    if (const auto batch = json().whole("train_batch_size"); batch && *batch != ramp_.global)
      draft_.say(
          Section::disagreement,
          fmt::format("{} against {}: Megatron sets the engine's batch to its own, and so does the configuration",
                      json().where("train_batch_size"), where("global_batch_size")));
    if (!engine || *engine == micro_ || *engine < 1) return;
    const int64_t accumulated = ramp_.global / std::max<int64_t>(1, std::min(*engine, ramp_.global) * copies_);
    const int64_t trained = accumulated * micro_ * copies_;
    draft_.say(
        Section::disagreement,
        fmt::format("{} against {}: DeepSpeed's engine makes {} micro-batches of a batch of {}, and the loader yields "
                    "{} sequences for each. A step trains on {} sequences, while its log, learning rate, samples "
                    "per second and TFLOPs count {}; a resumed run skips what was counted and not trained on. The "
                    "configuration trains on all {}",
                    where("micro_batch_size"), json().where(path), accumulated, ramp_.global, micro_, trained,
                    ramp_.global, ramp_.global));
    if (trained > 0) draft_.alternative("train.global_batch", toml(trained), "what a step of the original trained on");
  }

  void bubble() {
    const auto idle = [&](int64_t global) {
      const auto micro_batches = static_cast<double>(std::max<int64_t>(1, global / (micro_ * copies_)));
      const auto waiting = static_cast<double>(stages_ - 1);
      return waiting / (micro_batches * static_cast<double>(chunks_) + waiting);
    };
    constexpr double kMuch = 0.25;
    if (stages_ == 1 || idle(ramp_.global) < kMuch) return;
    const int64_t micro_batches = ramp_.global / (micro_ * copies_);
    std::string text =
        fmt::format("Pipeline: {} a step for {} stages, which idle for {:.0f} % of it",
                    format_counted(micro_batches, "micro-batch", "micro-batches"), stages_, 100 * idle(ramp_.global));
    if (ramp_.start > 0) text += fmt::format(", for {:.0f} % of the ramp's first steps", 100 * idle(ramp_.start));
    draft_.say(Section::notice, text +
                                    ". A larger train.global_batch idles less; `ridgeline plan --search` looks for "
                                    "better layouts");
  }

  // ---------------------------------------------------------------------------------------------------------- length
  void length() {
    const auto iterations = flags_.whole("train_iters"), samples = flags_.whole("train_samples");
    constexpr int64_t kMost = int64_t{1} << 40;
    if (iterations && *iterations > 0 && *iterations < kMost / ramp_.global) {
      steps_ = *iterations;
      samples_ = ramp_.start > 0 ? optim::samples_of_steps(ramp_, steps_) : steps_ * ramp_.global;
      draft_.set("train.steps", toml(steps_), where("train_iters"));
    } else if (samples && *samples > 0 && *samples < kMost) {
      steps_ = optim::steps_within_samples(ramp_, *samples);
      samples_ = *samples;
      draft_.set("train.steps", toml(steps_), where("train_samples"),
                 ramp_.start > 0 ? "The batch's ramp included." : fmt::format("In batches of {}.", ramp_.global));
    } else {
      draft_.say(Section::fill_in, "train.steps: neither --train-iters nor --train-samples says how long the run is");
    }
    if (flags_.find("train_tokens") != nullptr)
      draft_.say(Section::no_equivalent, fmt::format("{}: the run ends by train.steps alone", where("train_tokens")));
  }

  // --------------------------------------------------------------------------------------------------- learning rate
  // In sequences: of NAME_samples, of NAME_iters times the batch, or nothing.
  std::optional<int64_t> sequences(const std::string& name, std::string& from) {
    for (const bool in_samples : {true, false}) {
      const std::string flag = name + (in_samples ? "_samples" : "_iters");
      const auto count = flags_.whole(flag);
      if (!count || *count <= 0 || *count > (int64_t{1} << 40) / ramp_.global) continue;
      from = where(flag.c_str());
      return in_samples ? *count : *count * ramp_.global;
    }
    return {};
  }

  void learning_rate() {
    constexpr std::array<std::pair<std::string_view, optim::LearningRateKind>, 4> kStyles = {
        {{"constant", optim::LearningRateKind::megatron_constant},
         {"linear", optim::LearningRateKind::megatron_linear},
         {"cosine", optim::LearningRateKind::megatron_cosine},
         {"inverse-square-root", optim::LearningRateKind::megatron_inverse_sqrt}}};
    const std::string style = flags_.word("lr_decay_style").value_or("linear");
    const auto kind =
        std::find_if(kStyles.begin(), kStyles.end(), [&](const auto& each) { return each.first == style; });
    if (kind == kStyles.end())
      return draft_.say(Section::no_equivalent, fmt::format("{}: there is no such schedule; choose another "
                                                            "optimizer.schedule (docs/schedules.md)",
                                                            where("lr_decay_style")));
    draft_.set("optimizer.schedule", toml(word_of(kind->second)), where("lr_decay_style"));
    const optim::ScheduleSettings settings = optim::settings_of(kind->second);
    std::string from;
    const auto decay = sequences("lr_decay", from);
    if (decay && settings.decay) {
      draft_.set("optimizer.decay_samples", toml(*decay), from, flags_.has("lr_decay_samples") ? "" : "In sequences.");
      early_minimum(*decay, from);
    } else if (settings.decay && samples_ > 0 && samples_ != optim::samples_of_steps(ramp_, steps_)) {
      draft_.set("optimizer.decay_samples", toml(samples_), where("train_samples"),
                 "The last, partial batch included.");
    }
    if (!settings.minimum) draft_.set("optimizer.min_learning_rate", toml(0.0), where("lr_decay_style"));
    if (const auto fraction = flags_.number("lr_warmup_fraction"); fraction && *fraction >= 0 && *fraction <= 1) {
      const double warmup = *fraction * static_cast<double>(decay.value_or(samples_));
      draft_.set("optimizer.warmup_samples", toml(static_cast<int64_t>(std::llround(warmup))),
                 where("lr_warmup_fraction"), "Of the sequences over which the rate decays.");
    } else if (const auto warmup = sequences("lr_warmup", from)) {
      draft_.set("optimizer.warmup_samples", toml(*warmup), from);
    }
    if (const std::string name = flags_.word("optimizer").value_or("adam"); name != "adam")
      draft_.say(Section::no_equivalent, fmt::format("{}: there is Adam alone", where("optimizer")));
  }

  void early_minimum(int64_t decay, const std::string& from) {
    if (steps_ == 0 || decay >= samples_) return;
    const int64_t reached = optim::steps_within_samples(ramp_, decay);
    const double least = flags_.number("min_lr").value_or(0.0);
    draft_.say(Section::notice,
               fmt::format("{}: the learning rate is at its minimum, {}, from step {} of {} on{}", from, least, reached,
                           steps_, least == 0 ? ": the rest of the run learns nothing" : ""));
    draft_.alternative("optimizer.decay_samples", toml(samples_), "to decay until the end");
  }

  // ------------------------------------------------------------------------------------------------------- precision
  void precision() {
    const bool half = flags_.truth("fp16"), brain = flags_.truth("bf16");
    const char* const asked = half ? "fp16" : brain ? "bf16" : "fp32";
    if (!deepspeed()) {
      draft_.set("train.precision", toml(asked), half || brain ? where(asked) : "neither --fp16 nor --bf16");
      if (half) translate_megatron_loss_scale(original_, draft_);
      return;
    }
    const char* const path = json().has("bf16.enabled") ? "bf16.enabled" : "bfloat16.enabled";
    const bool json_half = json().truth("fp16.enabled").value_or(false),
               json_brain = json().truth(path).value_or(false);
    const char* const used = json_half ? "fp16" : json_brain ? "bf16" : "fp32";
    const std::string from = json_half    ? json().where("fp16.enabled")
                             : json_brain ? json().where(path)
                                          : fmt::format("neither fp16 nor bf16 in {}", json().name());
    draft_.set("train.precision", toml(used), from);
    if (std::string_view(used) != asked) {
      draft_.say(
          Section::disagreement,
          fmt::format("Precision: the command line asks for {} ({}), the JSON for {} ({}). DeepSpeed's engine follows "
                      "the JSON, and so does the configuration",
                      asked, half || brain ? where(asked) : "no flag", used, from));
    }
    if (json_half) translate_loss_scale(original_, draft_);
    for (const char* name : {"loss_scale", "initial_loss_scale", "min_loss_scale", "loss_scale_window", "hysteresis"}) {
      if (const Flag* const flag = flags_.find(name))
        draft_.say(Section::dead, fmt::format("{}: {}", flag->where(), kHandsOver));
    }
  }

  void clipping() {
    const double clip = flags_.number("clip_grad").value_or(1.0);
    draft_.set("optimizer.clip", toml(clip), where("clip_grad"));
    if (!deepspeed()) return;
    if (flags_.has("clip_grad")) draft_.say(Section::dead, fmt::format("{}: {}", where("clip_grad"), kHandsOver));
    const auto used = json().number("gradient_clipping");
    if (!used) {
      draft_.say(
          Section::disagreement,
          fmt::format("Clipping: {} never reaches DeepSpeed, whose JSON ({}) has no gradient_clipping: the original "
                      "does not clip with DeepSpeed before 2026-06, and clips at 1 since. The configuration clips "
                      "as the command line says",
                      where("clip_grad"), json().name()));
      return draft_.alternative("optimizer.clip", toml(0.0), "as DeepSpeed did before 2026-06: no clipping");
    }
    draft_.set("optimizer.clip", toml(*used), json().where("gradient_clipping"));
    if (*used != clip)
      draft_.say(Section::disagreement, fmt::format("{} against {}: DeepSpeed follows the JSON, and so does the "
                                                    "configuration",
                                                    where("clip_grad"), json().where("gradient_clipping")));
  }

  void recomputation() {
    const std::string granularity = flags_.word("recompute_granularity").value_or("");
    for (const char* name : {"checkpoint_activations", "deepspeed_activation_checkpointing"}) {
      if (flags_.truth(name)) draft_.set("train.recompute", toml("full"), where(name));
    }
    if (granularity == "full") draft_.set("train.recompute", toml("full"), where("recompute_granularity"));
    if (granularity == "selective" || flags_.truth("recompute_activations"))
      draft_.set("train.recompute", toml("selective"),
                 where(granularity.empty() ? "recompute_activations" : "recompute_granularity"));
    for (const char* name : {"recompute_method", "recompute_num_layers", "checkpoint_num_layers"}) {
      if (flags_.find(name) != nullptr)
        draft_.say(Section::no_equivalent,
                   fmt::format("{}: each block is recomputed by itself; train.recompute_every = k takes every k-th",
                               where(name)));
    }
  }

  // ------------------------------------------------------------------------------------------- evaluation and output
  void evaluation_and_checkpoints() {
    const int64_t batches = flags_.whole("eval_iters").value_or(100);
    if (batches >= 0 && batches < (int64_t{1} << 32))
      draft_.set("train.eval_samples", toml(batches * ramp_.global), where("eval_iters"),
                 fmt::format("{} batches of {}.", batches, ramp_.global));
    const auto every = flags_.whole("save_interval");
    if (const Flag* const save = flags_.find("save")) {
      draft_.say(Section::no_equivalent,
                 fmt::format("{}: checkpoints lie in the run's folder, `ridgeline train --out`", save->where()));
      if (every) draft_.set("train.save_every", toml(*every), where("save_interval"));
    } else if (every) {
      draft_.say(Section::dead, fmt::format("{}: without --save nothing is saved", where("save_interval")));
    }
    if (const auto minutes = flags_.number("distributed_timeout_minutes"))
      draft_.set("parallel.timeout", toml(*minutes * 60), where("distributed_timeout_minutes"));
  }

  // Megatron gives every stage the same number of blocks; Ridgeline balances, with embedding and loss counted.
  void uneven_stages() {
    const auto layers = flags_.whole("num_layers");
    if (stages_ == 1 || chunks_ > kCountable || !layers) return;
    const int64_t parts = stages_ * chunks_;
    if (*layers < parts || *layers % parts != 0) return;
    std::vector<int> ours;
    try {
      const train::Config config = train::parse_config_text(draft_.keys_as_toml(), "migrated");
      train::check(config, static_cast<int>(original_.world));
      ours = train::pipeline_of(config).blocks;
    } catch (const Error&) {  // the final check says it
      return;
    }
    const std::vector<int> theirs(static_cast<size_t>(parts), static_cast<int>(*layers / parts));
    if (ours == theirs) return;
    draft_.set("parallel.stages", toml(std::string_view(fmt::format("{}", fmt::join(theirs, ",")))),
               where("pipeline_model_parallel_size"), "Megatron's cut into equal parts.");
    draft_.alternative("parallel.stages", toml(std::string_view(fmt::format("{}", fmt::join(ours, ",")))),
                       "balanced by cost, as without this line");
  }

  void starting_program() {
    if (!flags_.has("tensorboard_dir")) {
      draft_.say(Section::notice,
                 "No --tensorboard-dir: the Megatron-DeepSpeed of OLCF's tutorial appends a suffix to it when training "
                 "starts, and ends in a TypeError before the first step; other versions do not need it");
    }
    if (original_.python == nullptr && !original_.script.empty())
      draft_.say(Section::notice,
                 fmt::format("{} was not found beside the launch script: the defaults of Megatron's own "
                             "programs are assumed",
                             original_.script));
  }

  Original& original_;
  Arguments& flags_;
  Draft& draft_;
  int64_t tensor_ = 1, stages_ = 1, chunks_ = 1;
  int64_t copies_ = 1;  // data-parallel ranks
  int64_t micro_ = 1;
  optim::BatchRamp ramp_;
  int64_t steps_ = 0, samples_ = 0;
};

}  // namespace

bool is_megatron(const Arguments& flags) {
  for (const char* name : {"num_layers", "hidden_size", "num_attention_heads", "micro_batch_size",
                           "tensor_model_parallel_size", "train_iters", "train_samples", "use_checkpoint_args"}) {
    if (flags.has(name)) return true;
  }
  return false;
}

void translate_megatron(Original& original, Draft& draft) {
  Megatron(original, draft).translate();
}

}  // namespace ridgeline::migrate

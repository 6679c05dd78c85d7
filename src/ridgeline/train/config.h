// The configuration of a run: one TOML file with `--set key=value` over it. One table (config_keys.cpp) holds every key
// with its type, default, unit, allowed values and meaning; reading, `--print-config`, the effective config.toml kept
// beside a run and the checks of single values all follow from it.
//
// Paths are relative to the current folder, wherever the TOML file lies. Every Error names source, line, key, what is
// wrong and the nearest valid key or value: "runs/a.toml:12: train.steps = -5: must be at least 1".
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ridgeline/base/dtype.h"
#include "ridgeline/comm/mesh.h"
#include "ridgeline/data/sampler.h"
#include "ridgeline/data/split.h"
#include "ridgeline/model/block.h"
#include "ridgeline/model/transformer_config.h"
#include "ridgeline/optim/batch_ramp.h"
#include "ridgeline/optim/learning_rate.h"
#include "ridgeline/optim/loss_scale.h"
#include "ridgeline/parallel/sharding.h"

namespace ridgeline::train {

// fp32: everything. bf16, fp16: products and activations, with fp32 master weights. pure_bf16: masters too, rounded
// stochastically.
enum class Precision : uint8_t { fp32, bf16, fp16, pure_bf16 };
std::span<const std::string_view> words_of(Precision);
// Of what is kept, or travels.
enum class Storage : uint8_t { fp32, bf16 };
std::span<const std::string_view> words_of(Storage);
enum class Offload : uint8_t { none, host, file };
std::span<const std::string_view> words_of(Offload);
// How weight decay enters: beside the gradient's step, or as a part of the gradient.
enum class AdamForm : uint8_t { adamw, adam };
std::span<const std::string_view> words_of(AdamForm);
// When gradients are reduced; `automatic` ("auto") decides by the level of sharding.
enum class Cadence : uint8_t { automatic, every, last };
std::span<const std::string_view> words_of(Cadence);

// What a key of data names: a dataset, or several with weights.
struct DatasetList {
  struct Entry {
    double weight = 1;  // as given; 1 of one alone
    std::string prefix;
    bool operator==(const Entry&) const = default;
  };
  std::vector<Entry> entries;  // none: not given
  bool by_size = false;        // several without weights: open_documents() weighs them

  DatasetList() = default;
  // One dataset; "" is none. Implicit, as a text is a value of such a key.
  DatasetList(const std::string& prefix) {  // NOLINT(google-explicit-constructor)
    if (!prefix.empty()) entries.push_back({1, prefix});
  }
  DatasetList(const char* prefix) : DatasetList(std::string(prefix)) {}  // NOLINT(google-explicit-constructor)

  bool empty() const { return entries.empty(); }
  bool is_blend() const { return entries.size() > 1; }
  // Of a sum of 1; by_size: all alike.
  std::vector<double> weights() const;
  bool operator==(const DatasetList&) const = default;
};
// How entry `index` of a key is called: "data.train", or of several "data.train[2]", counted from 1.
std::string entry_name(std::string_view key, const DatasetList& list, size_t index);

struct Config {
  struct Model {
    std::string preset;  // "" = sizes given one by one
    // Every other key of [model]. Complete after parsing: the preset's sizes and the family's options, changed by keys
    // given beside them; sizes left out have their usual values. All sizes 0 when neither preset nor sizes are given
    // (train.init_from then says; see with_imported_model).
    ridgeline::model::TransformerConfig transformer;
  };
  struct Data {
    DatasetList train;  // prefixes of PREFIX.bin and PREFIX.idx
    DatasetList valid;  // likewise; none = a part of each of `train` by `split`
    std::string split = "98,2,0";
    ridgeline::data::SplitRule split_rule = ridgeline::data::SplitRule::cumulative;
    std::string tokenizer;  // folder; "" = none (no text in generation, no bits per byte)
    ridgeline::data::DocumentRules rules;
  };
  struct Train {
    int64_t steps = 1000;
    int64_t global_batch = 8;
    int64_t micro_batch = 1;
    int64_t sequence = 0;  // after parsing: model.context where it was 0 and the model is known
    Precision precision = Precision::fp32;
    int64_t seed = 1234;
    ridgeline::model::Recompute recompute = ridgeline::model::Recompute::none;
    int64_t recompute_every = 1;
    int64_t eval_every = 0;
    int64_t eval_samples = 0;
    int64_t save_every = 0;
    double stop_before_limit = 60.0;  // seconds
    int64_t keep_last = 2;
    bool keep_best = true;
    std::string init_from;
    int64_t threads = 0;
    int64_t head_chunk = 512;
    int64_t batch_ramp_start = 0;  // 0 = no ramp
    int64_t batch_ramp_increment = 0;
    int64_t batch_ramp_samples = 0;
    std::string loss_scale = "usual";  // this and the next four: fp16 only; 0 = the kind's own
    double loss_scale_initial = 0.0;
    double loss_scale_minimum = 0.0;
    int64_t loss_scale_window = 0;
    int64_t loss_scale_hysteresis = 0;
  };
  struct Optimizer {
    optim::Schedule schedule = {.learning_rate = 3e-4};  // as given; schedule_of completes it
    AdamForm form = AdamForm::adamw;
    Storage state = Storage::fp32;
    Offload offload = Offload::none;
    std::string offload_directory;               // "" = `offload` in the run's folder
    int64_t offload_buffer = int64_t{64} << 20;  // bytes
    double beta1 = 0.9;
    double beta2 = 0.95;
    double epsilon = 1e-8;
    double weight_decay = 0.1;
    double clip = 1.0;  // 0 = off
  };
  struct Parallel {
    ridgeline::parallel::Shard shard = ridgeline::parallel::Shard::none;
    int64_t shard_group = 0;
    Cadence reduce = Cadence::automatic;
    Storage reduce_dtype = Storage::fp32;
    ridgeline::parallel::Gather gather = ridgeline::parallel::Gather::per_use;
    int64_t prefetch = 1;
    bool overlap = true;
    int64_t tensor = 1;
    bool sequence = false;
    int64_t pipeline = 1;
    ridgeline::parallel::ScheduleKind schedule = ridgeline::parallel::ScheduleKind::one_f_one_b;
    int64_t chunks = 1;
    std::string stages;  // blocks of each virtual stage, "12,12,11"; "" = balanced by their cost
    int64_t context = 1;
    int64_t sum_group = 8;   // ranks
    double timeout = 600.0;  // seconds
  };

  Model model;
  Data data;
  Train train;
  Optimizer optimizer;
  Parallel parallel;

  // Where each given key was given ("runs/a.toml:12", "--set"); keys left at their default are absent. For errors, and
  // to tell "given" from "default"; no part of the configuration's value.
  std::map<std::string, std::string, std::less<>> origins;

  bool has_model() const { return model.transformer.layers > 0; }
};

// ------------------------------------------------------------------------------------------------------------ reading

// The file (TOML 1.0), then the overrides in order, the last one winning. An override is "key=value": the value as TOML
// would have it, or, for a key that holds a string, the bare text ("train.precision=bf16"). `model.preset` as an
// override replaces every size and option that the file gives, `model.family` every option. An empty path: defaults and
// overrides only. Single values are checked (type, range, allowed words); what needs several keys or the number of
// ranks is check()'s.
Config parse_config(const std::filesystem::path& file, std::span<const std::string> overrides = {});
// The same from text; `source` names it in errors.
Config parse_config_text(std::string_view text, std::string_view source, std::span<const std::string> overrides = {});

// The configuration of a run that starts from an existing model (train.init_from): sizes, options and norm_epsilon
// are the imported model's, dropout and init_deviation this configuration's. Error when a model key was given and
// differs; `source` is where the model comes from ("" for train.init_from).
Config with_imported_model(Config config, const ridgeline::model::TransformerConfig& imported,
                           const std::string& source = {});

// ----------------------------------------------------------------------------------------------------------- checking

// Everything that can be said before data is opened or memory allocated: single values again, the model (skipped while
// it is to come from train.init_from), batch and its ramp against ranks, sequence against context, learning rates,
// warm-up, loss scale. A key that the chosen schedule or loss scale does not read must be at its default. Pure; `plan`
// calls it too. Does not ask for data.train. `world`: all ranks of the run.
void check(const Config& config, int world);
// The mesh of a run on so many ranks, the only place where their number becomes one. Error that names the key whose
// degree does not divide.
comm::Mesh mesh_of(const Config& config, int world);
// Which blocks lie on which stage: as parallel.stages says, or so that the largest stage computes as little as can be,
// embedding and loss counted. One stage without a pipeline.
parallel::Pipeline pipeline_of(const Config& config);
// Part of it: what keys make together (weights, activations, operations, tokens of the run) must be countable. Names
// the keys. Costs nothing, however large they are.
void check_sizes(const Config& config, const comm::Mesh& mesh);
constexpr int kMostRanks = 1 << 20;
// All divisors of a positive number, ascending.
std::vector<int64_t> divisors(int64_t value);
// Error unless data.train is given.
void require_data(const Config& config);

// ------------------------------------------------------------------------------------------------------------ writing

enum class Detail {
  values,     // every key with its value
  documented  // and above each its meaning, unit, allowed values and default, as comments
};
// The configuration as TOML, every key, grouped. parse_config_text(to_toml(c)) has the same values as c, floats
// exactly.
std::string to_toml(const Config& config, Detail detail);

// Keys whose values differ, as "train.steps: 100 -> 200", in the order of to_toml.
std::vector<std::string> differences(const Config& before, const Config& after);

// ------------------------------------------------------------------------------------------------------- derived
// values

// Of activations and of the weights that products read: f32, or bf16 for bf16-mixed (master weights are always f32).
DType activation_dtype(const Config& config);
DType dtype_of(Storage storage);
// The batch of every step; without a ramp always train.global_batch.
optim::BatchRamp batch_ramp_of(const Config& config);
// Complete: with the run's steps, and its samples where decay_samples is 0.
optim::Schedule schedule_of(const Config& config);
// Of fp16, with the kind's own numbers where a key is 0; none for other precisions. Error for a key that the kind does
// not read, for `constant` without a scale, and for a minimum above the initial scale.
std::optional<optim::LossScaleRule> loss_scale_of(const Config& config);

}  // namespace ridgeline::train

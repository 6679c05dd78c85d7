// The state of a run on disk: weights and optimizer moments as global tensors, plus what a resumed run needs to go on
// with the same bits. Any layout of ranks reads any checkpoint: every rank reads and writes its own ranges.
#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "ridgeline/checkpoint/manifest.h"
#include "ridgeline/data/tokenizer_files.h"
#include "ridgeline/parallel/executor.h"
#include "ridgeline/train/sample_order.h"

namespace ridgeline::train {

// Besides tensors: what a checkpoint's manifest says of the run.
struct RunState {
  int64_t step = 0;              // optimizer steps taken
  int64_t consumed_samples = 0;  // training samples consumed: the data position
  int64_t consumed_tokens = 0;
  // Without the steps that fp16 skipped for an overflow: learning rates and Adam's corrections count these.
  int64_t successful_steps = 0;
  int64_t successful_samples = 0;
  nlohmann::json loss_scale;                   // of optim::LossScaler; null without fp16
  std::optional<double> best_validation_loss;  // nats per token
  int64_t best_step = 0;
  bool evaluation_due = false;       // a stop came before the evaluation of this step was through
  checkpoint::Descent descent;       // of the checkpoint, in the run
  std::optional<SampleOrder> order;  // none in checkpoints that did not record it
  std::string config;                // the effective configuration, TOML
  data::TokenizerFiles tokenizer;    // empty when the run has none; files beside the manifest
  // The id that ends each document of the training data; nullopt when none was appended, or nothing is known.
  std::optional<int32_t> end_of_document;
};
nlohmann::json to_json(const RunState& state, const model::TransformerConfig& config);
// All but the step and the tokenizer's files (an old checkpoint has its tokenizer.json here).
RunState run_state_from_json(const nlohmann::json& json, std::string_view where);
// The tokenizer kept in a checkpoint.
data::TokenizerFiles tokenizer_of(const checkpoint::CheckpointReader& reader, const std::filesystem::path& folder);
// The model that a checkpoint holds. Error naming `where` when the manifest does not say.
model::TransformerConfig model_config_of(const nlohmann::json& manifest_extra, std::string_view where);

// Writes `parent`/step_… by all ranks. Collective; on return (of every rank) the checkpoint is complete and durable.
// When any rank cannot write, nothing is left behind and every rank throws. Returns the folder. `before_commit` is
// called on the first rank when all tensors are on disk and the checkpoint is not yet there: what it claims to have
// happened is made durable then.
std::filesystem::path save_state(parallel::Executor& executor, const std::filesystem::path& parent,
                                 const RunState& state, const std::function<void()>& before_commit = {});

// Writes the state's evaluation (best validation loss, nothing due) into the manifest of a checkpoint that is there.
void save_evaluation(const std::filesystem::path& folder, const RunState& state);

// Reads weights (and moments when the executor trains) of a checkpoint folder. Collective. Sizes and shapes are
// checked; checksums are the caller's choice (checkpoint::verify).
RunState load_state(parallel::Executor& executor, const std::filesystem::path& folder);

// Reads weights of a Hugging Face folder (safetensors). Moments stay zero. Collective.
void load_hugging_face(parallel::Executor& executor, const std::filesystem::path& folder);

// Draws initial weights. Collective.
void initialize(parallel::Executor& executor, uint64_t seed);

}  // namespace ridgeline::train

#include <vector>

#include "ridgeline/migrate/flag_tables.h"

namespace ridgeline::migrate {
namespace {

constexpr std::string_view kRunFolder = "`ridgeline train --out` names the run's folder";
constexpr std::string_view kLogged = "every step is logged, to metrics.jsonl and TensorBoard";
constexpr std::string_view kNoNeed = "tokens are mapped from a .bin file: no workers, no collator";
constexpr std::string_view kRendezvous = "ranks find one another through MPI";
constexpr std::string_view kSpeed = "how it is computed, not what";

std::vector<FlagRow> trainer_optimization_rows() {
  using enum Translation;
  return {{"per_device_train_batch_size", combined, "", ""},
          {"gradient_accumulation_steps", combined, "", ""},
          {"learning_rate", combined, "", ""},
          {"adam_beta1", number, "optimizer.beta1", "0.9"},
          {"adam_beta2", number, "optimizer.beta2", "0.999"},
          {"adam_epsilon", number, "optimizer.epsilon", "1e-08"},
          {"weight_decay", number, "optimizer.weight_decay", "0.0"},
          {"max_grad_norm", combined, "", ""},
          {"max_steps", combined, "", ""},
          {"num_train_epochs", combined, "", ""},
          {"warmup_steps", combined, "", ""},
          {"warmup_ratio", combined, "", ""},
          {"lr_scheduler_type", combined, "", ""},
          {"optim", combined, "", ""},
          {"seed", whole, "train.seed", ""},
          {"fp16", combined, "", ""},
          {"bf16", combined, "", ""},
          {"fsdp", combined, "", ""},
          {"fsdp_config", combined, "", ""},
          {"fsdp_transformer_layer_cls_to_wrap", combined, "", ""},
          {"gradient_checkpointing", combined, "", ""},
          {"save_steps", combined, "", ""},
          {"save_strategy", combined, "", ""},
          {"save_total_limit", whole, "train.keep_last", ""},
          {"eval_steps", combined, "", ""},
          {"evaluation_strategy", combined, "", ""},
          {"eval_strategy", combined, "", ""},
          {"do_train", combined, "", ""},
          {"do_eval", combined, "", ""}};
}

std::vector<FlagRow> trainer_other_rows() {
  using enum Translation;
  return {{"deepspeed", combined, "", ""},
          {"deepspeed_config", combined, "", ""},
          {"model_name_or_path", combined, "", ""},
          {"model_name", combined, "", ""},
          {"model", combined, "", ""},
          {"max_len", combined, "", ""},
          {"block_size", combined, "", ""},
          {"max_seq_length", combined, "", ""},
          {"tokenizer_name", combined, "", ""},
          {"train_file", combined, "", ""},
          {"dataset_name", combined, "", ""},
          {"per_device_eval_batch_size", nothing, "evaluation computes train.micro_batch sequences at once", ""},
          {"output_dir", nothing, kRunFolder, ""},
          {"overwrite_output_dir", nothing, kRunFolder, ""},
          {"logging_dir", nothing, kRunFolder, ""},
          {"run_name", nothing, kRunFolder, ""},
          {"logging_steps", nothing, kLogged, ""},
          {"logging_strategy", nothing, kLogged, ""},
          {"report_to", nothing, kLogged, ""},
          {"log_level", nothing, kLogged, ""},
          {"disable_tqdm", nothing, kLogged, ""},
          {"dataloader_num_workers", nothing, kNoNeed, ""},
          {"dataloader_drop_last", nothing, kNoNeed, ""},
          {"dataloader_pin_memory", nothing, kNoNeed, ""},
          {"preprocessing_num_workers", nothing, "`ridgeline prepare --threads`", ""},
          {"remove_unused_columns", nothing, kNoNeed, ""},
          {"local_rank", nothing, kRendezvous, ""},
          {"master_address", nothing, kRendezvous, ""},
          {"master_port", nothing, kRendezvous, ""},
          {"ddp_find_unused_parameters", nothing, kSpeed, ""},
          {"ddp_backend", nothing, kSpeed, ""},
          {"ddp_timeout", number, "parallel.timeout", ""},
          {"tf32", nothing, kSpeed, ""},
          {"torch_compile", nothing, kSpeed, ""},
          {"resume_from_checkpoint", nothing, "`ridgeline train --resume`", ""},
          {"data_seed", nothing, "train.seed is that of the order, too", ""},
          {"label_smoothing_factor", nothing, "not supported", ""},
          {"neftune_noise_alpha", nothing, "not supported", ""},
          {"group_by_length", nothing, "all sequences have the same length", ""},
          {"load_best_model_at_end", nothing, "train.keep_best keeps the best checkpoint", ""},
          {"streaming", nothing, "`ridgeline prepare` makes a dataset of the text first", ""}};
}

}  // namespace

std::span<const FlagRow> trainer_flags() {
  static const std::vector<FlagRow> kRows = [] {
    std::vector<FlagRow> all = trainer_optimization_rows();
    const std::vector<FlagRow> rest = trainer_other_rows();
    all.insert(all.end(), rest.begin(), rest.end());
    return all;
  }();
  return kRows;
}

}  // namespace ridgeline::migrate

#include <vector>

#include "ridgeline/migrate/flag_tables.h"

namespace ridgeline::migrate {
namespace {

constexpr std::string_view kWritten = "every run writes metrics.jsonl and TensorBoard events into its folder";
constexpr std::string_view kFused = "how it is computed, not what: there is one implementation of each operator";
constexpr std::string_view kLauncher = "ranks find one another through MPI";
constexpr std::string_view kResume = "`ridgeline train --resume` goes on with everything that the run had";
constexpr std::string_view kOther = "not supported";

std::vector<FlagRow> model_rows() {
  using enum Translation;
  return {{"num_layers", whole, "model.layers", ""},
          {"hidden_size", whole, "model.width", ""},
          {"num_attention_heads", whole, "model.heads", ""},
          {"kv_channels", whole, "model.head_width", ""},
          {"max_position_embeddings", whole, "model.context", ""},
          {"seq_length", whole, "train.sequence", ""},
          {"init_method_std", number, "model.init_deviation", "0.02"},
          {"layernorm_epsilon", number, "model.norm_epsilon", ""},
          {"norm_epsilon", number, "model.norm_epsilon", ""},
          {"rotary_base", number, "model.rotary_base", ""},
          {"ffn_hidden_size", combined, "", ""},
          {"group_query_attention", combined, "", ""},
          {"num_query_groups", combined, "", ""},
          {"num_key_value_heads", combined, "", ""},
          {"position_embedding_type", combined, "", ""},
          {"use_rotary_position_embeddings", combined, "", ""},
          {"rotary_percent", combined, "", ""},
          {"no_position_embedding", combined, "", ""},
          {"swiglu", combined, "", ""},
          {"normalization", combined, "", ""},
          {"disable_bias_linear", combined, "", ""},
          {"add_qkv_bias", combined, "", ""},
          {"untie_embeddings_and_output_weights", combined, "", ""},
          {"no_bias_gelu_fusion", combined, "", ""},
          {"hidden_dropout", combined, "", ""},
          {"attention_dropout", combined, "", ""},
          {"vocab_size", combined, "", ""},
          {"padded_vocab_size", combined, "", ""},
          {"make_vocab_size_divisible_by", combined, "", ""},
          {"tokenizer_type", combined, "", ""},
          {"tokenizer_model", combined, "", ""},
          {"vocab_file", combined, "", ""},
          {"merge_file", combined, "", ""},
          {"openai_gelu", nothing, "the usual activation, model.mlp = \"gelu_tanh\"", ""},
          {"squared_relu", nothing, "activation not supported", ""},
          {"geglu", nothing, "activation not supported", ""},
          {"apply_layernorm_1p", nothing, kOther, ""},
          {"apply_residual_connection_post_layernorm", nothing, kOther, ""},
          {"num_experts", nothing, "mixtures of experts are not supported", ""},
          {"mup", nothing, kOther, ""}};
}

std::vector<FlagRow> parallel_rows() {
  using enum Translation;
  return {{"tensor_model_parallel_size", whole, "parallel.tensor", ""},
          {"pipeline_model_parallel_size", whole, "parallel.pipeline", ""},
          {"num_layers_per_virtual_pipeline_stage", combined, "", ""},
          {"num_virtual_stages_per_pipeline_rank", combined, "", ""},
          {"context_parallel_size", combined, "", ""},
          {"sequence_parallel", combined, "", ""},
          {"use_distributed_optimizer", combined, "", ""},
          {"no_pipeline_parallel", combined, "", ""},
          {"zero_stage", combined, "", ""},
          {"deepspeed", combined, "", ""},
          {"deepspeed_config", combined, "", ""},
          {"checkpoint_activations", combined, "", ""},
          {"deepspeed_activation_checkpointing", combined, "", ""},
          {"recompute_activations", combined, "", ""},
          {"recompute_granularity", combined, "", ""},
          {"recompute_method", combined, "", ""},
          {"recompute_num_layers", combined, "", ""},
          {"checkpoint_num_layers", combined, "", ""},
          {"DDP_impl", nothing, kFused, ""},
          {"overlap_grad_reduce", nothing, "transfers overlap anyway (parallel.overlap)", ""},
          {"overlap_param_gather", nothing, "transfers overlap anyway (parallel.overlap)", ""},
          {"tp_comm_overlap", nothing, "transfers overlap anyway (parallel.overlap)", ""},
          {"distributed_backend", nothing, kLauncher, ""},
          {"distributed_timeout_minutes", combined, "", ""},
          {"local_rank", nothing, kLauncher, ""},
          {"master_addr", nothing, kLauncher, ""},
          {"master_port", nothing, kLauncher, ""},
          {"expert_model_parallel_size", nothing, "mixtures of experts are not supported", ""},
          {"partition_activations", nothing, kFused, ""},
          {"distribute_saved_activations", nothing, kOther, ""},
          {"cpu_optimizer", nothing, "optimizer.offload = \"host\" says the same", ""}};
}

std::vector<FlagRow> training_rows() {
  using enum Translation;
  return {{"micro_batch_size", whole, "train.micro_batch", ""},
          {"global_batch_size", combined, "", ""},
          {"rampup_batch_size", combined, "", ""},
          {"train_iters", combined, "", ""},
          {"train_samples", combined, "", ""},
          {"train_tokens", combined, "", ""},
          {"exit_duration_in_mins", nothing, "a run saves and ends at SIGTERM, which schedulers send", ""},
          {"exit_interval", nothing, "train.steps ends a run", ""},
          {"lr", number, "optimizer.learning_rate", ""},
          {"min_lr", number, "optimizer.min_learning_rate", "0.0"},
          {"lr_decay_style", combined, "", ""},
          {"lr_decay_iters", combined, "", ""},
          {"lr_decay_samples", combined, "", ""},
          {"lr_decay_tokens", combined, "", ""},
          {"lr_warmup_iters", combined, "", ""},
          {"lr_warmup_samples", combined, "", ""},
          {"lr_warmup_tokens", combined, "", ""},
          {"lr_warmup_fraction", combined, "", ""},
          {"optimizer", combined, "", ""},
          {"adam_beta1", number, "optimizer.beta1", "0.9"},
          {"adam_beta2", number, "optimizer.beta2", "0.999"},
          {"adam_eps", number, "optimizer.epsilon", "1e-08"},
          {"weight_decay", number, "optimizer.weight_decay", "0.01"},
          {"clip_grad", combined, "", ""},
          {"seed", whole, "train.seed", ""},
          {"fp16", combined, "", ""},
          {"bf16", combined, "", ""},
          {"loss_scale", combined, "", ""},
          {"initial_loss_scale", combined, "", ""},
          {"min_loss_scale", combined, "", ""},
          {"loss_scale_window", combined, "", ""},
          {"hysteresis", combined, "", ""},
          {"start_weight_decay", nothing, "weight decay is constant", ""},
          {"end_weight_decay", nothing, "weight decay is constant", ""},
          {"weight_decay_incr_style", nothing, "weight decay is constant", ""},
          {"override_lr_scheduler", nothing, kResume, ""},
          {"override_opt_param_scheduler", nothing, kResume, ""},
          {"use_checkpoint_opt_param_scheduler", nothing, kResume, ""},
          {"fp16_lm_cross_entropy", nothing, "losses are fp32", ""},
          {"fp32_residual_connection", nothing, kOther, ""},
          {"accumulate_allreduce_grads_in_fp32", nothing, "sums of gradients are fp32 anyway", ""},
          {"attention_softmax_in_fp32", nothing, "softmax is fp32 anyway", ""},
          {"no_query_key_layer_scaling", nothing, "scores are never scaled by the layer's number", ""},
          {"apply_query_key_layer_scaling", nothing, "softmax is fp32, which needs no such scaling", ""},
          {"use_flash_attn", nothing, kFused, ""},
          {"use_flash_attn_v2", nothing, kFused, ""},
          {"attention_backend", nothing, kFused, ""},
          {"no_masked_softmax_fusion", nothing, kFused, ""},
          {"no_bias_dropout_fusion", nothing, kFused, ""},
          {"no_gradient_accumulation_fusion", nothing, kFused, ""},
          {"no_async_tensor_model_parallel_allreduce", nothing, kFused, ""},
          {"no_scaled_masked_softmax_fusion", nothing, kFused, ""},
          {"transformer_impl", nothing, kFused, ""},
          {"use_mcore_models", nothing, kFused, ""},
          {"use_cpu_initialization", nothing, kFused, ""},
          {"no_contiguous_buffers_in_local_ddp", nothing, kFused, ""}};
}

std::vector<FlagRow> data_and_output_rows() {
  using enum Translation;
  return {{"data_path", combined, "", ""},
          {"train_data_path", combined, "", ""},
          {"valid_data_path", combined, "", ""},
          {"test_data_path", nothing, "only training and validation data are read", ""},
          {"split", combined, "", ""},
          {"data_impl", nothing, ".bin and .idx files are always mapped", ""},
          {"data_cache_path", nothing, "the order of samples is computed, no index is kept", ""},
          {"dataloader_type", combined, "", ""},
          {"mmap_warmup", nothing, ".bin and .idx files are always mapped", ""},
          {"num_workers", nothing, "tokens are read where they are used", ""},
          {"reset_position_ids", combined, "", ""},
          {"reset_attention_mask", combined, "", ""},
          {"eod_mask_loss", combined, "", ""},
          {"eval_interval", whole, "train.eval_every", "1000"},
          {"eval_iters", combined, "", ""},
          {"save_interval", combined, "", ""},
          {"save", combined, "", ""},
          {"load", nothing, kResume, ""},
          {"finetune", nothing, "train.init_from starts from a Hugging Face folder", ""},
          {"no_load_optim", nothing, kResume, ""},
          {"no_load_rng", nothing, kResume, ""},
          {"no_save_optim", nothing, "checkpoints are always whole", ""},
          {"no_save_rng", nothing, "checkpoints are always whole", ""},
          {"use_checkpoint_args", nothing, kResume, ""},
          {"ckpt_format", nothing, "any layout reads any checkpoint", ""},
          {"use_dist_ckpt", nothing, "any layout reads any checkpoint", ""},
          {"log_interval", nothing, "every step is logged", ""},
          {"log_throughput", nothing, kWritten, ""},
          {"log_params_norm", nothing, kWritten, ""},
          {"log_num_zeros_in_grad", nothing, kWritten, ""},
          {"log_timers_to_tensorboard", nothing, kWritten, ""},
          {"log_memory_to_tensorboard", nothing, kWritten, ""},
          {"log_batch_size_to_tensorboard", nothing, kWritten, ""},
          {"log_validation_ppl_to_tensorboard", nothing, kWritten, ""},
          {"log_optimizer_states_to_tensorboard", nothing, kWritten, ""},
          {"tensorboard_dir", nothing, kWritten, ""},
          {"tensorboard_queue_size", nothing, kWritten, ""},
          {"tensorboard_log_interval", nothing, kWritten, ""},
          {"timing_log_level", nothing, kWritten, ""},
          {"wandb_project", nothing, kWritten, ""},
          {"wandb_exp_name", nothing, kWritten, ""},
          {"wandb_save_dir", nothing, kWritten, ""},
          {"profile", nothing, "`ridgeline train --trace` records a step", ""}};
}

}  // namespace

std::span<const FlagRow> megatron_flags() {
  static const std::vector<FlagRow> kRows = [] {
    std::vector<FlagRow> all;
    for (const auto part : {model_rows, parallel_rows, training_rows, data_and_output_rows}) {
      const std::vector<FlagRow> rows = part();
      all.insert(all.end(), rows.begin(), rows.end());
    }
    return all;
  }();
  return kRows;
}

}  // namespace ridgeline::migrate

#include "ridgeline/train/config_keys.h"

namespace ridgeline::train {
namespace {

constexpr double kMaxRanks = kMostRanks;

std::vector<Key> model_keys() {
  return {
      {.name = "model.preset",
       .unit = "",
       .slot = [](Config& c) -> Slot { return &c.model.preset; },
       .meaning = "A known model: gpt2 (= gpt2-124m), gpt2-medium (= gpt2-350m), gpt2-large (= gpt2-774m), gpt2-xl (= "
                  "gpt2-1.5b), gptj-6b, llama3-8b, gpt-neox-20b. Sizes and options given beside it replace the "
                  "preset's; empty: give all sizes, or none beside train.init_from (--set model.preset= takes a file's "
                  "preset back)."},
      {.name = "model.family",
       .unit = "",
       .slot = [](Config& c) -> Slot { return &c.model.transformer.family; },
       .meaning = "Sets the options below to those of a known architecture, and the class to export as; options given "
                  "beside it replace the family's and combine freely.",
       .words = words_in(ridgeline::model::family_names())},
      {.name = "model.layers",
       .unit = "blocks",
       .slot = [](Config& c) -> Slot { return &c.model.transformer.layers; },
       .meaning = "Transformer blocks. 0: not given (a preset or train.init_from says).",
       .low = 0,
       .high = 10'000},
      {.name = "model.width",
       .unit = "elements",
       .slot = [](Config& c) -> Slot { return &c.model.transformer.width; },
       .meaning = "Width of the residual stream; a multiple of model.heads unless model.head_width is given.",
       .low = 0,
       .high = 1 << 22},
      {.name = "model.heads",
       .unit = "heads",
       .slot = [](Config& c) -> Slot { return &c.model.transformer.heads; },
       .meaning = "Attention heads; each is width / heads wide, at most 256.",
       .low = 0,
       .high = 1 << 24},
      {.name = "model.kv_heads",
       .unit = "heads",
       .slot = [](Config& c) -> Slot { return &c.model.transformer.kv_heads; },
       .meaning = "Heads of keys and values, a divisor of model.heads (fewer: grouped-query attention). 0: as many as "
                  "model.heads.",
       .low = 0,
       .high = 1 << 24},
      {.name = "model.head_width",
       .unit = "elements",
       .slot = [](Config& c) -> Slot { return &c.model.transformer.separate_head_width; },
       .meaning = "Width of a head, at most 256. 0: width / heads.",
       .low = 0,
       .high = 256},
      {.name = "model.ffn",
       .unit = "elements",
       .slot = [](Config& c) -> Slot { return &c.model.transformer.ffn; },
       .meaning = "Width of the feed-forward layer. 0: 4 x model.width, with swiglu 8/3 x model.width rounded up to a "
                  "multiple of 256.",
       .low = 0,
       .high = 1 << 24},
      {.name = "model.vocab",
       .unit = "tokens",
       .slot = [](Config& c) -> Slot { return &c.model.transformer.vocab; },
       .meaning = "Vocabulary: at least the tokenizer's. Never padded for a layout.",
       .low = 0,
       .high = 1 << 24},
      {.name = "model.context",
       .unit = "tokens",
       .slot = [](Config& c) -> Slot { return &c.model.transformer.context; },
       .meaning = "The longest sequence the model can see.",
       .low = 0,
       .high = 1 << 24},
  };
}

std::vector<Key> model_option_keys() {
  namespace m = ridgeline::model;
  return {
      {.name = "model.positions",
       .unit = "",
       .slot = [](Config& c) -> Slot { return choice(c.model.transformer.positions); },
       .meaning = "learned: a trained table with model.context rows; rotary: queries and keys are turned.",
       .words = words_for(m::Positions{})},
      {.name = "model.rotary_width",
       .unit = "elements",
       .slot = [](Config& c) -> Slot { return &c.model.transformer.rotary_width; },
       .meaning = "Elements of a head that rotary positions turn, even. 0: the whole head.",
       .low = 0,
       .high = 256},
      {.name = "model.rotary_base",
       .unit = "",
       .slot = [](Config& c) -> Slot { return &c.model.transformer.rotary_base; },
       .meaning = "Base of rotary frequencies.",
       .low = 1,
       .high = 1e12},
      {.name = "model.rotary_pairing",
       .unit = "",
       .slot = [](Config& c) -> Slot { return choice(c.model.transformer.rotary_pairing); },
       .meaning = "Which elements turn together: neighbours (interleaved, GPT-J) or i and i + R/2 (half_split).",
       .words = words_for(m::Pairing{})},
      {.name = "model.rotary_scaling",
       .unit = "",
       .slot = [](Config& c) -> Slot { return &c.model.transformer.rotary_scaling; },
       .meaning = "Llama 3.1's factor by which low rotary frequencies are divided for longer contexts. 1: none.",
       .low = 1,
       .high = 1e6},
      {.name = "model.rotary_low_frequency_factor",
       .unit = "",
       .slot = [](Config& c) -> Slot { return &c.model.transformer.rotary_low_frequency_factor; },
       .meaning = "Wavelengths above model.rotary_original_context / this are scaled in full.",
       .low = 1e-6,
       .high = 1e6},
      {.name = "model.rotary_high_frequency_factor",
       .unit = "",
       .slot = [](Config& c) -> Slot { return &c.model.transformer.rotary_high_frequency_factor; },
       .meaning = "Wavelengths below model.rotary_original_context / this stay as they are.",
       .low = 1e-6,
       .high = 1e6},
      {.name = "model.rotary_original_context",
       .unit = "tokens",
       .slot = [](Config& c) -> Slot { return &c.model.transformer.rotary_original_context; },
       .meaning = "The context before scaling.",
       .low = 1,
       .high = 1 << 24},
      {.name = "model.norm",
       .unit = "",
       .slot = [](Config& c) -> Slot { return choice(c.model.transformer.norm); },
       .meaning = "Layer norm, or RMS norm (no mean, no bias).",
       .words = words_for(m::Norm{})},
      {.name = "model.residual",
       .unit = "",
       .slot = [](Config& c) -> Slot { return choice(c.model.transformer.residual); },
       .meaning = "Attention and MLP one after the other, or both from the block's input (with two norms, or one).",
       .words = words_for(m::Residual{})},
      {.name = "model.mlp",
       .unit = "",
       .slot = [](Config& c) -> Slot { return choice(c.model.transformer.mlp); },
       .meaning = "Activation of the feed-forward layer.",
       .words = words_for(m::Mlp{})},
      {.name = "model.qkv_bias",
       .unit = "",
       .slot = [](Config& c) -> Slot { return &c.model.transformer.qkv_bias; },
       .meaning = "Biases of queries, keys and values."},
      {.name = "model.out_bias",
       .unit = "",
       .slot = [](Config& c) -> Slot { return &c.model.transformer.out_bias; },
       .meaning = "Bias of the attention's output."},
      {.name = "model.mlp_bias",
       .unit = "",
       .slot = [](Config& c) -> Slot { return &c.model.transformer.mlp_bias; },
       .meaning = "Biases of the feed-forward layer."},
      {.name = "model.tied",
       .unit = "",
       .slot = [](Config& c) -> Slot { return &c.model.transformer.tied; },
       .meaning = "The head is the embedding's matrix."},
      {.name = "model.head_bias",
       .unit = "",
       .slot = [](Config& c) -> Slot { return &c.model.transformer.head_bias; },
       .meaning = "Bias of the logits."},
      {.name = "model.dropout",
       .unit = "probability",
       .slot = [](Config& c) -> Slot { return &c.model.transformer.dropout; },
       .meaning =
           "Dropout of embeddings, residual branches and attention. Always from here, also with train.init_from.",
       .low = 0,
       .high = 1,
       .below_high = true},
      {.name = "model.norm_epsilon",
       .unit = "",
       .slot = [](Config& c) -> Slot { return &c.model.transformer.norm_epsilon; },
       .meaning = "Added to the variance in norms.",
       .low = 1e-12,
       .high = 1},
      {.name = "model.init_deviation",
       .unit = "",
       .slot = [](Config& c) -> Slot { return &c.model.transformer.init_deviation; },
       .meaning = "Standard deviation of initial weights.",
       .low = 0,
       .high = 10},
  };
}

std::vector<Key> data_keys() {
  return {
      {.name = "data.train",
       .unit = "path",
       .slot = [](Config& c) -> Slot { return &c.data.train; },
       .meaning =
           "Training tokens: the prefix of PREFIX.bin and PREFIX.idx, as `ridgeline prepare --out PREFIX` writes "
           "them; or a token file of llm.c, or a pattern of such (\"fineweb_train_*.bin\"). Like every path here, "
           "relative to the current folder. Or several, of which samples are drawn by weight: [[0.7, \"data/web\"], "
           "[0.3, \"data/books\"]] (docs/data.md)."},
      {.name = "data.valid",
       .unit = "path",
       .slot = [](Config& c) -> Slot { return &c.data.valid; },
       .meaning = "Validation tokens, likewise. Empty: a part of data.train, of each of several, by data.split."},
      {.name = "data.split",
       .unit = "shares",
       .slot = [](Config& c) -> Slot { return &c.data.split; },
       .meaning = "Shares of training, validation and test documents in data.train, used when data.valid is empty."},
      {.name = "data.split_rule",
       .unit = "",
       .slot = [](Config& c) -> Slot { return choice(c.data.split_rule); },
       .meaning = "How data.split becomes whole documents. cumulative: the sums of shares are rounded (Megatron-LM "
                  "since November 2023). per_share: each share is rounded by itself (Megatron-LM before, "
                  "Megatron-DeepSpeed, GPT-NeoX; the tutorial's). A run that is resumed keeps its own.",
       .words = words_for(ridgeline::data::SplitRule{})},
      {.name = "data.tokenizer",
       .unit = "path",
       .slot = [](Config& c) -> Slot { return &c.data.tokenizer; },
       .meaning = "Folder of the tokenizer that made the data; kept in checkpoints, for bits per byte, generation and "
                  "export. Empty: the one in train.init_from, else the one that the note of the data names, if it lies "
                  "there and is still the same."},
      {.name = "data.reset_attention_mask",
       .unit = "",
       .slot = [](Config& c) -> Slot { return &c.data.rules.reset_attention_mask; },
       .meaning = "true: a token sees its own document only, not those before it in the same sample (Megatron-LM's "
                  "--reset-attention-mask). Faster where documents are short."},
      {.name = "data.reset_position_ids",
       .unit = "",
       .slot = [](Config& c) -> Slot { return &c.data.rules.reset_position_ids; },
       .meaning = "true: positions begin with 0 in each document of a sample (Megatron-LM's --reset-position-ids); "
                  "usually beside data.reset_attention_mask."},
      {.name = "data.eod_mask_loss",
       .unit = "",
       .slot = [](Config& c) -> Slot { return &c.data.rules.eod_mask_loss; },
       .meaning = "true: what follows a document's last token in a sample is not learned (Megatron-LM's "
                  "--eod-mask-loss). Evaluation predicts it all the same."},
  };
}

std::vector<Key> train_keys() {
  return {
      {.name = "train.steps",
       .unit = "steps",
       .slot = [](Config& c) -> Slot { return &c.train.steps; },
       .meaning = "Optimizer steps of the whole run; resuming goes on to it.",
       .low = 1,
       .high = kNoLimit},
      {.name = "train.global_batch",
       .unit = "sequences",
       .slot = [](Config& c) -> Slot { return &c.train.global_batch; },
       .meaning = "Sequences per optimizer step, over all ranks: a multiple of ranks x micro_batch.",
       .low = 1,
       .high = 1 << 30},
      {.name = "train.micro_batch",
       .unit = "sequences",
       .slot = [](Config& c) -> Slot { return &c.train.micro_batch; },
       .meaning = "Sequences a rank computes at once: more is faster and takes more memory; the result is the same.",
       .low = 1,
       .high = 1 << 30},
      {.name = "train.sequence",
       .unit = "tokens",
       .slot = [](Config& c) -> Slot { return &c.train.sequence; },
       .meaning = "Tokens per sequence, at most model.context. 0: model.context.",
       .low = 0,
       .high = 1 << 24},
      {.name = "train.precision",
       .unit = "",
       .slot = [](Config& c) -> Slot { return choice(c.train.precision); },
       .meaning = "bf16: activations and products in bfloat16, sums and master weights in fp32. fp16: the same in half "
                  "precision, with a loss scale. pure_bf16: master weights in bfloat16 too, rounded stochastically.",
       .words = words_for(Config{}.train.precision)},
      {.name = "train.seed",
       .unit = "",
       .slot = [](Config& c) -> Slot { return &c.train.seed; },
       .meaning = "Of initial weights, sample order and dropout. Same seed, same layout: same bits.",
       .low = 0,
       .high = 4294967295.0},
      {.name = "train.recompute",
       .unit = "",
       .slot = [](Config& c) -> Slot { return choice(c.train.recompute); },
       .meaning = "What a block computes again in the backward pass instead of keeping it, with the same bits. "
                  "selective: norm outputs and the activation's output (attention scores are never kept). full: all "
                  "but the block's input (activation checkpointing).",
       .words = words_for(Config{}.train.recompute)},
      {.name = "train.recompute_every",
       .unit = "blocks",
       .slot = [](Config& c) -> Slot { return &c.train.recompute_every; },
       .meaning = "train.recompute applies to blocks 0, k, 2 k … of this k; the others keep everything.",
       .low = 1,
       .high = 10'000},
      {.name = "train.eval_every",
       .unit = "steps",
       .slot = [](Config& c) -> Slot { return &c.train.eval_every; },
       .meaning = "Validation loss every so many steps, and after the last one. 0: only after the last one.",
       .low = 0,
       .high = kNoLimit},
      {.name = "train.eval_samples",
       .unit = "sequences",
       .slot = [](Config& c) -> Slot { return &c.train.eval_samples; },
       .meaning = "At most so many sequences per evaluation, always the same ones. 0: the whole validation set.",
       .low = 0,
       .high = kNoLimit},
      {.name = "train.save_every",
       .unit = "steps",
       .slot = [](Config& c) -> Slot { return &c.train.save_every; },
       .meaning =
           "Checkpoint every so many steps, and after the last one. 0: only after the last one and when stopped.",
       .low = 0,
       .high = kNoLimit},
      {.name = "train.stop_before_limit",
       .unit = "seconds",
       .slot = [](Config& c) -> Slot { return &c.train.stop_before_limit; },
       .meaning =
           "A run in a Slurm job saves and stops by itself so long before the job's time limit that another step "
           "and a save, each as long as the longest so far, and this time besides would not fit any more. Exit "
           "code 75 then says that --resume goes on.",
       .low = 0,
       .high = 1e6},
      {.name = "train.keep_last",
       .unit = "checkpoints",
       .slot = [](Config& c) -> Slot { return &c.train.keep_last; },
       .meaning = "Newest checkpoints kept, besides the best by validation loss. 0: all.",
       .low = 0,
       .high = kNoLimit},
      {.name = "train.keep_best",
       .unit = "",
       .slot = [](Config& c) -> Slot { return &c.train.keep_best; },
       .meaning = "Write a checkpoint after every evaluation whose validation loss is the lowest so far, and keep it "
                  "until there is a lower one. false: only train.save_every and train.keep_last say what is kept."},
      {.name = "train.init_from",
       .unit = "path",
       .slot = [](Config& c) -> Slot { return &c.train.init_from; },
       .meaning =
           "Hugging Face folder (config.json, safetensors) of a known family to start from. Empty: random initial "
           "weights."},
      {.name = "train.threads",
       .unit = "threads",
       .slot = [](Config& c) -> Slot { return &c.train.threads; },
       .meaning = "Compute threads per rank; results do not depend on it. 0: CPUs / ranks on this host.",
       .low = 0,
       .high = 4096},
      {.name = "train.head_chunk",
       .unit = "tokens",
       .slot = [](Config& c) -> Slot { return &c.train.head_chunk; },
       .meaning = "Tokens whose logits exist at once in the loss: bounds memory at large vocabularies.",
       .low = 1,
       .high = 1 << 30},
  };
}

std::vector<Key> parallel_keys() {
  return {
      {.name = "parallel.shard",
       .unit = "",
       .slot = [](Config& c) -> Slot { return choice(c.parallel.shard); },
       .meaning = "What each data-parallel rank keeps only 1/N of. none: nothing (DDP). optimizer: master weights and "
                  "moments (ZeRO-1). gradients: accumulated gradients too (ZeRO-2). parameters: weights too, gathered "
                  "for use (ZeRO-3, FSDP).",
       .words = words_for(Config{}.parallel.shard)},
      {.name = "parallel.shard_group",
       .unit = "ranks",
       .slot = [](Config& c) -> Slot { return &c.parallel.shard_group; },
       .meaning =
           "Ranks that share one copy of what is sharded; several such groups are replicas (hybrid sharding: HSDP, "
           "MiCS). 0: all data-parallel ranks.",
       .low = 0,
       .high = kMaxRanks},
      {.name = "parallel.reduce",
       .unit = "",
       .slot = [](Config& c) -> Slot { return choice(c.parallel.reduce); },
       .meaning = "When gradients are summed over the ranks. every: after each micro-batch (with shard = gradients or "
                  "parameters the least memory). last: once per step (least traffic). auto: every from shard = "
                  "gradients on, else last.",
       .words = words_for(Config{}.parallel.reduce)},
      {.name = "parallel.reduce_dtype",
       .unit = "",
       .slot = [](Config& c) -> Slot { return choice(c.parallel.reduce_dtype); },
       .meaning = "Gradients while they travel. bf16 halves the traffic, and their memory where each is written once; "
                  "sums are fp32 either way.",
       .words = words_for(Config{}.parallel.reduce_dtype)},
      {.name = "parallel.gather",
       .unit = "",
       .slot = [](Config& c) -> Slot { return choice(c.parallel.gather); },
       .meaning = "How long gathered weights stay (shard = parameters). per_use: forward and backward gather each "
                  "(FSDP: reshard_after_forward). per_step: gathered once per step, kept until their last use.",
       .words = words_for(Config{}.parallel.gather)},
      {.name = "parallel.prefetch",
       .unit = "blocks",
       .slot = [](Config& c) -> Slot { return &c.parallel.prefetch; },
       .meaning = "How many blocks of computation lie between the start of a transfer and the wait for it; its memory "
                  "is planned. 0: no overlap.",
       .low = 0,
       .high = 1000},
      {.name = "parallel.overlap",
       .unit = "",
       .slot = [](Config& c) -> Slot { return &c.parallel.overlap; },
       .meaning = "false: every transfer is waited for where it starts. The same bits, slower; to look for faults."},
      {.name = "parallel.tensor",
       .unit = "ranks",
       .slot = [](Config& c) -> Slot { return &c.parallel.tensor; },
       .meaning =
           "Ranks that share each layer's matrices, by heads, feed-forward columns and rows of the vocabulary "
           "(tensor parallelism); they work on the same samples. Neighbours in the world: keep them on one host.",
       .low = 1,
       .high = kMaxRanks},
      {.name = "parallel.sequence",
       .unit = "",
       .slot = [](Config& c) -> Slot { return &c.parallel.sequence; },
       .meaning =
           "Tensor-parallel ranks also share norms, dropout and residuals, by tokens (sequence parallelism): less "
           "memory for as much communication."},
      {.name = "parallel.pipeline",
       .unit = "stages",
       .slot = [](Config& c) -> Slot { return &c.parallel.pipeline; },
       .meaning = "Stages that the model's depth is cut into (pipeline parallelism); micro-batches pass through them.",
       .low = 1,
       .high = kMaxRanks},
      {.name = "parallel.stages",
       .unit = "blocks",
       .slot = [](Config& c) -> Slot { return &c.parallel.stages; },
       .meaning = "Blocks of each stage, as \"7,8,8,7\" (with chunks: of each virtual stage, of which number k lies on "
                  "stage k mod pipeline). Empty: balanced by cost, the embedding and the loss counted."},
      {.name = "parallel.schedule",
       .unit = "",
       .slot = [](Config& c) -> Slot { return choice(c.parallel.schedule); },
       .meaning =
           "Order of a pipeline's work. gpipe: all forwards, then all backwards. 1f1b: one of each in turn; a stage "
           "keeps at most as many micro-batches as there are stages. interleaved: 1f1b with several chunks of the "
           "model on each stage; less idle time, more messages. zero-bubble: 1f1b whose backward runs in two "
           "parts, the second of which fills idle time (ZB-H1); about a third of the idle time, more memory. "
           "`ridgeline plan --schedule` draws them.",
       .words = words_for(Config{}.parallel.schedule)},
      {.name = "parallel.chunks",
       .unit = "chunks",
       .slot = [](Config& c) -> Slot { return &c.parallel.chunks; },
       .meaning = "Parts of the model on each pipeline stage (schedule = interleaved).",
       .low = 1,
       .high = 10'000},
      {.name = "parallel.context",
       .unit = "ranks",
       .slot = [](Config& c) -> Slot { return &c.parallel.context; },
       .meaning = "Ranks that share each sequence's tokens.",
       .low = 1,
       .high = kMaxRanks,
       .default_only = true},
      {.name = "parallel.sum_group",
       .unit = "ranks",
       .slot = [](Config& c) -> Slot { return &c.parallel.sum_group; },
       .meaning = "Neighbouring ranks of a group whose values are added first; their sums are then added in order. The "
                  "same value gives the same bits on threads and on any hosts. On several hosts: as many as share a "
                  "group on one host, so that one sum travels for all of them.",
       .low = 1,
       .high = 1024},
      {.name = "parallel.timeout",
       .unit = "seconds",
       .slot = [](Config& c) -> Slot { return &c.parallel.timeout; },
       .meaning = "How long a rank waits for the others before the run stops and names those that did not arrive.",
       .low = 0.1,
       .high = 1e7},
  };
}

const std::vector<Key>& table() {
  static const std::vector<Key> kTable = [] {
    std::vector<Key> all;
    for (auto part :
         {model_keys, model_option_keys, data_keys, train_keys, batch_and_scale_keys, optimizer_keys, parallel_keys}) {
      for (Key& key : part()) all.push_back(std::move(key));
    }
    return all;
  }();
  return kTable;
}

}  // namespace

std::span<const Key> keys() {
  return table();
}

}  // namespace ridgeline::train

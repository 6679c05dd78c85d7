#include "ridgeline/train/hugging_face_names.h"

#include <nlohmann/json.hpp>
#include <span>

#include "ridgeline/base/error.h"
#include "ridgeline/model/declarations.h"

namespace ridgeline::train {
namespace {

using checkpoint::Form;
using checkpoint::Rule;

// GPT-2's "Conv1D" keeps matrices as [in, out]; ours of the first projections are [out][in]. The other families' Linear
// matrices are [out, in]; ours of the last projections are [in][out].
const Rule kGpt2[] = {
    {"embedding.weight", {"transformer.wte.weight"}, Form::matrix},
    {"positions.weight", {"transformer.wpe.weight"}, Form::matrix},
    {"block.{i}.norm1.weight", {"transformer.h.{i}.ln_1.weight"}, Form::vector},
    {"block.{i}.norm1.bias", {"transformer.h.{i}.ln_1.bias"}, Form::vector},
    {"block.{i}.attention.qkv.weight", {"transformer.h.{i}.attn.c_attn.weight"}, Form::transposed},
    {"block.{i}.attention.qkv.bias", {"transformer.h.{i}.attn.c_attn.bias"}, Form::vector},
    {"block.{i}.attention.out.weight", {"transformer.h.{i}.attn.c_proj.weight"}, Form::matrix},
    {"block.{i}.attention.out.bias", {"transformer.h.{i}.attn.c_proj.bias"}, Form::vector},
    {"block.{i}.norm2.weight", {"transformer.h.{i}.ln_2.weight"}, Form::vector},
    {"block.{i}.norm2.bias", {"transformer.h.{i}.ln_2.bias"}, Form::vector},
    {"block.{i}.mlp.up.weight", {"transformer.h.{i}.mlp.c_fc.weight"}, Form::transposed},
    {"block.{i}.mlp.up.bias", {"transformer.h.{i}.mlp.c_fc.bias"}, Form::vector},
    {"block.{i}.mlp.down.weight", {"transformer.h.{i}.mlp.c_proj.weight"}, Form::matrix},
    {"block.{i}.mlp.down.bias", {"transformer.h.{i}.mlp.c_proj.bias"}, Form::vector},
    {"final_norm.weight", {"transformer.ln_f.weight"}, Form::vector},
    {"final_norm.bias", {"transformer.ln_f.bias"}, Form::vector},
    {"head.weight", {"lm_head.weight"}, Form::matrix},
};

const Rule kGptj[] = {
    {"embedding.weight", {"transformer.wte.weight"}, Form::matrix},
    {"block.{i}.norm1.weight", {"transformer.h.{i}.ln_1.weight"}, Form::vector},
    {"block.{i}.norm1.bias", {"transformer.h.{i}.ln_1.bias"}, Form::vector},
    {"block.{i}.attention.qkv.weight",
     {"transformer.h.{i}.attn.q_proj.weight", "transformer.h.{i}.attn.k_proj.weight",
      "transformer.h.{i}.attn.v_proj.weight"},
     Form::matrix},
    {"block.{i}.attention.out.weight", {"transformer.h.{i}.attn.out_proj.weight"}, Form::transposed},
    {"block.{i}.mlp.up.weight", {"transformer.h.{i}.mlp.fc_in.weight"}, Form::matrix},
    {"block.{i}.mlp.up.bias", {"transformer.h.{i}.mlp.fc_in.bias"}, Form::vector},
    {"block.{i}.mlp.down.weight", {"transformer.h.{i}.mlp.fc_out.weight"}, Form::transposed},
    {"block.{i}.mlp.down.bias", {"transformer.h.{i}.mlp.fc_out.bias"}, Form::vector},
    {"final_norm.weight", {"transformer.ln_f.weight"}, Form::vector},
    {"final_norm.bias", {"transformer.ln_f.bias"}, Form::vector},
    {"head.weight", {"lm_head.weight"}, Form::matrix},
    {"head.bias", {"lm_head.bias"}, Form::vector},
};

// query_key_value holds q, k and v of one head after the other: [H][3][D][C].
const Rule kGptNeox[] = {
    {"embedding.weight", {"gpt_neox.embed_in.weight"}, Form::matrix},
    {"block.{i}.norm1.weight", {"gpt_neox.layers.{i}.input_layernorm.weight"}, Form::vector},
    {"block.{i}.norm1.bias", {"gpt_neox.layers.{i}.input_layernorm.bias"}, Form::vector},
    {"block.{i}.attention.qkv.weight", {"gpt_neox.layers.{i}.attention.query_key_value.weight"}, Form::per_head_matrix},
    {"block.{i}.attention.qkv.bias", {"gpt_neox.layers.{i}.attention.query_key_value.bias"}, Form::per_head_vector},
    {"block.{i}.attention.out.weight", {"gpt_neox.layers.{i}.attention.dense.weight"}, Form::transposed},
    {"block.{i}.attention.out.bias", {"gpt_neox.layers.{i}.attention.dense.bias"}, Form::vector},
    {"block.{i}.norm2.weight", {"gpt_neox.layers.{i}.post_attention_layernorm.weight"}, Form::vector},
    {"block.{i}.norm2.bias", {"gpt_neox.layers.{i}.post_attention_layernorm.bias"}, Form::vector},
    {"block.{i}.mlp.up.weight", {"gpt_neox.layers.{i}.mlp.dense_h_to_4h.weight"}, Form::matrix},
    {"block.{i}.mlp.up.bias", {"gpt_neox.layers.{i}.mlp.dense_h_to_4h.bias"}, Form::vector},
    {"block.{i}.mlp.down.weight", {"gpt_neox.layers.{i}.mlp.dense_4h_to_h.weight"}, Form::transposed},
    {"block.{i}.mlp.down.bias", {"gpt_neox.layers.{i}.mlp.dense_4h_to_h.bias"}, Form::vector},
    {"final_norm.weight", {"gpt_neox.final_layer_norm.weight"}, Form::vector},
    {"final_norm.bias", {"gpt_neox.final_layer_norm.bias"}, Form::vector},
    {"head.weight", {"embed_out.weight"}, Form::matrix},
};

const Rule kLlama[] = {
    {"embedding.weight", {"model.embed_tokens.weight"}, Form::matrix},
    {"block.{i}.norm1.weight", {"model.layers.{i}.input_layernorm.weight"}, Form::vector},
    {"block.{i}.attention.qkv.weight",
     {"model.layers.{i}.self_attn.q_proj.weight", "model.layers.{i}.self_attn.k_proj.weight",
      "model.layers.{i}.self_attn.v_proj.weight"},
     Form::matrix},
    {"block.{i}.attention.qkv.bias",
     {"model.layers.{i}.self_attn.q_proj.bias", "model.layers.{i}.self_attn.k_proj.bias",
      "model.layers.{i}.self_attn.v_proj.bias"},
     Form::vector},
    {"block.{i}.attention.q.weight", {"model.layers.{i}.self_attn.q_proj.weight"}, Form::matrix},
    {"block.{i}.attention.q.bias", {"model.layers.{i}.self_attn.q_proj.bias"}, Form::vector},
    {"block.{i}.attention.kv.weight",
     {"model.layers.{i}.self_attn.k_proj.weight", "model.layers.{i}.self_attn.v_proj.weight"},
     Form::matrix},
    {"block.{i}.attention.kv.bias",
     {"model.layers.{i}.self_attn.k_proj.bias", "model.layers.{i}.self_attn.v_proj.bias"},
     Form::vector},
    {"block.{i}.attention.out.weight", {"model.layers.{i}.self_attn.o_proj.weight"}, Form::transposed},
    {"block.{i}.attention.out.bias", {"model.layers.{i}.self_attn.o_proj.bias"}, Form::vector},
    {"block.{i}.norm2.weight", {"model.layers.{i}.post_attention_layernorm.weight"}, Form::vector},
    {"block.{i}.mlp.up.weight",
     {"model.layers.{i}.mlp.gate_proj.weight", "model.layers.{i}.mlp.up_proj.weight"},
     Form::matrix},
    {"block.{i}.mlp.up.bias",
     {"model.layers.{i}.mlp.gate_proj.bias", "model.layers.{i}.mlp.up_proj.bias"},
     Form::vector},
    {"block.{i}.mlp.down.weight", {"model.layers.{i}.mlp.down_proj.weight"}, Form::transposed},
    {"block.{i}.mlp.down.bias", {"model.layers.{i}.mlp.down_proj.bias"}, Form::vector},
    {"final_norm.weight", {"model.norm.weight"}, Form::vector},
    {"head.weight", {"lm_head.weight"}, Form::matrix},
};

struct Family {
  std::string_view name;
  std::span<const Rule> rules;  // the vocabulary matrix first
  const char* prefix;
  const char* head;                  // their name of the head's matrix
  std::vector<std::string> ignored;  // the causal mask and tables of positions, which older versions kept
  std::vector<std::pair<std::string, std::string>> aliases = {};
};

const Family& family_of(std::string_view name) {
  static const Family kFamilies[] = {
      {"gpt2", kGpt2, "transformer.", "lm_head.weight", {"h.*.attn.bias", "h.*.attn.masked_bias"}},
      {"gptj", kGptj, "transformer.", "lm_head.weight", {"h.*.attn.bias", "h.*.attn.masked_bias"}},
      {"gpt_neox",
       kGptNeox,
       "gpt_neox.",
       "embed_out.weight",
       {"layers.*.attention.bias", "layers.*.attention.masked_bias", "layers.*.rotary_emb.inv_freq"},
       {{"lm_head.weight", "embed_out.weight"}}},  // its name inside transformers 5
      {"llama", kLlama, "model.", "lm_head.weight", {"layers.*.rotary_emb.inv_freq"}}};
  for (const Family& family : kFamilies) {
    if (family.name == name) return family;
  }
  throw Error(fmt::format("the family '{}' has no table of Hugging Face names", name));
}

}  // namespace

checkpoint::NameTable hugging_face_names(const model::TransformerConfig& config) {
  const Family& family = family_of(config.family);
  model::to_hugging_face(config);  // Error for options that the family's class does not have
  std::vector<checkpoint::TensorSpec> ours;
  for (const model::Segment& segment : model::declare(config)) {
    for (const model::Tensor& tensor : segment.tensors) ours.push_back({tensor.name, DType::f32, tensor.shape});
  }
  checkpoint::NameTable table{.tensors = checkpoint::expand(family.rules, ours),
                              .optional_prefix = family.prefix,
                              .ignored = family.ignored,
                              .aliases = family.aliases};
  // The vocabulary matrix once more, or under the head's name alone.
  if (config.tied) table.shared.emplace_back(family.rules.front().theirs.front(), family.head);
  return table;
}

}  // namespace ridgeline::train

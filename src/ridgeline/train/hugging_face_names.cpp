#include "ridgeline/train/hugging_face_names.h"

#include <fmt/format.h>

#include "ridgeline/base/error.h"
#include "ridgeline/model/declarations.h"

namespace ridgeline::train {
namespace {

using checkpoint::Form;
using checkpoint::Rule;

// GPT-2's "Conv1D" keeps matrices as [in, out]; ours of the first projections are [out][in].
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
};

}  // namespace

checkpoint::NameTable hugging_face_names(const model::TransformerConfig& config) {
  if (config.family != "gpt2") {
    throw Error(fmt::format("the family '{}' has no table of Hugging Face names", config.family),
                "Families with one: gpt2.");
  }
  std::vector<checkpoint::TensorSpec> ours;
  for (const model::Unit& unit : model::declare(config)) {
    for (const model::Tensor& tensor : unit.tensors) ours.push_back({tensor.name, DType::f32, tensor.shape});
  }
  // lm_head.weight is the tied embedding; attn.bias and attn.masked_bias are the causal mask.
  return {.tensors = checkpoint::expand(kGpt2, ours),
          .optional_prefix = "transformer.",
          .ignored = {"h.*.attn.bias", "h.*.attn.masked_bias", "lm_head.weight"}};
}

}  // namespace ridgeline::train

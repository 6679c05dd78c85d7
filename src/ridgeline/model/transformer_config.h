// What a decoder-only transformer consists of: its sizes, and the few constants that its mathematics needs. Everything
// else about a model (tensors, offsets, names in files) follows from this by pure functions.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace ridgeline::model {

// Letters: L layers, C width, H heads, KV kv_heads, D = C / H, F ffn, V vocab, T <= context.
// gpt2: pre-norm blocks, biases everywhere, GELU (tanh form), learned positions, head tied to the vocabulary matrix
// (Radford et al., "Language models are unsupervised multitask learners", 2019).
struct TransformerConfig {
  std::string family = "gpt2";
  int64_t layers = 0;
  int64_t width = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t ffn = 0;
  int64_t vocab = 0;    // as declared: never padded for a layout
  int64_t context = 0;  // the longest sequence: rows of the position table
  float norm_epsilon = 1e-5F;
  float dropout = 0.0F;          // of embeddings, residual branches and attention probabilities
  float init_deviation = 0.02F;  // of initial weights; matrices that end in the residual stream: / sqrt(2 L)

  int64_t head_width() const { return heads > 0 ? width / heads : 0; }
  // Exact number of trained parameters. gpt2: V C + T C + L (4 C^2 + 2 C F + 9 C + F) + 2 C, with T = context.
  int64_t parameters() const;

  bool operator==(const TransformerConfig&) const = default;
};

// Sizes of a known model: gpt2 (= gpt2-124m), gpt2-medium (= gpt2-350m), gpt2-large (= gpt2-774m), gpt2-xl (=
// gpt2-1.5b). V = 50257, context 1024, dropout 0. Error that lists the names (and the nearest one) for any other.
TransformerConfig preset(std::string_view name);
// Every accepted name, both spellings, smallest model first.
std::vector<std::string> preset_names();

// kv_heads and ffn that are 0 take their usual values: H and 4 C.
TransformerConfig with_usual_sizes(TransformerConfig config);

// Error for a model that cannot exist or that this version does not run: it names the field as the configuration spells
// it
// ("model.heads"), the value, what is required and the nearest valid value.
void validate(const TransformerConfig& config);

// The model that a Hugging Face config.json describes (model_type gpt2), validated. Where the file leaves a size out,
// the default of Hugging Face's GPT2Config holds. Error that names the key for an option whose mathematics is not
// implemented (activation_function other than gelu_new, scale_attn_by_inverse_layer_idx, reorder_and_upcast_attn,
// untied embeddings, …) and for a missing or ill-typed size. `where` names the file in errors. The three dropout rates
// must agree: there is one here.
TransformerConfig from_hugging_face(const nlohmann::json& config, std::string_view where = "config.json");

// config.json of a GPT2LMHeadModel (without token ids, which belong to the tokenizer).
// from_hugging_face(to_hugging_face(c)) == c for every valid c, init_deviation included.
nlohmann::json to_hugging_face(const TransformerConfig& config);

}  // namespace ridgeline::model

// What a decoder-only transformer consists of: its sizes, its options, and the few constants that its mathematics
// needs. Everything else about a model (tensors, offsets, names in files) follows from this by pure functions.
//
// A family is a set of options and, elsewhere, a table of names; the mathematics reads the options alone, which combine
// freely.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ridgeline/ops/rotary.h"

namespace ridgeline::model {

// How a token's position enters: a row of a trained table is added to its embedding, or queries and keys are turned by
// an angle that grows with it (ops/rotary.h).
enum class Positions : uint8_t { learned, rotary };
// ops/norm.h. RMS norm has no bias.
enum class Norm : uint8_t { layer, rms };
// r = x + attention(norm1(x)), then
//   sequential:         y = r + mlp(norm2(r))       GPT-2, LLaMA
//   parallel:           y = r + mlp(norm2(x))       GPT-NeoX
//   parallel_one_norm:  y = r + mlp(norm1(x))       GPT-J
enum class Residual : uint8_t { sequential, parallel, parallel_one_norm };
// gelu_*: down(f(up(x))); swiglu: down(silu(gate(x)) * up(x)), with gate and up in one matrix.
enum class Mlp : uint8_t { gelu_tanh, gelu_erf, swiglu };
// Which elements of a head turn together (ops/rotary.h).
enum class Pairing : uint8_t { interleaved, half_split };

// What a value brings with it. Whatever asks more of an option than this writes a switch without a default: a value
// that is added does not compile where nothing is said of it, and never passes for another one.
bool has_position_table(Positions option);  // a row of it is added to a token's embedding
bool rotates(Positions option);             // queries and keys
bool has_mean(Norm option);                 // among what it keeps for its backward; and a bias
bool has_second_norm(Residual option);
bool mlp_follows_attention(Residual option);  // the MLP reads r, else x
bool is_gated(Mlp option);                    // gate and up in one matrix

// The words for an option's values in configurations, in the order of the values.
std::span<const std::string_view> words_of(Positions option);
std::span<const std::string_view> words_of(Norm option);
std::span<const std::string_view> words_of(Residual option);
std::span<const std::string_view> words_of(Mlp option);
std::span<const std::string_view> words_of(Pairing option);

// Letters: L layers, C width, H heads, KV kv_heads, D head width, F ffn, V vocab, T <= context, R rotated elements of a
// head.
struct TransformerConfig {
  std::string family = "gpt2";
  int64_t layers = 0;
  int64_t width = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;             // divides heads; smaller: grouped-query attention
  int64_t separate_head_width = 0;  // D where it is not C / H; 0: C / H
  int64_t ffn = 0;
  int64_t vocab = 0;    // as declared: never padded for a layout
  int64_t context = 0;  // the longest sequence: rows of the position table

  Positions positions = Positions::learned;
  int64_t rotary_width = 0;  // R, even; 0: D
  double rotary_base = 10000.0;
  Pairing rotary_pairing = Pairing::half_split;
  double rotary_scaling = 1.0;  // Llama 3.1's factor for longer contexts; 1: none, and the next three mean nothing
  double rotary_low_frequency_factor = 1.0;
  double rotary_high_frequency_factor = 4.0;
  int64_t rotary_original_context = 8192;

  Norm norm = Norm::layer;
  Residual residual = Residual::sequential;
  Mlp mlp = Mlp::gelu_tanh;
  bool qkv_bias = true;
  bool out_bias = true;
  bool mlp_bias = true;
  bool tied = true;  // the head is the vocabulary matrix
  bool head_bias = false;

  float norm_epsilon = 1e-5F;
  float dropout = 0.0F;          // of embeddings, residual branches and attention probabilities
  float init_deviation = 0.02F;  // of initial weights; matrices that end in the residual stream: / sqrt(2 L)

  int64_t head_width() const {
    if (separate_head_width > 0) return separate_head_width;
    return heads > 0 ? width / heads : 0;
  }
  // Elements of a token's queries, keys and values: (H + 2 KV) D.
  int64_t qkv_width() const { return (heads + 2 * kv_heads) * head_width(); }
  // Queries are a tensor of their own.
  bool grouped_query() const { return kv_heads != heads; }
  // Elements of the first product of the MLP: F, or 2 F (gate and up).
  int64_t up_width() const { return is_gated(mlp) ? 2 * ffn : ffn; }
  // R, 0 without rotary positions.
  int64_t rotated_width() const {
    if (!rotates(positions)) return 0;
    return rotary_width > 0 ? rotary_width : head_width();
  }
  ops::RotaryScaling scaling() const;
  bool has_head_unit() const { return !tied || head_bias; }

  // Exact number of trained parameters: the elements of the declared tensors.
  int64_t parameters() const;

  bool operator==(const TransformerConfig&) const = default;
};

// Calls f(name, member) for every member: the names by which files and errors know them.
template <typename Config, typename F>
void for_each_field(Config& config, F&& f) {
  f("family", config.family);
  f("layers", config.layers);
  f("width", config.width);
  f("heads", config.heads);
  f("kv_heads", config.kv_heads);
  f("head_width", config.separate_head_width);
  f("ffn", config.ffn);
  f("vocab", config.vocab);
  f("context", config.context);
  f("positions", config.positions);
  f("rotary_width", config.rotary_width);
  f("rotary_base", config.rotary_base);
  f("rotary_pairing", config.rotary_pairing);
  f("rotary_scaling", config.rotary_scaling);
  f("rotary_low_frequency_factor", config.rotary_low_frequency_factor);
  f("rotary_high_frequency_factor", config.rotary_high_frequency_factor);
  f("rotary_original_context", config.rotary_original_context);
  f("norm", config.norm);
  f("residual", config.residual);
  f("mlp", config.mlp);
  f("qkv_bias", config.qkv_bias);
  f("out_bias", config.out_bias);
  f("mlp_bias", config.mlp_bias);
  f("tied", config.tied);
  f("head_bias", config.head_bias);
  f("norm_epsilon", config.norm_epsilon);
  f("dropout", config.dropout);
  f("init_deviation", config.init_deviation);
}

// All of them, by the names that configurations and the model_type of a config.json have for them.
std::span<const std::string_view> family_names();
// A family's options (families.cpp), sizes 0. Error that lists the families (and the nearest one) for any other.
TransformerConfig family_options(std::string_view family);

// Sizes of a known model: gpt2 (= gpt2-124m), gpt2-medium (= gpt2-350m), gpt2-large (= gpt2-774m), gpt2-xl (=
// gpt2-1.5b), gptj-6b, llama3-8b, gpt-neox-20b. Dropout 0. Error that lists the names (and the nearest one) for any
// other.
TransformerConfig preset(std::string_view name);
// Every accepted name, both spellings, smallest model first.
std::vector<std::string> preset_names();

// Sizes that are 0 take their usual values: kv_heads H; ffn 4 C, with SwiGLU 8/3 C rounded up to a multiple of 256;
// rotary_width D. A separate head width that is C / H is none.
TransformerConfig with_usual_sizes(TransformerConfig config);

// Error for a model that cannot exist or that this version does not run: it names the field as the configuration spells
// it ("model.heads"), the value, what is required and the nearest valid value.
void validate(const TransformerConfig& config);

// Every field by name, as a checkpoint keeps it. from_json(to_json(c)) == c. An option that is not there has the value
// of its family, which is what versions before the option computed; family, layers, width, heads, vocab and context
// must be there. Error that names the field for anything else, an unknown one included; a Hugging Face config.json
// (which has a model_type) is read too.
nlohmann::json to_json(const TransformerConfig& config);
TransformerConfig from_json(const nlohmann::json& json, std::string_view where);

// The model that a Hugging Face config.json describes, validated. Its model_type is a family's name. Where the file
// leaves a size out, the default of Hugging Face's configuration class holds. Error that names the key for an option
// whose mathematics is not implemented (another activation, scale_attn_by_inverse_layer_idx, rope types other than
// default and llama3, …), for a missing or ill-typed size, and for every other model_type, with what its model has that
// none here does. `where` names the file in errors. Where the dropout rates differ the model's is 0: there is one here,
// and it matters in training alone.
TransformerConfig from_hugging_face(const nlohmann::json& config, std::string_view where = "config.json");

// The dropout rates of a config.json that from_hugging_face accepts, by their names there.
using DropoutRates = std::vector<std::pair<std::string, double>>;
DropoutRates hugging_face_dropout(const nlohmann::json& config, std::string_view where = "config.json");
bool differ(const DropoutRates& rates);

// config.json of the family's class (without token ids, which belong to the tokenizer).
// from_hugging_face(to_hugging_face(c)) == c for every c that it accepts, init_deviation included. Error that names the
// option for a model that the family's class cannot express.
nlohmann::json to_hugging_face(const TransformerConfig& config);

}  // namespace ridgeline::model

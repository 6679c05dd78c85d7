// The families (kFamilies): what options each stands for, and config.json of its Hugging Face class, in and out.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "ridgeline/base/error.h"
#include "ridgeline/base/json.h"
#include "ridgeline/model/foreign_family.h"
#include "ridgeline/model/transformer_config.h"

namespace ridgeline::model {
namespace {

using nlohmann::json;

// A float as the double of its shortest decimal: 1e-05 in the file, not 9.999999747378752e-06.
double shortest(float value) {
  return std::stod(fmt::format("{}", value));
}

// Hugging Face's words for functions (transformers, ACT2FN): words with one option are one function but for rounding.
struct ActivationWord {
  std::string_view word;
  Mlp mlp;
};
constexpr std::array<ActivationWord, 9> kActivationWords = {{{"gelu_new", Mlp::gelu_tanh},
                                                             {"gelu_fast", Mlp::gelu_tanh},
                                                             {"gelu_pytorch_tanh", Mlp::gelu_tanh},
                                                             {"gelu_python_tanh", Mlp::gelu_tanh},
                                                             {"gelu_accurate", Mlp::gelu_tanh},
                                                             {"gelu", Mlp::gelu_erf},
                                                             {"gelu_python", Mlp::gelu_erf},
                                                             {"silu", Mlp::swiglu},
                                                             {"swish", Mlp::swiglu}}};

// Reads keys of one object in a config.json; every error names file and key.
class Reader {
 public:
  Reader(const json& object, std::string_view where, std::string prefix = "")
      : object_(object), where_(where), prefix_(std::move(prefix)) {
    if (!object.is_object()) throw Error(fmt::format("{}: not a JSON object", where), "Give a model's config.json.");
  }

  bool empty() const { return object_.empty(); }
  bool has(const char* key) const { return object_.contains(key) && !object_.at(key).is_null(); }

  int64_t integer(const char* key, int64_t otherwise) const {
    if (!has(key)) return otherwise;
    const json& value = object_.at(key);
    if (!value.is_number_integer()) fail(key, "must be a whole number");
    return value.get<int64_t>();
  }

  double number(const char* key, double otherwise) const {
    if (!has(key)) return otherwise;
    const json& value = object_.at(key);
    if (!value.is_number()) fail(key, "must be a number");
    return value.get<double>();
  }
  float rate(const char* key, float otherwise) const {
    return has(key) ? static_cast<float>(number(key, 0.0)) : otherwise;
  }

  bool truth(const char* key, bool otherwise) const {
    if (!has(key)) return otherwise;
    const json& value = object_.at(key);
    if (!value.is_boolean()) fail(key, "must be true or false");
    return value.get<bool>();
  }

  std::string text(const char* key, std::string otherwise = "") const {
    if (!has(key)) return otherwise;
    if (!object_.at(key).is_string()) fail(key, "must be a string");
    return object_.at(key).get<std::string>();
  }

  std::optional<Reader> inner(const char* key) const {
    if (!has(key)) return std::nullopt;
    if (!object_.at(key).is_object()) fail(key, "must be an object");
    return Reader(object_.at(key), where_, prefix_ + key + ".");
  }

  // No object inside this one.
  void require_flat(std::string_view implemented) const {
    for (const auto& [key, value] : object_.items()) {
      if (value.is_object()) fail(key.c_str(), fmt::format("this version runs only {}", implemented));
    }
  }

  // An option with only one implemented value, which is also Hugging Face's default.
  void require(const char* key, const json& implemented) const {
    if (!has(key) || object_.at(key) == implemented) return;
    throw Error(fmt::format("{}: {}{} = {}: this version runs only {} = {}", where_, prefix_, key,
                            json_text(object_.at(key)), key, json_text(implemented)),
                "Choose a model with the family's usual block.");
  }

  // The activation of an MLP that a word of theirs means; `gated`: the one inside a gated linear unit.
  Mlp activation(const char* key, const char* otherwise, bool gated) const {
    const std::string word = text(key, otherwise);
    std::vector<std::string_view> words;
    for (const ActivationWord& known : kActivationWords) {
      if (is_gated(known.mlp) != gated) continue;
      if (word == known.word) return known.mlp;
      words.push_back(known.word);
    }
    throw Error(fmt::format("{}: {} = \"{}\": this version runs {}", where_, key, word, fmt::join(words, ", ")),
                "Choose a model with one of these activations.");
  }

  [[noreturn]] void fail(const char* key, std::string_view expected) const {
    throw Error(fmt::format("{}: {}{} = {}: {}", where_, prefix_, key, has(key) ? json_text(object_.at(key)) : "null",
                            expected));
  }

 private:
  const json& object_;
  std::string_view where_;
  std::string prefix_;
};

// Rotary positions, as transformers 5 writes them (rope_parameters) or older versions (theta and fraction under names
// of the family's own, rope_scaling). As there, the object wins over keys beside it, and rope_scaling over
// rope_parameters.
void read_rotary(const Reader& reader, const char* base_key, const char* fraction_key, double fraction,
                 TransformerConfig& config) {
  config.rotary_base = reader.number(base_key, reader.number("rope_theta", config.rotary_base));
  fraction = reader.number(fraction_key, reader.number("partial_rotary_factor", fraction));
  const auto older = reader.inner("rope_scaling");
  if (const auto rope = older && !older->empty() ? older : reader.inner("rope_parameters")) {
    rope->require_flat("one set of rotary positions for all layers");
    config.rotary_base = rope->number("rope_theta", config.rotary_base);
    fraction = rope->number("partial_rotary_factor", fraction);
    const char* const type_key = rope->has("rope_type") ? "rope_type" : "type";
    const std::string type = rope->text(type_key, "default");
    if (type == "llama3") {
      config.rotary_scaling = rope->number("factor", 8.0);
      config.rotary_low_frequency_factor = rope->number("low_freq_factor", 1.0);
      config.rotary_high_frequency_factor = rope->number("high_freq_factor", 4.0);
      const char* const original = "original_max_position_embeddings";
      config.rotary_original_context = reader.integer(original, rope->integer(original, config.context));
    } else if (type != "default") {
      rope->fail(type_key, "this version runs default and llama3");
    }
  }
  if (!(fraction > 0.0 && fraction <= 1.0))
    reader.fail(fraction_key,
                fmt::format("a head's rotated fraction of {} must lie above 0 and not above 1", fraction));
  // Rounded towards zero, as theirs.
  config.rotary_width = static_cast<int64_t>(static_cast<double>(config.head_width()) * fraction);
  if (config.rotary_width == 0 && config.head_width() > 0)
    reader.fail(fraction_key, fmt::format("no element of a head that is {} wide would turn", config.head_width()));
}

void write_rotary(const TransformerConfig& config, const char* base_key, const char* fraction_key, bool always_fraction,
                  json& result) {
  result[base_key] = config.rotary_base;
  if (config.rotary_width < config.head_width() || always_fraction) {
    const double d = static_cast<double>(config.head_width());
    double fraction = static_cast<double>(config.rotary_width) / d;
    if (static_cast<int64_t>(d * fraction) < config.rotary_width) fraction = std::nextafter(fraction, 2.0);
    result[fraction_key] = fraction;
  }
  if (config.rotary_scaling == 1.0) return;
  result["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", config.rotary_scaling},
                            {"low_freq_factor", config.rotary_low_frequency_factor},
                            {"high_freq_factor", config.rotary_high_frequency_factor},
                            {"original_max_position_embeddings", config.rotary_original_context}};
}

// What GPT2Config and GPTJConfig name alike.
void read_openai_sizes(const Reader& reader, const TransformerConfig& defaults, TransformerConfig& config) {
  config.layers = reader.integer("n_layer", defaults.layers);
  config.width = reader.integer("n_embd", defaults.width);
  config.heads = reader.integer("n_head", defaults.heads);
  config.ffn = reader.integer("n_inner", 0);
  config.vocab = reader.integer("vocab_size", defaults.vocab);
  config.context = reader.integer("n_positions", defaults.context);
  config.norm_epsilon = reader.rate("layer_norm_epsilon", 1e-5F);
  config.init_deviation = reader.rate("initializer_range", 0.02F);
  config.mlp = reader.activation("activation_function", "gelu_new", false);
}

// The usual word for an activation; for one that the family's class does not have, another (to_hugging_face notices).
std::string_view word_of(Mlp mlp, bool gated) {
  std::string_view another;
  for (const ActivationWord& known : kActivationWords) {
    if (is_gated(known.mlp) != gated) continue;
    if (known.mlp == mlp) return known.word;
    if (another.empty()) another = known.word;
  }
  return another;
}

json openai_sizes(const TransformerConfig& config) {
  const double dropout = shortest(config.dropout);
  return {{"activation_function", word_of(config.mlp, false)},
          {"attn_pdrop", dropout},
          {"embd_pdrop", dropout},
          {"initializer_range", shortest(config.init_deviation)},
          {"layer_norm_epsilon", shortest(config.norm_epsilon)},
          {"n_embd", config.width},
          {"n_head", config.heads},
          {"n_inner", config.ffn == 4 * config.width ? json(nullptr) : json(config.ffn)},
          {"n_layer", config.layers},
          {"n_positions", config.context},
          {"resid_pdrop", dropout},
          {"use_cache", true},
          {"vocab_size", config.vocab}};
}

// Radford et al. 2019: learned positions, biases everywhere, GELU (tanh), tied head.
void set_gpt2(TransformerConfig& /*config*/) {}  // the defaults

void read_gpt2(const Reader& reader, TransformerConfig& config) {
  reader.require("scale_attn_weights", true);
  reader.require("scale_attn_by_inverse_layer_idx", false);
  reader.require("reorder_and_upcast_attn", false);
  reader.require("add_cross_attention", false);
  read_openai_sizes(reader, preset("gpt2"), config);
  config.tied = reader.truth("tie_word_embeddings", true);
}

json write_gpt2(const TransformerConfig& config) {
  json result = openai_sizes(config);
  result["n_ctx"] = config.context;
  result["reorder_and_upcast_attn"] = false;
  result["scale_attn_by_inverse_layer_idx"] = false;
  result["scale_attn_weights"] = true;
  return result;
}

// Wang & Komatsuzaki 2021: interleaved rotary positions, one norm for attention and MLP in parallel, no biases in
// attention, GELU (tanh), head of its own with a bias.
void set_gptj(TransformerConfig& config) {
  config.positions = Positions::rotary;
  config.rotary_pairing = Pairing::interleaved;
  config.residual = Residual::parallel_one_norm;
  config.qkv_bias = config.out_bias = false;
  config.tied = false;
  config.head_bias = true;
}

void read_gptj(const Reader& reader, TransformerConfig& config) {
  read_openai_sizes(reader, preset("gptj-6b"), config);
  config.rotary_width = reader.integer("rotary_dim", 64);
  config.tied = reader.truth("tie_word_embeddings", false);
}

json write_gptj(const TransformerConfig& config) {
  json result = openai_sizes(config);
  result["rotary"] = true;
  result["rotary_dim"] = config.rotary_width;
  return result;
}

// What GPTNeoXConfig and LlamaConfig name alike.
void read_common_sizes(const Reader& reader, const TransformerConfig& defaults, TransformerConfig& config) {
  config.layers = reader.integer("num_hidden_layers", defaults.layers);
  config.width = reader.integer("hidden_size", defaults.width);
  config.heads = reader.integer("num_attention_heads", defaults.heads);
  config.ffn = reader.integer("intermediate_size", defaults.ffn);
  config.vocab = reader.integer("vocab_size", defaults.vocab);
  config.context = reader.integer("max_position_embeddings", defaults.context);
  config.init_deviation = reader.rate("initializer_range", 0.02F);
  config.tied = reader.truth("tie_word_embeddings", false);
}

json common_sizes(const TransformerConfig& config) {
  return {{"attention_bias", config.qkv_bias},
          {"attention_dropout", shortest(config.dropout)},
          {"hidden_size", config.width},
          {"initializer_range", shortest(config.init_deviation)},
          {"intermediate_size", config.ffn},
          {"max_position_embeddings", config.context},
          {"num_attention_heads", config.heads},
          {"num_hidden_layers", config.layers},
          {"use_cache", true},
          {"vocab_size", config.vocab}};
}

// Black et al. 2022: half-split rotary positions, parallel residual with two norms, GELU (erf), head of its own.
void set_gpt_neox(TransformerConfig& config) {
  config.positions = Positions::rotary;
  config.residual = Residual::parallel;
  config.mlp = Mlp::gelu_erf;
  config.tied = false;
}

void read_gpt_neox(const Reader& reader, TransformerConfig& config) {
  read_common_sizes(reader, preset("gpt-neox-20b"), config);
  config.norm_epsilon = reader.rate("layer_norm_eps", 1e-5F);
  config.mlp = reader.activation("hidden_act", "gelu", false);
  config.residual = reader.truth("use_parallel_residual", true) ? Residual::parallel : Residual::sequential;
  config.qkv_bias = config.out_bias = reader.truth("attention_bias", true);
  read_rotary(reader, "rotary_emb_base", "rotary_pct", 0.25, config);
}

json write_gpt_neox(const TransformerConfig& config) {
  json result = common_sizes(config);
  result["hidden_act"] = word_of(config.mlp, false);
  result["hidden_dropout"] = shortest(config.dropout);
  result["layer_norm_eps"] = shortest(config.norm_epsilon);
  result["use_parallel_residual"] = config.residual == Residual::parallel;
  write_rotary(config, "rotary_emb_base", "rotary_pct", true, result);
  return result;
}

// Touvron et al. 2023: half-split rotary positions, RMS norm, SwiGLU, no biases, head of its own.
void set_llama(TransformerConfig& config) {
  config.positions = Positions::rotary;
  config.norm = Norm::rms;
  config.mlp = Mlp::swiglu;
  config.qkv_bias = config.out_bias = config.mlp_bias = false;
  config.tied = false;
}

void read_llama(const Reader& reader, TransformerConfig& config) {
  config.mlp = reader.activation("hidden_act", "silu", true);
  TransformerConfig defaults = preset("llama3-8b");
  defaults.ffn = 11008;
  defaults.vocab = 32000;
  defaults.context = 2048;
  read_common_sizes(reader, defaults, config);
  config.kv_heads = reader.integer("num_key_value_heads", config.heads);
  config.separate_head_width = reader.integer("head_dim", 0);
  config.norm_epsilon = reader.rate("rms_norm_eps", 1e-6F);
  config.qkv_bias = config.out_bias = reader.truth("attention_bias", false);
  config.mlp_bias = reader.truth("mlp_bias", false);
  read_rotary(reader, "rope_theta", "partial_rotary_factor", 1.0, config);
}

json write_llama(const TransformerConfig& config) {
  json result = common_sizes(config);
  result["head_dim"] = config.head_width();
  result["hidden_act"] = word_of(config.mlp, true);
  result["mlp_bias"] = config.mlp_bias;
  result["num_key_value_heads"] = config.kv_heads;
  result["rms_norm_eps"] = shortest(config.norm_epsilon);
  write_rotary(config, "rope_theta", "partial_rotary_factor", false, result);
  return result;
}

struct Family {
  std::string_view name;  // in configurations, and the model_type of a config.json
  void (*set)(TransformerConfig& config);
  std::string_view architecture;
  void (*read)(const Reader& reader, TransformerConfig& config);  // into the family's options
  json (*write)(const TransformerConfig& config);
  std::array<const char*, 3> dropout;  // the names of its rates, null behind the last
  double usual_dropout;
};
constexpr auto kFamilies = std::to_array<Family>(
    {{"gpt2", set_gpt2, "GPT2LMHeadModel", read_gpt2, write_gpt2, {"resid_pdrop", "embd_pdrop", "attn_pdrop"}, 0.1},
     {"gptj", set_gptj, "GPTJForCausalLM", read_gptj, write_gptj, {"resid_pdrop", "embd_pdrop", "attn_pdrop"}, 0.0},
     {"gpt_neox",
      set_gpt_neox,
      "GPTNeoXForCausalLM",
      read_gpt_neox,
      write_gpt_neox,
      {"hidden_dropout", "attention_dropout"},
      0.0},
     {"llama", set_llama, "LlamaForCausalLM", read_llama, write_llama, {"attention_dropout"}, 0.0}});

const Family* find_family(std::string_view name) {
  const auto* const found =
      std::find_if(kFamilies.begin(), kFamilies.end(), [&](const Family& family) { return family.name == name; });
  return found == kFamilies.end() ? nullptr : found;
}

const Family& family_of(std::string_view name) {
  if (const Family* const family = find_family(name)) return *family;
  const std::string guess = nearest(name, {family_names().begin(), family_names().end()});
  throw Error(fmt::format("model.family = \"{}\": no such family", name),
              fmt::format("{}Families: {}.", guess.empty() ? "" : fmt::format("Did you mean {}? ", guess),
                          fmt::join(family_names(), ", ")));
}

DropoutRates dropout_of(const Family& family, const Reader& reader) {
  DropoutRates rates;
  for (const char* key : family.dropout) {
    if (key == nullptr) break;
    const double rate = reader.number(key, family.usual_dropout);
    if (!(rate >= 0.0 && rate < 1.0)) reader.fail(key, "must be at least 0 and below 1");
    rates.emplace_back(key, rate);
  }
  return rates;
}

}  // namespace

std::span<const std::string_view> family_names() {
  static constexpr auto kNames = [] {
    std::array<std::string_view, kFamilies.size()> names;
    std::transform(kFamilies.begin(), kFamilies.end(), names.begin(), [](const Family& family) { return family.name; });
    return names;
  }();
  return kNames;
}

TransformerConfig family_options(std::string_view family) {
  TransformerConfig config;
  config.family = family;
  family_of(family).set(config);
  return config;
}

bool differ(const DropoutRates& rates) {
  return std::any_of(rates.begin(), rates.end(), [&](const auto& rate) { return rate.second != rates.front().second; });
}

DropoutRates hugging_face_dropout(const json& config, std::string_view where) {
  const Reader reader(config, where);
  const Family* const family = find_family(reader.text("model_type"));
  return family == nullptr ? DropoutRates() : dropout_of(*family, reader);
}

TransformerConfig from_hugging_face(const json& config, std::string_view where) {
  const Reader reader(config, where);
  const std::string type = reader.text("model_type");
  const Family* const family = find_family(type);
  require_float_weights(config, where);
  if (family == nullptr) refuse_foreign_family(config, where);
  // An explicit name of the file of weights; this is the usual one.
  reader.require("transformers_weights", "model.safetensors");
  TransformerConfig result = family_options(type);
  family->read(reader, result);
  const DropoutRates rates = dropout_of(*family, reader);
  result.dropout = differ(rates) ? 0.0F : static_cast<float>(rates.front().second);
  try {
    result = with_usual_sizes(result);
    validate(result);
  } catch (const Error& error) {
    throw Error(fmt::format("{}: {}", where, error.message()),
                "The file describes a model that cannot exist; fetch it again.");
  }
  return result;
}

json to_hugging_face(const TransformerConfig& config) {
  validate(config);
  const TransformerConfig whole = with_usual_sizes(config);
  const Family& family = family_of(whole.family);
  json result = family.write(whole);
  result["model_type"] = whole.family;
  result["architectures"] = {family.architecture};
  result["tie_word_embeddings"] = whole.tied;

  // The class can express the model exactly when its file means the same model.
  const json ours = to_json(whole), theirs = to_json(from_hugging_face(result));
  for (const auto& [name, value] : ours.items()) {
    if (value == theirs.at(name)) continue;
    throw Error(fmt::format("model.{} = {}: Hugging Face's {} cannot express it (there it is {})", name,
                            json_text(value), family.architecture, json_text(theirs.at(name))),
                "Only models with a family's own options can be written for Hugging Face; checkpoints hold any model.");
  }
  return result;
}

}  // namespace ridgeline::model

#include "ridgeline/model/transformer_config.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "ridgeline/base/error.h"

namespace ridgeline::model {
namespace {

struct Preset {
  const char* name;
  const char* by_size;
  int64_t layers, width, heads;
};
constexpr std::array<Preset, 4> kPresets = {{{"gpt2", "gpt2-124m", 12, 768, 12},
                                             {"gpt2-medium", "gpt2-350m", 24, 1024, 16},
                                             {"gpt2-large", "gpt2-774m", 36, 1280, 20},
                                             {"gpt2-xl", "gpt2-1.5b", 48, 1600, 25}}};

// Limits that keep every product of sizes inside 64 bits and every index of a single axis inside 32.
constexpr int64_t kMaxLayers = 10'000;
constexpr int64_t kMaxExtent = int64_t{1} << 24;
constexpr int64_t kMaxHeadWidth = 256;  // of the attention kernels

// The divisor of `width` nearest to `heads` that leaves a head width the attention kernels take.
int64_t nearest_heads(int64_t width, int64_t heads) {
  int64_t best = width;
  for (int64_t candidate = 1; candidate <= width; ++candidate) {
    if (width % candidate != 0 || width / candidate > kMaxHeadWidth) continue;
    if (std::abs(candidate - heads) < std::abs(best - heads)) best = candidate;
  }
  return best;
}

void require_range(const char* key, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return;
  throw Error(fmt::format("{} = {}: must lie between {} and {}", key, value, low, high),
              fmt::format("The nearest valid value is {}.", std::clamp(value, low, high)));
}

void require_rate(const char* key, float value, float low, float high, const char* expected) {
  if (value >= low && value <= high) return;  // false for NaN
  throw Error(fmt::format("{} = {}: must be {}", key, value, expected));
}

// A float as the shortest decimal that reads back as the same float: 1e-05 in the file, not 9.999999747378752e-06.
double shortest(float value) {
  std::array<char, 32> text{};
  const auto written = std::to_chars(text.data(), text.data() + text.size(), value);
  double result = 0;
  std::from_chars(text.data(), written.ptr, result);
  return result;
}

// Reads keys of one config.json; every error names file and key.
class Reader {
 public:
  Reader(const nlohmann::json& config, std::string_view where) : config_(config), where_(where) {
    if (!config.is_object()) throw Error(fmt::format("{}: not a JSON object", where), "Give a model's config.json.");
  }

  bool has(const char* key) const { return config_.contains(key) && !config_.at(key).is_null(); }

  int64_t integer(const char* key, int64_t otherwise) const {
    if (!has(key)) return otherwise;
    const nlohmann::json& value = config_.at(key);
    if (!value.is_number_integer()) fail(key, "must be a whole number");
    return value.get<int64_t>();
  }

  float number(const char* key, float otherwise) const {
    if (!has(key)) return otherwise;
    const nlohmann::json& value = config_.at(key);
    if (!value.is_number()) fail(key, "must be a number");
    return value.get<float>();
  }

  // An option with only one implemented value, which is also Hugging Face's default.
  void require(const char* key, const nlohmann::json& implemented) const {
    if (!has(key) || config_.at(key) == implemented) return;
    throw Error(fmt::format("{}: {} = {}: this version runs only {} = {}", where_, key, config_.at(key).dump(), key,
                            implemented.dump()),
                "Choose a model with the usual GPT-2 block.");
  }

  // The words of a list of architectures, or the only word of model_type.
  std::string text(const char* key) const {
    if (!has(key)) return {};
    if (!config_.at(key).is_string()) fail(key, "must be a string");
    return config_.at(key).get<std::string>();
  }

  [[noreturn]] void fail(const char* key, std::string_view expected) const {
    throw Error(fmt::format("{}: {} = {}: {}", where_, key, config_.at(key).dump(), expected));
  }

  std::string_view where() const { return where_; }

 private:
  const nlohmann::json& config_;
  std::string_view where_;
};

float common_dropout(const Reader& reader) {
  constexpr float kTheirDefault = 0.1F;
  const float residual = reader.number("resid_pdrop", kTheirDefault);
  for (const char* key : {"embd_pdrop", "attn_pdrop"}) {
    if (const float other = reader.number(key, kTheirDefault); other != residual) {
      throw Error(fmt::format("{}: resid_pdrop = {} but {} = {}: Ridgeline has one dropout rate for all three",
                              reader.where(), residual, key, other),
                  "Make embd_pdrop, attn_pdrop and resid_pdrop equal in that file; they only matter in training.");
    }
  }
  return residual;
}

}  // namespace

int64_t TransformerConfig::parameters() const {
  const int64_t block = 4 * width * width + 2 * width * ffn  // qkv and out, up and down
                        + 3 * width + width + ffn + width    // their biases
                        + 4 * width;                         // two norms
  return vocab * width + context * width + layers * block + 2 * width;
}

TransformerConfig preset(std::string_view name) {
  for (const Preset& known : kPresets) {
    if (name != known.name && name != known.by_size) continue;
    return with_usual_sizes(
        {.layers = known.layers, .width = known.width, .heads = known.heads, .vocab = 50257, .context = 1024});
  }
  std::string list;
  for (const Preset& known : kPresets)
    list += fmt::format("{}{} (= {})", list.empty() ? "" : ", ", known.name, known.by_size);
  const std::string guess = nearest(name, preset_names());
  throw Error(
      fmt::format("model.preset = \"{}\": no such preset", name),
      guess.empty() ? fmt::format("Presets: {}.", list) : fmt::format("Did you mean {}? Presets: {}.", guess, list));
}

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const Preset& known : kPresets) {
    names.emplace_back(known.name);
    names.emplace_back(known.by_size);
  }
  return names;
}

TransformerConfig with_usual_sizes(TransformerConfig config) {
  if (config.kv_heads == 0) config.kv_heads = config.heads;
  if (config.ffn == 0) config.ffn = 4 * config.width;
  return config;
}

void validate(const TransformerConfig& config) {
  if (config.family != "gpt2") {
    throw Error(fmt::format("model.family = \"{}\": this version knows gpt2", config.family),
                "Set model.family = \"gpt2\".");
  }
  require_range("model.layers", config.layers, 1, kMaxLayers);
  require_range("model.width", config.width, 1, kMaxExtent);
  require_range("model.heads", config.heads, 1, config.width);
  require_range("model.ffn", config.ffn, 1, kMaxExtent);
  require_range("model.vocab", config.vocab, 2, kMaxExtent);
  require_range("model.context", config.context, 1, kMaxExtent);
  if (config.width % config.heads != 0) {
    throw Error(fmt::format("model.heads = {}: does not divide model.width = {}", config.heads, config.width),
                fmt::format("The nearest valid value is {}.", nearest_heads(config.width, config.heads)));
  }
  if (config.head_width() > kMaxHeadWidth) {
    throw Error(fmt::format("model.heads = {}: a head would be {} wide (model.width = {}); at most {} is implemented",
                            config.heads, config.head_width(), config.width, kMaxHeadWidth),
                fmt::format("The nearest valid value is {}.", nearest_heads(config.width, config.heads)));
  }
  if (config.kv_heads != config.heads) {
    throw Error(
        fmt::format("model.kv_heads = {}: the gpt2 family has as many key heads as query heads (model.heads = {})",
                    config.kv_heads, config.heads),
        fmt::format("The nearest valid value is {}.", config.heads));
  }
  require_rate("model.norm_epsilon", config.norm_epsilon, 1e-12F, 1.0F, "between 1e-12 and 1 (usual: 1e-5)");
  require_rate("model.dropout", config.dropout, 0.0F, 0.999F, "at least 0 and below 1");
  require_rate("model.init_deviation", config.init_deviation, 0.0F, 10.0F, "between 0 and 10 (usual: 0.02)");
}

TransformerConfig from_hugging_face(const nlohmann::json& json, std::string_view where) {
  const Reader reader(json, where);
  if (const std::string type = reader.text("model_type"); type != "gpt2") {
    throw Error(fmt::format("{}: model_type = \"{}\": this version reads gpt2", where, type),
                "Choose a GPT-2 model (GPT2LMHeadModel).");
  }
  reader.require("activation_function", "gelu_new");
  reader.require("scale_attn_weights", true);
  reader.require("scale_attn_by_inverse_layer_idx", false);
  reader.require("reorder_and_upcast_attn", false);
  reader.require("tie_word_embeddings", true);
  reader.require("add_cross_attention", false);
  TransformerConfig config = with_usual_sizes({.layers = reader.integer("n_layer", 12),
                                               .width = reader.integer("n_embd", 768),
                                               .heads = reader.integer("n_head", 12),
                                               .ffn = reader.integer("n_inner", 0),
                                               .vocab = reader.integer("vocab_size", 50257),
                                               .context = reader.integer("n_positions", 1024),
                                               .norm_epsilon = reader.number("layer_norm_epsilon", 1e-5F),
                                               .dropout = common_dropout(reader),
                                               .init_deviation = reader.number("initializer_range", 0.02F)});
  try {
    validate(config);
  } catch (const Error& error) {
    throw Error(fmt::format("{}: {}", where, error.message()),
                "The file describes a model that cannot exist; fetch it again.");
  }
  return config;
}

nlohmann::json to_hugging_face(const TransformerConfig& config) {
  validate(config);
  const double dropout = shortest(config.dropout);
  return {{"activation_function", "gelu_new"},
          {"architectures", {"GPT2LMHeadModel"}},
          {"attn_pdrop", dropout},
          {"embd_pdrop", dropout},
          {"initializer_range", shortest(config.init_deviation)},
          {"layer_norm_epsilon", shortest(config.norm_epsilon)},
          {"model_type", "gpt2"},
          {"n_ctx", config.context},
          {"n_embd", config.width},
          {"n_head", config.heads},
          {"n_inner", config.ffn == 4 * config.width ? nlohmann::json(nullptr) : nlohmann::json(config.ffn)},
          {"n_layer", config.layers},
          {"n_positions", config.context},
          {"reorder_and_upcast_attn", false},
          {"resid_pdrop", dropout},
          {"scale_attn_by_inverse_layer_idx", false},
          {"scale_attn_weights", true},
          {"tie_word_embeddings", true},
          {"use_cache", true},
          {"vocab_size", config.vocab}};
}

}  // namespace ridgeline::model

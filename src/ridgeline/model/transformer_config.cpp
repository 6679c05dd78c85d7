#include "ridgeline/model/transformer_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <type_traits>

#include "ridgeline/base/error.h"
#include "ridgeline/base/json.h"
#include "ridgeline/base/words.h"

namespace ridgeline::model {
namespace {

struct Preset {
  const char* name;
  const char* also;  // its other name, or ""
  const char* family;
  int64_t layers, width, heads, kv_heads, ffn, vocab, context, rotary_width;
  double rotary_base;
};
constexpr double kBase = 10000.0;
constexpr std::array<Preset, 7> kPresets = {
    {{"gpt2", "gpt2-124m", "gpt2", 12, 768, 12, 0, 0, 50257, 1024, 0, kBase},
     {"gpt2-medium", "gpt2-350m", "gpt2", 24, 1024, 16, 0, 0, 50257, 1024, 0, kBase},
     {"gpt2-large", "gpt2-774m", "gpt2", 36, 1280, 20, 0, 0, 50257, 1024, 0, kBase},
     {"gpt2-xl", "gpt2-1.5b", "gpt2", 48, 1600, 25, 0, 0, 50257, 1024, 0, kBase},
     {"gptj-6b", "", "gptj", 28, 4096, 16, 0, 0, 50400, 2048, 64, kBase},
     {"llama3-8b", "", "llama", 32, 4096, 32, 8, 14336, 128256, 8192, 0, 500000.0},
     {"gpt-neox-20b", "", "gpt_neox", 44, 6144, 64, 0, 0, 50432, 2048, 24, kBase}}};

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

int64_t nearest_divisor(int64_t value, int64_t wanted) {
  int64_t best = 1;
  for (int64_t candidate = 1; candidate <= value; ++candidate) {
    if (value % candidate == 0 && std::abs(candidate - wanted) < std::abs(best - wanted)) best = candidate;
  }
  return best;
}

void require_range(const char* key, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return;
  throw Error(fmt::format("{} = {}: must lie between {} and {}", key, value, low, high),
              fmt::format("The nearest valid value is {}.", std::clamp(value, low, high)));
}

void require_rate(const char* key, double value, double low, double high, const char* expected) {
  if (value >= low && value <= high) return;  // false for NaN
  throw Error(fmt::format("{} = {}: must be {}", key, static_cast<float>(value), expected));
}

void validate_heads(const TransformerConfig& config) {
  if (config.separate_head_width > 0) {
    require_range("model.heads", config.heads, 1, kMaxExtent);
    require_range("model.head_width", config.separate_head_width, 1, kMaxHeadWidth);
  } else {
    require_range("model.heads", config.heads, 1, kMaxExtent);
    if (config.heads > config.width) {
      throw Error(fmt::format("model.heads = {}: more than model.width = {}", config.heads, config.width),
                  fmt::format("The nearest valid value is {}.", nearest_heads(config.width, config.heads)));
    }
    if (config.width % config.heads != 0) {
      throw Error(fmt::format("model.heads = {}: does not divide model.width = {}", config.heads, config.width),
                  fmt::format("The nearest valid value is {}; or give model.head_width.",
                              nearest_heads(config.width, config.heads)));
    }
    if (config.head_width() > kMaxHeadWidth) {
      throw Error(fmt::format("model.heads = {}: a head would be {} wide (model.width = {}); at most {} is implemented",
                              config.heads, config.head_width(), config.width, kMaxHeadWidth),
                  fmt::format("The nearest valid value is {}.", nearest_heads(config.width, config.heads)));
    }
  }
  if (config.kv_heads < 1 || config.heads % config.kv_heads != 0) {
    throw Error(fmt::format("model.kv_heads = {}: does not divide model.heads = {}", config.kv_heads, config.heads),
                fmt::format("The nearest valid value is {}.", nearest_divisor(config.heads, config.kv_heads)));
  }
}

void validate_positions(const TransformerConfig& config) {
  if (!rotates(config.positions)) {
    const auto only_rotary = [](const char* key, double value, double neutral) {
      if (value == neutral) return;
      throw Error(fmt::format("{} = {}: only with model.positions = rotary", key, value),
                  fmt::format("Leave it out (its default is {}), or set model.positions = \"rotary\".", neutral));
    };
    const TransformerConfig defaults;
    only_rotary("model.rotary_width", static_cast<double>(config.rotary_width), 0);
    only_rotary("model.rotary_base", config.rotary_base, defaults.rotary_base);
    only_rotary("model.rotary_scaling", config.rotary_scaling, defaults.rotary_scaling);
    return;
  }
  const int64_t d = config.head_width(), r = config.rotated_width();
  if (r < 2 || r > d || r % 2 != 0) {
    throw Error(fmt::format("model.rotary_width = {}: must be even and between 2 and a head's width of {}", r, d),
                d < 2 ? "Make heads at least 2 wide (model.heads)."
                      : fmt::format("The nearest valid value is {}.", std::clamp<int64_t>(r / 2 * 2, 2, d / 2 * 2)));
  }
  require_rate("model.rotary_base", config.rotary_base, 1.0, 1e12, "between 1 and 1e12 (usual: 10000)");
  require_rate("model.rotary_scaling", config.rotary_scaling, 1.0, 1e6, "between 1 (none) and 1e6");
  if (config.rotary_scaling == 1.0) return;
  require_rate("model.rotary_low_frequency_factor", config.rotary_low_frequency_factor, 1e-6, 1e6, "positive");
  if (!(config.rotary_high_frequency_factor > config.rotary_low_frequency_factor)) {
    throw Error(fmt::format("model.rotary_high_frequency_factor = {}: must be above "
                            "model.rotary_low_frequency_factor = {}",
                            config.rotary_high_frequency_factor, config.rotary_low_frequency_factor),
                "Usual values are 4 and 1.");
  }
  require_range("model.rotary_original_context", config.rotary_original_context, 1, kMaxExtent);
}

// A float as the double of its shortest decimal: 1e-05 in a file, not 9.999999747378752e-06.
struct FieldWriter {
  nlohmann::json& json;
  template <typename T>
  void operator()(const char* name, const T& value) const {
    if constexpr (std::is_enum_v<T>) {
      json[name] = word_of(value);
    } else if constexpr (std::is_same_v<T, float>) {
      json[name] = std::stod(fmt::format("{}", value));
    } else {
      json[name] = value;
    }
  }
};

struct FieldReader {
  const nlohmann::json& json;
  std::string_view where;
  template <typename T>
  void operator()(const char* name, T& value) const {
    const auto found = json.find(name);
    if (found == json.end()) return;
    try {
      if constexpr (std::is_enum_v<T>) {
        const std::optional<T> read = of_word<T>(found->template get<std::string>());
        if (!read) throw Error(fmt::format("{}: {} = {}: no such option", where, name, found->dump()));
        value = *read;
      } else {
        value = found->template get<T>();
      }
    } catch (const nlohmann::json::exception& error) {
      throw Error(fmt::format("{}: {} = {}: {}", where, name, found->dump(), error.what()));
    }
  }
};

// An option that this version does not know would change the model silently.
void require_known_fields(const nlohmann::json& json, TransformerConfig config) {
  std::vector<std::string_view> known;
  for_each_field(config, [&](const char* name, const auto& /*value*/) { known.emplace_back(name); });
  for (const auto& [name, value] : json.items()) {
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    throw Error(fmt::format("the model has an option that this version does not know: {} = {}", name, json_text(value)),
                "Use the version of Ridgeline that wrote the file, or a newer one.");
  }
}

}  // namespace

bool has_position_table(Positions option) {
  switch (option) {
    case Positions::learned:
      return true;
    case Positions::rotary:
      return false;
  }
  RL_NO_CASE(option);
}

bool rotates(Positions option) {
  switch (option) {
    case Positions::learned:
      return false;
    case Positions::rotary:
      return true;
  }
  RL_NO_CASE(option);
}

bool has_mean(Norm option) {
  switch (option) {
    case Norm::layer:
      return true;
    case Norm::rms:
      return false;
  }
  RL_NO_CASE(option);
}

bool has_second_norm(Residual option) {
  switch (option) {
    case Residual::sequential:
    case Residual::parallel:
      return true;
    case Residual::parallel_one_norm:
      return false;
  }
  RL_NO_CASE(option);
}

bool mlp_follows_attention(Residual option) {
  switch (option) {
    case Residual::sequential:
      return true;
    case Residual::parallel:
    case Residual::parallel_one_norm:
      return false;
  }
  RL_NO_CASE(option);
}

bool is_gated(Mlp option) {
  switch (option) {
    case Mlp::gelu_tanh:
    case Mlp::gelu_erf:
      return false;
    case Mlp::swiglu:
      return true;
  }
  RL_NO_CASE(option);
}

std::span<const std::string_view> words_of(Positions /*option*/) {
  static constexpr std::array<std::string_view, 2> kWords = {"learned", "rotary"};
  return kWords;
}
std::span<const std::string_view> words_of(Norm /*option*/) {
  static constexpr std::array<std::string_view, 2> kWords = {"layer", "rms"};
  return kWords;
}
std::span<const std::string_view> words_of(Residual /*option*/) {
  static constexpr std::array<std::string_view, 3> kWords = {"sequential", "parallel", "parallel_one_norm"};
  return kWords;
}
std::span<const std::string_view> words_of(Mlp /*option*/) {
  static constexpr std::array<std::string_view, 3> kWords = {"gelu_tanh", "gelu_erf", "swiglu"};
  return kWords;
}
std::span<const std::string_view> words_of(Pairing /*option*/) {
  static constexpr std::array<std::string_view, 2> kWords = {"interleaved", "half_split"};
  return kWords;
}

ops::RotaryScaling TransformerConfig::scaling() const {
  if (rotary_scaling == 1.0) return {};
  return {.llama3 = true,
          .factor = rotary_scaling,
          .low_freq_factor = rotary_low_frequency_factor,
          .high_freq_factor = rotary_high_frequency_factor,
          .original_context = rotary_original_context};
}

TransformerConfig preset(std::string_view name) {
  std::string list;
  for (const Preset& known : kPresets) {
    if (name == known.name || (name == known.also && !name.empty())) {
      TransformerConfig config = family_options(known.family);
      config.layers = known.layers;
      config.width = known.width;
      config.heads = known.heads;
      config.kv_heads = known.kv_heads;
      config.ffn = known.ffn;
      config.vocab = known.vocab;
      config.context = known.context;
      config.rotary_width = known.rotary_width;
      config.rotary_base = known.rotary_base;
      // GPT-NeoX-20B was trained with the tanh form, unlike the family's default.
      if (name == "gpt-neox-20b") config.mlp = Mlp::gelu_tanh;
      return with_usual_sizes(config);
    }
    list += fmt::format("{}{}", list.empty() ? "" : ", ", known.name);
    if (*known.also != '\0') list += fmt::format(" (= {})", known.also);
  }
  const std::string guess = nearest(name, preset_names());
  throw Error(
      fmt::format("model.preset = \"{}\": no such preset", name),
      guess.empty() ? fmt::format("Presets: {}.", list) : fmt::format("Did you mean {}? Presets: {}.", guess, list));
}

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const Preset& known : kPresets) {
    names.emplace_back(known.name);
    if (*known.also != '\0') names.emplace_back(known.also);
  }
  return names;
}

TransformerConfig with_usual_sizes(TransformerConfig config) {
  constexpr int64_t kSwigluUnit = 256;
  // Not yet validated: no product may overflow.
  const int64_t width = std::clamp<int64_t>(config.width, 0, kMaxExtent);
  if (config.kv_heads == 0) config.kv_heads = config.heads;
  if (config.ffn == 0) {
    config.ffn = is_gated(config.mlp) ? (8 * width / 3 + kSwigluUnit - 1) / kSwigluUnit * kSwigluUnit : 4 * width;
  }
  if (config.heads > 0 && config.width % config.heads == 0 && config.separate_head_width == config.width / config.heads)
    config.separate_head_width = 0;
  if (rotates(config.positions) && config.rotary_width == 0) config.rotary_width = config.head_width();
  return config;
}

void validate(const TransformerConfig& config) {
  family_options(config.family);  // Error for an unknown family
  require_range("model.layers", config.layers, 1, kMaxLayers);
  require_range("model.width", config.width, 1, kMaxExtent);
  validate_heads(config);
  require_range("model.ffn", config.ffn, 1, kMaxExtent);
  require_range("model.vocab", config.vocab, 2, kMaxExtent);
  require_range("model.context", config.context, 1, kMaxExtent);
  validate_positions(config);
  require_rate("model.norm_epsilon", static_cast<double>(config.norm_epsilon), 9.9e-13, 1.0,
               "between 1e-12 and 1 (usual: 1e-5)");
  require_rate("model.dropout", static_cast<double>(config.dropout), 0.0, 0.9991, "at least 0 and below 1");
  require_rate("model.init_deviation", static_cast<double>(config.init_deviation), 0.0, 10.0,
               "between 0 and 10 (usual: 0.02)");
}

nlohmann::json to_json(const TransformerConfig& config) {
  nlohmann::json json;
  for_each_field(config, FieldWriter{json});
  return json;
}

TransformerConfig from_json(const nlohmann::json& json, std::string_view where) {
  if (!json.is_object()) throw Error(fmt::format("{}: the model is no JSON object", where));
  if (json.contains("model_type")) return from_hugging_face(json, where);
  for (const char* name : {"family", "layers", "width", "heads", "vocab", "context"}) {
    if (!json.contains(name)) throw Error(fmt::format("{}: the model lacks '{}'", where, name));
  }
  TransformerConfig config;
  FieldReader{json, where}("family", config.family);
  try {
    config = family_options(config.family);
    require_known_fields(json, config);
  } catch (const Error& error) {
    throw Error(fmt::format("{}: {}", where, error.message()), error.next_step());
  }
  for_each_field(config, FieldReader{json, where});
  const TransformerConfig usual = with_usual_sizes(config);
  if (!json.contains("kv_heads")) config.kv_heads = usual.kv_heads;
  if (!json.contains("ffn")) config.ffn = usual.ffn;
  try {
    validate(config);
  } catch (const Error& error) {
    throw Error(fmt::format("{}: {}", where, error.message()), "The file describes a model that cannot exist.");
  }
  return config;
}

}  // namespace ridgeline::model

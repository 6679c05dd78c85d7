#include "ridgeline/model/foreign_family.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "ridgeline/base/error.h"
#include "ridgeline/base/json.h"
#include "ridgeline/model/transformer_config.h"

namespace ridgeline::model {
namespace {

using nlohmann::json;

// What a model_type's class always has, beside what its keys say.
struct Known {
  std::string_view type, features;
};
constexpr std::string_view kQueryKeyNorm = "norms of queries and keys";
constexpr std::string_view kStates = "state-space layers instead of attention";
constexpr std::string_view kTwoWays = "attention in both directions";
constexpr std::string_view kEncoder = "an encoder beside the decoder";
constexpr std::string_view kGemma = "embeddings scaled by sqrt(width), norms by 1 + weight, GELU in a gated MLP";
constexpr std::array<Known, 40> kKnown = {{{"bert", kTwoWays},
                                           {"roberta", kTwoWays},
                                           {"bloom", "ALiBi positions, a norm behind the embedding"},
                                           {"bart", kEncoder},
                                           {"t5", kEncoder},
                                           {"chatglm", "rotary positions of interleaved pairs in a gated MLP's block"},
                                           {"cohere", "layer norm without bias, scaled logits"},
                                           {"cohere2", "layer norm without bias, scaled logits"},
                                           {"deepseek_v2", "multi-head latent attention"},
                                           {"deepseek_v3", "multi-head latent attention"},
                                           {"falcon", "a parallel residual with fewer key heads"},
                                           {"gemma", kGemma},
                                           {"gemma2", kGemma},
                                           {"gemma3", kGemma},
                                           {"gemma3_text", kGemma},
                                           {"glm", "rotary positions of interleaved pairs in a gated MLP's block"},
                                           {"glm4", "norms behind attention and MLP, fused gate and up"},
                                           {"gpt_bigcode", "one key head with learned positions"},
                                           {"gpt_neo", "attention that is not scaled, local in every second layer"},
                                           {"gpt_oss", "attention sinks"},
                                           {"granite", "scaled embeddings, residuals and logits"},
                                           {"jamba", kStates},
                                           {"mamba", kStates},
                                           {"mamba2", kStates},
                                           {"rwkv", kStates},
                                           {"minicpm", "scaled embeddings, residuals and logits"},
                                           {"mpt", "norms without bias"},
                                           {"nemotron", "layer norm by 1 + weight, squared ReLU"},
                                           {"olmo", "norms without weights"},
                                           {"olmo2", "norms of queries and keys, norms behind attention and MLP"},
                                           {"olmo3", "norms of queries and keys, norms behind attention and MLP"},
                                           {"opt", "learned positions that count from 2, ReLU"},
                                           {"phi", "one norm for attention with biases and MLP in parallel"},
                                           {"phi3", "fused queries, keys and values, and fused gate and up"},
                                           {"qwen2", "biases of queries, keys and values alone"},
                                           {"qwen2_moe", "biases of queries, keys and values alone"},
                                           {"qwen3", kQueryKeyNorm},
                                           {"qwen3_moe", kQueryKeyNorm},
                                           {"smollm3", "layers without positions"},
                                           {"stablelm", "layer norm before a gated MLP"}}};

// A key that says so when it is there with a value that counts.
enum class Counts : uint8_t {
  present,   // anything but null, false, 0, "" and empty ones
  not_one,   // a number that changes what it multiplies
  above_one  // a number > 1
};
struct Sign {
  std::string_view key, feature;
  Counts counts = Counts::present;
};
constexpr std::string_view kExperts = "a mixture of experts";
constexpr std::string_view kScaled = "scaled embeddings, residuals or logits";
constexpr std::string_view kCapped = "capped logits";
constexpr std::string_view kOtherInputs = "inputs other than text";
constexpr std::array<Sign, 38> kSigns = {{{"attention_sinks", "attention sinks"},
                                          {"window_size", "local attention"},
                                          {"attention_types", "local attention"},
                                          {"num_local_experts", kExperts, Counts::above_one},
                                          {"num_experts", kExperts, Counts::above_one},
                                          {"n_routed_experts", kExperts, Counts::above_one},
                                          {"moe_num_experts", kExperts, Counts::above_one},
                                          {"alibi", "ALiBi positions"},
                                          {"qk_norm", kQueryKeyNorm},
                                          {"use_qk_norm", kQueryKeyNorm},
                                          {"qk_layernorm", kQueryKeyNorm},
                                          {"attn_logit_softcapping", kCapped},
                                          {"final_logit_softcapping", kCapped},
                                          {"logits_soft_cap", kCapped},
                                          {"kv_lora_rank", "multi-head latent attention"},
                                          {"clip_qkv", "clipped queries, keys and values"},
                                          {"embedding_multiplier", kScaled, Counts::not_one},
                                          {"residual_multiplier", kScaled, Counts::not_one},
                                          {"attention_multiplier", kScaled, Counts::not_one},
                                          {"logits_scaling", kScaled, Counts::not_one},
                                          {"logit_scale", kScaled, Counts::not_one},
                                          {"scale_emb", kScaled, Counts::not_one},
                                          {"scale_depth", kScaled},
                                          {"query_pre_attn_scalar", "attention scaled by a number of its own"},
                                          {"no_rope_layers", "layers without positions"},
                                          {"no_rope_layer_interval", "layers without positions"},
                                          {"num_nextn_predict_layers", "layers that predict further tokens"},
                                          {"ssm_cfg", kStates},
                                          {"state_size", kStates},
                                          {"mamba_d_state", kStates},
                                          {"mamba_num_heads", kStates},
                                          {"linear_num_key_heads", "linear attention"},
                                          {"is_encoder_decoder", kEncoder},
                                          {"vision_config", kOtherInputs},
                                          {"audio_config", kOtherInputs},
                                          {"text_config", kOtherInputs},
                                          {"attention_chunk_size", "chunked attention"},
                                          {"relative_attention_num_buckets", "relative positions"}}};

bool counts(const json& value, Counts how) {
  if (how == Counts::above_one) return value.is_number() && value.get<double>() > 1.0;
  if (how == Counts::not_one) return value.is_number() && value.get<double>() != 1.0;
  if (value.is_null() || (value.is_boolean() && !value.get<bool>())) return false;
  if (value.is_number()) return value.get<double>() != 0.0;
  return !value.empty() && value != json("");
}

// Short values beside their key.
std::string shown(std::string_view key, const json& value) {
  constexpr size_t kShown = 24;
  const std::string text = json_text(value, -1, NotUtf8::replace);
  return text.size() <= kShown ? fmt::format("{} = {}", key, text) : std::string(key);
}

void add_attention_windows(const json& config, std::vector<std::string>& features) {
  const auto window = config.find("sliding_window");
  const auto used = config.find("use_sliding_window");
  if (window != config.end() && counts(*window, Counts::present) && (used == config.end() || *used != json(false)))
    features.push_back(fmt::format("sliding-window attention ({})", shown("sliding_window", *window)));
  const auto types = config.find("layer_types");
  if (types == config.end() || !types->is_array()) return;
  for (const json& type : *types) {
    if (type == json("full_attention") || !type.is_string()) continue;
    features.push_back(fmt::format("layers of another kind (layer_types: {})", type.get<std::string>()));
    return;
  }
}

void add_rotary_scaling(const json& config, std::vector<std::string>& features) {
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const auto rope = config.find(key);
    if (rope == config.end() || !rope->is_object()) continue;
    for (const char* type_key : {"rope_type", "type"}) {
      const auto type = rope->find(type_key);
      if (type == rope->end() || !type->is_string() || *type == json("default") || *type == json("llama3")) continue;
      features.push_back(
          fmt::format("rotary positions scaled in another way ({}.{} = {})", key, type_key, type->dump()));
      return;
    }
  }
}

}  // namespace

std::vector<std::string> missing_features(const json& config) {
  std::vector<std::string> features;
  add_attention_windows(config, features);
  add_rotary_scaling(config, features);
  for (const Sign& sign : kSigns) {
    const auto found = config.find(sign.key);
    if (found != config.end() && counts(*found, sign.counts))
      features.push_back(fmt::format("{} ({})", sign.feature, shown(sign.key, *found)));
  }
  // Some keep options of attention and MLP in objects of their own.
  for (const char* key : {"attn_config", "ffn_config"}) {
    const auto inner = config.find(key);
    if (inner == config.end() || !inner->is_object()) continue;
    for (std::string& feature : missing_features(*inner)) features.push_back(std::move(feature));
  }
  const auto type = config.find("model_type");
  for (const Known& known : kKnown) {
    const auto said = [&](const std::string& feature) { return feature.starts_with(known.features); };
    if (type != config.end() && *type == json(known.type) && std::none_of(features.begin(), features.end(), said))
      features.insert(features.begin(), std::string(known.features));
  }
  return features;
}

void refuse_foreign_family(const json& config, std::string_view where) {
  const auto type = config.find("model_type");
  const std::vector<std::string> features = missing_features(config);
  std::string message =
      fmt::format("{}: model_type = {}: this version reads {}", where,
                  type == config.end() ? "null" : type->dump(-1, ' ', false, json::error_handler_t::replace),
                  fmt::join(family_names(), ", "));
  if (!features.empty())
    message += fmt::format("; this model has what none of them has: {}", fmt::join(features, "; "));
  throw Error(
      message,
      features.empty()
          ? "Choose a model of one of these families. (Its config.json names no option that they lack: where its "
            "tensors have LLaMA's names and its class computes what LLaMA's does, as Mistral's does without a "
            "sliding window, a copy with model_type = \"llama\" can be read.)"
          : "Choose a model of one of these families.");
}

void require_float_weights(const json& config, std::string_view where) {
  const auto found = config.find("quantization_config");
  if (found == config.end() || !counts(*found, Counts::present)) return;
  const auto method = found->is_object() ? found->find("quant_method") : found->end();
  throw Error(
      fmt::format(
          "{}: quantization_config{}: the weights are quantized; this version reads float32, bfloat16 and float16",
          where, found->is_object() && method != found->end() ? " (" + method->dump() + ")" : ""),
      "Get the model as it was before quantization.");
}

}  // namespace ridgeline::model

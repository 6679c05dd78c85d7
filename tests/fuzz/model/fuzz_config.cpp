// Any JSON as a model's configuration: Hugging Face's config.json of each family, or our own form in a checkpoint.
#include <nlohmann/json.hpp>

#include "fuzz_driver.h"
#include "ridgeline/base/error.h"
#include "ridgeline/model/transformer_config.h"

using namespace ridgeline;
using nlohmann::json;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  int depth = 0;
  for (const char c : text) depth += c == '[' || c == '{';
  if (depth > 1000) return 0;  // JSON is nested by recursion
  const json config = json::parse(text, nullptr, false);
  if (config.is_discarded()) return 0;
  try {
    const model::TransformerConfig accepted = model::from_json(config, "input");
    // What was accepted is valid, and its own form reads back.
    model::validate(accepted);
    RL_REQUIRE(model::from_json(model::to_json(accepted), "again") == accepted, "{}", config.dump());
    if (!config.is_object() || !config.contains("model_type")) return 0;
    RL_REQUIRE(model::from_hugging_face(model::to_hugging_face(accepted)) == accepted, "{}", config.dump());
  } catch (const Error&) {
  }
  return 0;
}

std::vector<std::string> seeds() {
  std::vector<std::string> texts;
  for (const std::string& name : model::preset_names()) {
    texts.push_back(model::to_hugging_face(model::preset(name)).dump());
    texts.push_back(model::to_json(model::preset(name)).dump());
  }
  model::TransformerConfig scaled = model::preset("llama3-8b");
  scaled.rotary_scaling = 8.0;
  texts.push_back(model::to_hugging_face(scaled).dump());
  return texts;
}

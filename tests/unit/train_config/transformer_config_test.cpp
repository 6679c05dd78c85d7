#include "ridgeline/model/transformer_config.h"

#include <nlohmann/json.hpp>

#include "expect_error.h"

namespace ridgeline::model {
namespace {

TransformerConfig tiny() {
  return with_usual_sizes({.layers = 3, .width = 48, .heads = 4, .vocab = 331, .context = 32});
}

nlohmann::json tiny_json() {
  return to_hugging_face(tiny());
}

TEST(Preset, ParametersAreThoseOfThePublishedModels) {
  EXPECT_EQ(preset("gpt2").parameters(), 124'439'808);
  EXPECT_EQ(preset("gpt2-medium").parameters(), 354'823'168);
  EXPECT_EQ(preset("gpt2-large").parameters(), 774'030'080);
  EXPECT_EQ(preset("gpt2-xl").parameters(), 1'557'611'200);
}

TEST(Preset, BothSpellingsAreTheSameModel) {
  EXPECT_EQ(preset("gpt2"), preset("gpt2-124m"));
  EXPECT_EQ(preset("gpt2-medium"), preset("gpt2-350m"));
  EXPECT_EQ(preset("gpt2-large"), preset("gpt2-774m"));
  EXPECT_EQ(preset("gpt2-xl"), preset("gpt2-1.5b"));
}

TEST(Preset, AllAreValidWithTheirOwnVocabulary) {
  for (const std::string& name : preset_names()) {
    EXPECT_NO_THROW(validate(preset(name))) << name;
    EXPECT_EQ(preset(name).vocab, 50257) << name;
    EXPECT_EQ(preset(name).context, 1024) << name;
  }
}

TEST(Preset, UnknownNameGetsTheNearestAndTheList) {
  expect_error([] { preset("gpt2-madium"); }, {"model.preset = \"gpt2-madium\"", "Did you mean gpt2-medium?",
                                               "gpt2 (= gpt2-124m)", "gpt2-xl (= gpt2-1.5b)"});
}

TEST(TransformerConfig, CountsParametersWithAnyFeedForwardWidth) {
  TransformerConfig config = tiny();
  config.ffn = 100;
  // Vocabulary, positions, 3 x (qkv, out, up, down with biases, two norms), final norm.
  const int64_t block = (48 * 144 + 144) + (48 * 48 + 48) + (48 * 100 + 100) + (100 * 48 + 48) + 4 * 48;
  EXPECT_EQ(config.parameters(), 331 * 48 + 32 * 48 + 3 * block + 2 * 48);
}

TEST(Validate, NamesTheFieldTheValueAndTheNearestValidValue) {
  const auto with = [](auto change) {
    TransformerConfig config = tiny();
    change(config);
    return [config] { validate(config); };
  };
  expect_error(with([](auto& c) { c.heads = 5; }), {"model.heads = 5", "model.width = 48", "nearest valid value is 4"});
  expect_error(with([](auto& c) { c.heads = 7; }), {"model.heads = 7", "nearest valid value is"});
  expect_error(with([](auto& c) { c.layers = 0; }), {"model.layers = 0", "between 1 and", "nearest valid value is 1"});
  expect_error(with([](auto& c) { c.vocab = 1; }), {"model.vocab = 1", "nearest valid value is 2"});
  expect_error(with([](auto& c) { c.kv_heads = 2; }), {"model.kv_heads = 2", "nearest valid value is 4"});
  expect_error(with([](auto& c) { c.family = "gptq"; }), {"model.family = \"gptq\"", "gpt2"});
  expect_error(with([](auto& c) { c.dropout = 1.0F; }), {"model.dropout = 1", "below 1"});
  expect_error(with([](auto& c) { c.norm_epsilon = 0.0F; }), {"model.norm_epsilon = 0"});
  expect_error(with([](auto& c) { c.init_deviation = -1.0F; }), {"model.init_deviation = -1"});
}

TEST(Validate, RefusesHeadsWiderThanTheKernels) {
  TransformerConfig config = tiny();
  config.width = 1024;
  config.heads = config.kv_heads = 2;
  expect_error([&] { validate(config); }, {"model.heads = 2", "512 wide", "nearest valid value is 4"});
}

TEST(HuggingFace, ReadsWhatItWrites) {
  TransformerConfig config = tiny();
  config.dropout = 0.1F;
  config.init_deviation = 0.015F;
  config.norm_epsilon = 1e-6F;
  EXPECT_EQ(from_hugging_face(to_hugging_face(config)), config);
  config.ffn = 100;
  EXPECT_EQ(from_hugging_face(to_hugging_face(config)), config);
  EXPECT_EQ(from_hugging_face(to_hugging_face(preset("gpt2-xl"))), preset("gpt2-xl"));
}

TEST(HuggingFace, WritesRatesInTheirShortestForm) {
  const nlohmann::json json = tiny_json();
  EXPECT_EQ(json.at("layer_norm_epsilon").dump(), "1e-05");
  EXPECT_EQ(json.at("initializer_range").dump(), "0.02");
  EXPECT_EQ(json.at("architectures").dump(), R"(["GPT2LMHeadModel"])");
  EXPECT_TRUE(json.at("n_inner").is_null());
}

TEST(HuggingFace, SizesLeftOutHaveGpt2sDefaults) {
  TransformerConfig expected = preset("gpt2");
  expected.dropout = 0.1F;
  EXPECT_EQ(from_hugging_face(nlohmann::json{{"model_type", "gpt2"}}), expected);
}

TEST(HuggingFace, RefusesOptionsWhoseMathematicsIsNotImplementedByName) {
  const auto with = [](const char* key, const nlohmann::json& value) {
    nlohmann::json json = tiny_json();
    json[key] = value;
    return [json] { from_hugging_face(json, "m/config.json"); };
  };
  expect_error(with("activation_function", "gelu"), {"m/config.json", "activation_function = \"gelu\"", "gelu_new"});
  expect_error(with("scale_attn_by_inverse_layer_idx", true),
               {"m/config.json", "scale_attn_by_inverse_layer_idx = true"});
  expect_error(with("reorder_and_upcast_attn", true), {"reorder_and_upcast_attn = true"});
  expect_error(with("scale_attn_weights", false), {"scale_attn_weights = false"});
  expect_error(with("tie_word_embeddings", false), {"tie_word_embeddings = false"});
  expect_error(with("add_cross_attention", true), {"add_cross_attention = true"});
  expect_error(with("model_type", "llama"), {"m/config.json", "model_type = \"llama\"", "gpt2"});
}

TEST(HuggingFace, RefusesIllTypedAndImpossibleSizes) {
  const auto with = [](const char* key, const nlohmann::json& value) {
    nlohmann::json json = tiny_json();
    json[key] = value;
    return [json] { from_hugging_face(json, "m/config.json"); };
  };
  expect_error(with("n_embd", "wide"), {"m/config.json", "n_embd = \"wide\"", "whole number"});
  expect_error(with("n_embd", 47.5), {"n_embd = 47.5", "whole number"});
  expect_error(with("layer_norm_epsilon", true), {"layer_norm_epsilon = true", "number"});
  expect_error(with("n_head", 5), {"m/config.json", "heads = 5", "width = 48"});
  expect_error(with("n_layer", -1), {"m/config.json", "layers = -1"});
  expect_error(with("attn_pdrop", 0.2), {"resid_pdrop = 0", "attn_pdrop = 0.2", "one dropout rate"});
  expect_error([] { from_hugging_face(nlohmann::json::array(), "m/config.json"); },
               {"m/config.json", "not a JSON object"});
}

}  // namespace
}  // namespace ridgeline::model

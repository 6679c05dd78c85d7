#include "ridgeline/model/transformer_config.h"

#include <nlohmann/json.hpp>

#include "expect_error.h"
#include "ridgeline/model/foreign_family.h"

namespace ridgeline::model {
namespace {

TransformerConfig tiny() {
  return with_usual_sizes({.layers = 3, .width = 48, .heads = 4, .vocab = 331, .context = 32});
}

nlohmann::json tiny_json() {
  return to_hugging_face(tiny());
}

TEST(Preset, BothSpellingsAreTheSameModel) {
  EXPECT_EQ(preset("gpt2"), preset("gpt2-124m"));
  EXPECT_EQ(preset("gpt2-medium"), preset("gpt2-350m"));
  EXPECT_EQ(preset("gpt2-large"), preset("gpt2-774m"));
  EXPECT_EQ(preset("gpt2-xl"), preset("gpt2-1.5b"));
}

TEST(Preset, AllAreValidAndHuggingFacesClassesExpressThem) {
  for (const std::string& name : preset_names()) {
    EXPECT_NO_THROW(validate(preset(name))) << name;
    EXPECT_EQ(from_hugging_face(to_hugging_face(preset(name))), preset(name)) << name;
    EXPECT_EQ(preset(name).vocab == 50257, name.starts_with("gpt2")) << name;
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
  expect_error(with([](auto& c) { c.kv_heads = 3; }),
               {"model.kv_heads = 3", "model.heads = 4", "nearest valid value is 2"});
  expect_error(with([](auto& c) { c.family = "gptq"; }),
               {"model.family = \"gptq\"", "Did you mean gpt2?", "gpt2, gptj, "});
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

TEST(Validate, OptionsNeedWhatTheyStandOn) {
  TransformerConfig config = tiny();
  config.rotary_base = 500.0;
  expect_error([&] { validate(config); }, {"model.rotary_base = 500", "model.positions = rotary"});
  config.positions = Positions::rotary;
  EXPECT_NO_THROW(validate(config));
  config.rotary_width = 5;
  expect_error([&] { validate(config); }, {"model.rotary_width = 5", "even", "nearest valid value is 4"});
  config.rotary_width = 14;
  expect_error([&] { validate(config); },
               {"model.rotary_width = 14", "head's width of 12", "nearest valid value is 12"});
  config.rotary_width = 8;
  config.rotary_scaling = 8.0;
  config.rotary_high_frequency_factor = 0.5;
  expect_error([&] { validate(config); }, {"model.rotary_high_frequency_factor = 0.5", "Usual values are 4 and 1"});
  config = tiny();
  config.heads = config.kv_heads = 5;
  config.separate_head_width = 10;
  EXPECT_NO_THROW(validate(config));
  config.separate_head_width = 300;
  expect_error([&] { validate(config); }, {"model.head_width = 300", "nearest valid value is 256"});
}

TEST(Json, OurOwnFormHoldsAnyModel) {
  TransformerConfig config = family_options("llama");
  config.layers = 2;
  config.width = 48;
  config.heads = 6;
  config.kv_heads = 2;
  config.vocab = 100;
  config.context = 32;
  config.norm = Norm::layer;
  config.residual = Residual::parallel_one_norm;
  config.rotary_pairing = Pairing::interleaved;
  config.rotary_scaling = 8.0;
  config.norm_epsilon = 1e-6F;
  config.head_bias = true;
  config = with_usual_sizes(config);
  EXPECT_EQ(from_json(to_json(config), "m"), config);
  EXPECT_EQ(from_json(tiny_json(), "m"), tiny()) << "checkpoints of older versions hold a config.json";
  nlohmann::json json = to_json(config);
  json["norm"] = "batch";
  expect_error([&] { from_json(json, "m"); }, {"m: norm = \"batch\": no such option"});
  json.erase("layers");
  expect_error([&] { from_json(json, "m"); }, {"m: the model lacks 'layers'"});
  json = to_json(config);
  json["layers"] = "two";
  expect_error([&] { from_json(json, "m"); }, {"m: layers = \"two\""});
}

TEST(Json, AnOptionThatIsNotThereHasItsFamilysValue) {
  for (const std::string_view family : family_names()) {
    TransformerConfig config = family_options(family);
    config.layers = 2;
    config.width = 48;
    config.heads = 6;
    config.vocab = 100;
    config.context = 32;
    config = with_usual_sizes(config);
    const nlohmann::json whole = to_json(config);
    nlohmann::json json = whole;
    const std::vector<std::string> sizes = {"family", "layers", "width", "heads", "vocab", "context"};
    for (const auto& [name, value] : whole.items()) {
      nlohmann::json older = whole;
      older.erase(name);
      if (std::find(sizes.begin(), sizes.end(), name) != sizes.end()) {
        expect_error([&] { from_json(older, "m"); }, {"m: the model lacks '" + name + "'"});
        continue;
      }
      TransformerConfig read = from_json(older, "m");
      if (name == "rotary_width") read = with_usual_sizes(read);  // 0 there is the whole head, too
      EXPECT_EQ(read, config) << family << " without " << name;
      json.erase(name);
    }
    EXPECT_EQ(with_usual_sizes(from_json(json, "m")), config) << family << " without any";
  }
  nlohmann::json newer = to_json(tiny());
  newer["sliding_window"] = 4096;
  expect_error([&] { from_json(newer, "m"); }, {"m: the model has an option", "sliding_window = 4096", "version"});
}

TEST(HuggingFace, RefusesToWriteWhatTheClassCannotExpress) {
  const auto write = [](const char* preset_name, auto change) {
    TransformerConfig config = preset(preset_name);
    change(config);
    return [config] { to_hugging_face(config); };
  };
  expect_error(write("gpt2", [](auto& c) { c.kv_heads = 4; }),
               {"model.kv_heads = 4", "GPT2LMHeadModel", "checkpoints"});
  expect_error(write("llama3-8b", [](auto& c) { c.norm = Norm::layer; }),
               {"model.norm = \"layer\"", "LlamaForCausalLM"});
  expect_error(write("gptj-6b", [](auto& c) { c.rotary_base = 1e6; }),
               {"model.rotary_base = 1000000.0", "GPTJForCausalLM"});
  expect_error(write("gpt-neox-20b", [](auto& c) { c.mlp = Mlp::swiglu; }), {"model.mlp = \"swiglu\""});
  expect_error(write("gpt2", [](auto& c) { c.positions = Positions::rotary; }), {"model.positions = \"rotary\""});
  expect_error(write("llama3-8b", [](auto& c) { c.qkv_bias = true; }), {"model."});
}

TEST(HuggingFace, ReadsRotaryPositionsOfBothFormats) {
  nlohmann::json old = to_hugging_face(preset("llama3-8b"));
  old["rope_scaling"] = {{"type", "llama3"},
                         {"factor", 32.0},
                         {"low_freq_factor", 1.0},
                         {"high_freq_factor", 4.0},
                         {"original_max_position_embeddings", 8192}};
  const TransformerConfig scaled = from_hugging_face(old);
  EXPECT_EQ(scaled.rotary_scaling, 32.0);
  EXPECT_EQ(scaled.rotary_base, 500000.0);
  EXPECT_EQ(from_hugging_face(to_hugging_face(scaled)), scaled);
  nlohmann::json current = old;
  current["rope_parameters"] = current["rope_scaling"];
  current["rope_parameters"]["rope_type"] = "llama3";
  current["rope_parameters"]["rope_theta"] = 500000.0;
  current.erase("rope_scaling");
  current.erase("rope_theta");
  EXPECT_EQ(from_hugging_face(current), scaled);
  current["rope_parameters"]["rope_type"] = "yarn";
  expect_error([&] { from_hugging_face(current, "m/config.json"); },
               {"m/config.json", "rope_parameters.rope_type = \"yarn\"", "default and llama3"});
  nlohmann::json neox = to_hugging_face(preset("gpt-neox-20b"));
  EXPECT_EQ(neox.at("rotary_pct"), 0.25);
  neox["rotary_pct"] = 0.5;
  EXPECT_EQ(from_hugging_face(neox).rotary_width, 48);
  neox["rotary_pct"] = 0.001;
  expect_error([&] { from_hugging_face(neox, "m/config.json"); }, {"rotary_pct = 0.001", "no element of a head"});
  neox["rotary_pct"] = 7.0;
  expect_error([&] { from_hugging_face(neox, "m/config.json"); }, {"rotary_pct = 7.0", "not above 1"});
}

TEST(HuggingFace, LlamasHeadsMayTurnInPart) {
  nlohmann::json json = to_hugging_face(preset("llama3-8b"));
  EXPECT_FALSE(json.contains("partial_rotary_factor"));
  json["partial_rotary_factor"] = 0.5;
  const TransformerConfig half = from_hugging_face(json);
  EXPECT_EQ(half.rotary_width, 64);
  EXPECT_EQ(to_hugging_face(half).at("partial_rotary_factor"), 0.5);
  EXPECT_EQ(from_hugging_face(to_hugging_face(half)), half);
  // Transformers 5 keeps all of it in an object, which wins over keys beside it; rope_scaling wins over the object.
  nlohmann::json current = json;
  current["partial_rotary_factor"] = 1.0;
  current.erase("rope_theta");
  current["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 500000.0}, {"partial_rotary_factor", 0.5}};
  EXPECT_EQ(from_hugging_face(current), half);
  current["rope_scaling"] = nlohmann::json::object();
  EXPECT_EQ(from_hugging_face(current), half) << "an empty object says nothing";
  current["rope_scaling"] = {{"rope_type", "default"}, {"rope_theta", 500000.0}};
  EXPECT_EQ(from_hugging_face(current), preset("llama3-8b"));
  // The original context stands beside or in the object; beside it wins.
  current["rope_scaling"] = {{"rope_type", "llama3"}, {"original_max_position_embeddings", 1000}};
  EXPECT_EQ(from_hugging_face(current).rotary_original_context, 1000);
  current["original_max_position_embeddings"] = 2000;
  EXPECT_EQ(from_hugging_face(current).rotary_original_context, 2000);
  current.erase("rope_scaling");
  current["rope_parameters"] = {{"full_attention", {{"rope_type", "default"}}}};
  expect_error([&] { from_hugging_face(current, "m/config.json"); },
               {"m/config.json", "rope_parameters.full_attention", "one set of rotary positions"});
}

// Every word of transformers' ACT2FN (5.24), for the MLP of each family.
TEST(HuggingFace, ActivationsAreExactOrRefused) {
  const std::map<std::string, Mlp> plain = {{"gelu", Mlp::gelu_erf},
                                            {"gelu_python", Mlp::gelu_erf},
                                            {"gelu_new", Mlp::gelu_tanh},
                                            {"gelu_fast", Mlp::gelu_tanh},
                                            {"gelu_accurate", Mlp::gelu_tanh},
                                            {"gelu_pytorch_tanh", Mlp::gelu_tanh},
                                            {"gelu_python_tanh", Mlp::gelu_tanh}};
  const std::map<std::string, Mlp> gated = {{"silu", Mlp::swiglu}, {"swish", Mlp::swiglu}};
  const std::vector<std::string> others = {"gelu_10",    "hardswish", "laplace", "leaky_relu", "linear",
                                           "mish",       "relu",      "relu2",   "relu6",      "sigmoid",
                                           "quick_gelu", "tanh",      "prelu",   "xielu",      "sqrtsoftplus"};
  for (const auto& [name, key] : {std::pair{"gpt2", "activation_function"},
                                  {"gptj-6b", "activation_function"},
                                  {"gpt-neox-20b", "hidden_act"},
                                  {"llama3-8b", "hidden_act"}}) {
    const bool llama = std::string_view(name) == "llama3-8b";
    nlohmann::json json = to_hugging_face(preset(name));
    for (const auto& [word, mlp] : llama ? gated : plain) {
      json[key] = word;
      EXPECT_EQ(from_hugging_face(json).mlp, mlp) << name << " " << word;
    }
    std::vector<std::string> refused = others;
    for (const auto& [word, mlp] : llama ? plain : gated) refused.push_back(word);
    for (const std::string& word : refused) {
      json[key] = word;
      expect_error([&] { from_hugging_face(json, "m/config.json"); },
                   {"m/config.json", std::string(key) + " = \"" + word + "\"", llama ? "silu, swish" : "gelu_new"});
    }
  }
}

TEST(HuggingFace, DropoutRatesThatDifferAreKeptByName) {
  nlohmann::json json = to_hugging_face(preset("gpt2"));
  json["attn_pdrop"] = 0.1;
  const DropoutRates rates = hugging_face_dropout(json);
  EXPECT_EQ(rates, (DropoutRates{{"resid_pdrop", 0.0}, {"embd_pdrop", 0.0}, {"attn_pdrop", 0.1}}));
  EXPECT_TRUE(differ(rates));
  EXPECT_EQ(from_hugging_face(json), preset("gpt2")) << "without dropout";
  json["resid_pdrop"] = json["embd_pdrop"] = 0.1;
  EXPECT_FALSE(differ(hugging_face_dropout(json)));
  EXPECT_EQ(from_hugging_face(json).dropout, 0.1F);
  json["embd_pdrop"] = 1.0;
  expect_error([&] { from_hugging_face(json, "m/config.json"); }, {"embd_pdrop = 1.0", "below 1"});
  json = to_hugging_face(preset("gpt-neox-20b"));
  json["attention_dropout"] = 0.1;
  EXPECT_EQ(hugging_face_dropout(json), (DropoutRates{{"hidden_dropout", 0.0}, {"attention_dropout", 0.1}}));
  EXPECT_EQ(from_hugging_face(json), preset("gpt-neox-20b"));
  json = to_hugging_face(preset("llama3-8b"));
  json["attention_dropout"] = 0.1;
  EXPECT_FALSE(differ(hugging_face_dropout(json)));
  EXPECT_EQ(from_hugging_face(json).dropout, 0.1F);
}

TEST(HuggingFace, ForeignFamiliesAreRefusedWithWhatTheyWouldNeed) {
  for (const std::string_view family : family_names())
    EXPECT_TRUE(missing_features({{"model_type", family}}).empty()) << family << " is not foreign any more";
  const auto refusal = [](const char* text) { return [text] { from_hugging_face(nlohmann::json::parse(text), "m"); }; };
  expect_error(refusal(R"({"model_type": "qwen3", "sliding_window": 4096, "use_sliding_window": false})"),
               {"m: model_type = \"qwen3\"", "gpt2, gptj, ", "norms of queries and keys"});
  expect_error(refusal(R"({"model_type": "mistral", "sliding_window": 4096})"),
               {"sliding-window attention (sliding_window = 4096)"});
  expect_error(refusal(R"({"model_type": "mistral", "sliding_window": null})"), {"names no option that they lack"});
  expect_error(refusal(R"({"model_type": "mixtral", "num_local_experts": 8, "sliding_window": null})"),
               {"a mixture of experts (num_local_experts = 8)"});
  expect_error(refusal(R"({"model_type": "bloom"})"), {"ALiBi"});
  expect_error(refusal(R"({"model_type": "mpt", "attn_config": {"alibi": true, "qk_ln": false}})"),
               {"ALiBi positions (alibi = true)"});
  expect_error(refusal(R"({"model_type": "deepseek_v3", "kv_lora_rank": 512, "n_routed_experts": 256})"),
               {"multi-head latent attention (kv_lora_rank = 512)", "a mixture of experts (n_routed_experts = 256)"});
  expect_error(refusal(R"({"model_type": "gemma3_text", "layer_types": ["full_attention", "sliding_attention"]})"),
               {"embeddings scaled by sqrt(width)", "layer_types: sliding_attention"});
  expect_error(refusal(R"({"model_type": "phi3", "rope_scaling": {"type": "longrope"}})"),
               {"rope_scaling.type = \"longrope\""});
  expect_error(refusal(R"({"model_type": "granite", "logits_scaling": 8.0, "embedding_multiplier": 1.0})"),
               {"logits_scaling = 8.0"});
  expect_error(refusal(R"({"sizes": 1})"), {"model_type = null"});
  expect_error(refusal(R"({"model_type": "llama", "quantization_config": {"quant_method": "gptq", "bits": 4}})"),
               {"quantization_config", "gptq", "before quantization"});
}

TEST(HuggingFace, SizesLeftOutHaveTheClasssDefaults) {
  TransformerConfig gptj = preset("gptj-6b");
  EXPECT_EQ(from_hugging_face(nlohmann::json{{"model_type", "gptj"}}), gptj);
  TransformerConfig neox = preset("gpt-neox-20b");
  neox.mlp = Mlp::gelu_erf;
  EXPECT_EQ(from_hugging_face(nlohmann::json{{"model_type", "gpt_neox"}}), neox);
  const TransformerConfig llama = from_hugging_face(nlohmann::json{{"model_type", "llama"}});
  EXPECT_EQ(llama.kv_heads, 32);
  EXPECT_EQ(llama.ffn, 11008);
  EXPECT_EQ(llama.parameters(), 6'738'415'616);  // LLaMA 7B
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
  expect_error(with("activation_function", "relu"), {"m/config.json", "activation_function = \"relu\"", "gelu_new"});
  expect_error(with("scale_attn_by_inverse_layer_idx", true),
               {"m/config.json", "scale_attn_by_inverse_layer_idx = true"});
  expect_error(with("reorder_and_upcast_attn", true), {"reorder_and_upcast_attn = true"});
  expect_error(with("scale_attn_weights", false), {"scale_attn_weights = false"});
  expect_error(with("tie_word_embeddings", 1), {"tie_word_embeddings = 1", "true or false"});
  expect_error(with("add_cross_attention", true), {"add_cross_attention = true"});
  expect_error(with("model_type", "mamba"), {"m/config.json", "model_type = \"mamba\"", "gpt2, gptj"});
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
  expect_error(with("attn_pdrop", -0.2), {"attn_pdrop = -0.2", "at least 0"});
  expect_error([] { from_hugging_face(nlohmann::json::array(), "m/config.json"); },
               {"m/config.json", "not a JSON object"});
}

}  // namespace
}  // namespace ridgeline::model

// BpeModel as files.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "ridgeline/base/error.h"
#include "ridgeline/base/json.h"
#include "ridgeline/data/tokenizer_json.h"

namespace ridgeline::data {
namespace {

using nlohmann::json;

std::string vocabulary_json(const BpeModel& model) {
  std::vector<std::string> name(model.tokens.size());
  for (size_t id = 0; id < name.size(); ++id) {
    name[id] = model.is_literal(id) ? model.tokens[id] : to_printable(model.tokens[id]);
  }
  for (const AddedToken& token : model.added_tokens) name[token.id] = token.in_vocabulary ? token.content : "";
  std::string out = "{";
  for (size_t id = 0; id < name.size(); ++id) {
    if (!name[id].empty()) out += fmt::format("{}{}:{}", out.size() == 1 ? "" : ",", json_string(name[id]), id);
  }
  return out + "}";
}

std::string pre_tokenizer_json(PreTokenizer kind, bool prefix_space) {
  constexpr std::string_view kByteLevel =
      R"({{"type":"ByteLevel","add_prefix_space":{},"trim_offsets":true,"use_regex":{}}})";
  if (kind == PreTokenizer::gpt2) return fmt::format(kByteLevel, prefix_space, true);
  return fmt::format(
      R"({{"type":"Sequence","pretokenizers":[{{"type":"Split","pattern":{{"Regex":{}}},"behavior":"Isolated","invert":false}},{}]}})",
      json_string(pattern_of(kind)), fmt::format(kByteLevel, false, false));
}

std::string post_processor_json(const BpeModel& model) {
  if (model.special.before_text.empty())
    return R"({"type":"ByteLevel","add_prefix_space":true,"trim_offsets":false,"use_regex":true})";
  const json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}},
             second = {{"Sequence", {{"id", "B"}, {"type_id", 1}}}};
  json single = json::array(), tokens = json::object();
  for (const int32_t id : model.special.before_text) {
    const std::string& name = model.tokens[id];
    single.push_back({{"SpecialToken", {{"id", name}, {"type_id", 0}}}});
    tokens[name] = {{"id", name}, {"ids", {id}}, {"tokens", {name}}};
  }
  single.push_back(text);
  json pair = single;
  pair.push_back(second);
  return json_text(
      json{{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", tokens}});
}

std::string make_tokenizer_json(const BpeModel& model) {
  std::string added, merges;
  for (const AddedToken& token : model.added_tokens) {
    added += fmt::format(
        R"({}    {{"id":{},"content":{},"single_word":false,"lstrip":{},"rstrip":{},"normalized":{},"special":{}}})",
        added.empty() ? "" : ",\n", token.id, json_string(token.content), token.lstrip, token.rstrip, token.normalized,
        token.special);
  }
  for (const MergeRule& merge : model.merges) {
    merges += merges.empty() ? "" : ",\n";
    merges += json_string(to_printable(model.tokens[merge.left]) + " " + to_printable(model.tokens[merge.right]));
  }
  return fmt::format(R"({{
  "version": "1.0",
  "truncation": null,
  "padding": null,
  "added_tokens": [
{}
  ],
  "normalizer": null,
  "pre_tokenizer": {},
  "post_processor": {},
  "decoder": {{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true}},
  "model": {{
    "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "",
    "fuse_unk": false, "byte_fallback": false, "ignore_merges": {},
    "vocab": {},
    "merges": [
{}
    ]
  }}
}}
)",
                     added, pre_tokenizer_json(model.pre_tokenizer, model.prefix_space == PrefixSpace::each),
                     post_processor_json(model), model.ignore_merges, vocabulary_json(model), merges);
}

// Whether transformers' GPT2Tokenizer, which takes no more than vocabulary and merges from the files, does the same.
bool is_like_gpt2(const BpeModel& model) {
  return model.pre_tokenizer == PreTokenizer::gpt2 && model.normalizer.empty() && model.cuts.empty() &&
         !model.of_characters() && !model.ignore_merges && model.literal.empty() && model.special.before_text.empty();
}

json configuration_json(const BpeModel& model, int64_t model_max_length) {
  json configuration = {{"tokenizer_class", is_like_gpt2(model) ? "GPT2Tokenizer" : "PreTrainedTokenizerFast"},
                        {"add_prefix_space", model.prefix_space == PrefixSpace::each},
                        {"clean_up_tokenization_spaces", false}};
  if (model_max_length > 0) configuration["model_max_length"] = model_max_length;
  const auto name = [&](const char* role, const std::optional<int32_t>& id) {
    if (id) configuration[role] = model.tokens[*id];
  };
  name("bos_token", model.special.bos);
  name("eos_token", model.special.end_of_document);
  name("pad_token", model.special.pad);
  if (is_like_gpt2(model)) name("unk_token", model.special.end_of_document);
  return configuration;
}

json special_tokens_json(const BpeModel& model) {
  json special = json::object();
  if (const std::optional<int32_t>& id = model.special.end_of_document) {
    for (const char* role : {"bos_token", "eos_token", "unk_token"}) special[role] = model.tokens[*id];
  }
  return special;
}

std::string merges_text(const BpeModel& model) {
  std::string merges = "#version: 0.2\n";
  for (const MergeRule& merge : model.merges) {
    merges += to_printable(model.tokens[merge.left]) + " " + to_printable(model.tokens[merge.right]) + "\n";
  }
  return merges;
}

}  // namespace

std::string tokenizer_json(const BpeModel& model) {
  if (const std::string* original = model.source.find("tokenizer.json")) return *original;
  // What vocab.json and merges.txt, or a trainer, can say.
  const bool plain = model.normalizer.empty() && model.cuts.empty() && model.pre_tokenizer == PreTokenizer::gpt2;
  if (model.of_characters() || !plain) {
    throw Error("this tokenizer has no tokenizer.json, and what it does cannot be written as one",
                "Keep the tokenizer.model that it was read from.");
  }
  return make_tokenizer_json(model);
}

TokenizerFiles files_of(const BpeModel& model, int64_t model_max_length) {
  TokenizerFiles files = model.source;
  const auto add = [&](const char* name, const auto& made) {
    if (files.find(name) == nullptr) files.set(name, made());
  };
  if (files.all().empty()) {
    add("vocab.json", [&] { return vocabulary_json(model) + "\n"; });
    add("merges.txt", [&] { return merges_text(model); });
    add("special_tokens_map.json", [&] { return json_text(special_tokens_json(model), 2) + "\n"; });
  }
  if (model.of_characters()) return files;
  add("tokenizer.json", [&] { return tokenizer_json(model); });
  add("tokenizer_config.json", [&] { return json_text(configuration_json(model, model_max_length), 2) + "\n"; });
  return files;
}

}  // namespace ridgeline::data

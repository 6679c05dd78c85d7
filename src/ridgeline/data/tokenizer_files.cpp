#include "ridgeline/data/tokenizer_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"

namespace ridgeline::data {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// Ids far beyond any vocabulary come from damaged files; they must not size our tables.
constexpr int64_t kLargestId = 1 << 21;

constexpr std::string_view kSupported =
    "Supported: byte-level BPE as in GPT-2, GPT-J and Llama-3, without normalizer. Others must be converted first.";

json parse_json(std::string_view text, std::string_view name) {
  try {
    return json::parse(text);
  } catch (const json::exception& error) {
    throw Error(fmt::format("{}: not valid JSON: {}", name, error.what()), "Get the file again; it may be cut short.");
  }
}

[[noreturn]] void unsupported(std::string_view name, std::string_view feature) {
  throw Error(fmt::format("{}: {} is not supported", name, feature), std::string(kSupported));
}

[[noreturn]] void malformed(std::string_view name, std::string_view what) {
  throw Error(fmt::format("{}: {}", name, what), "The file does not have the form that Hugging Face tools write.");
}

// Members that may be absent or null.
const json* member(const json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

std::string text_of(const json& object, const char* key) {
  const json* value = member(object, key);
  return value != nullptr && value->is_string() ? value->get<std::string>() : std::string();
}

bool flag_of(const json& object, const char* key, bool otherwise) {
  const json* value = member(object, key);
  return value != nullptr && value->is_boolean() ? value->get<bool>() : otherwise;
}

int32_t id_of(const json& value, std::string_view name, std::string_view token) {
  if (!value.is_number_integer() || value.get<int64_t>() < 0 || value.get<int64_t>() > kLargestId) {
    malformed(name, fmt::format("the id of '{}' is {}, not a number from 0 to {}", token, value.dump(), kLargestId));
  }
  return value.get<int32_t>();
}

// token string -> id, with what is needed to resolve merges.
struct Vocabulary {
  std::unordered_map<std::string, int32_t> id;
};

void set_token(BpeModel& model, int32_t id, std::string bytes) {
  if (model.tokens.size() <= static_cast<size_t>(id)) model.tokens.resize(static_cast<size_t>(id) + 1);
  model.tokens[id] = std::move(bytes);
}

Vocabulary read_vocabulary(BpeModel& model, const json& vocab, std::string_view name) {
  if (!vocab.is_object() || vocab.empty()) malformed(name, "the vocabulary is not an object of token: id");
  Vocabulary result;
  std::vector<uint8_t> seen;
  for (const auto& [token, value] : vocab.items()) {
    const int32_t id = id_of(value, name, token);
    if (seen.size() <= static_cast<size_t>(id)) seen.resize(static_cast<size_t>(id) + 1);
    if (seen[id] != 0) malformed(name, fmt::format("id {} is given to '{}' and to another token", id, token));
    seen[id] = 1;
    set_token(model, id, from_printable(token));
    result.id.emplace(token, id);
  }
  return result;
}

void add_merge(BpeModel& model, const Vocabulary& vocabulary, const std::string& left, const std::string& right,
               std::string_view name) {
  const auto find = [&](const std::string& token) {
    const auto found = vocabulary.id.find(token);
    if (found == vocabulary.id.end()) {
      malformed(name, fmt::format("merge {} ('{}' and '{}') needs '{}', which is not in the vocabulary",
                                  model.merges.size(), left, right, token));
    }
    return found->second;
  };
  const int32_t a = find(left), b = find(right);
  model.merges.push_back({a, b, find(left + right)});
}

// "left right"
void add_merge_line(BpeModel& model, const Vocabulary& vocabulary, std::string_view line, std::string_view name) {
  const size_t space = line.find(' ');
  if (space == std::string_view::npos || space == 0 || space + 1 == line.size() ||
      line.find(' ', space + 1) != std::string_view::npos) {
    malformed(name, fmt::format("merge {} is '{}', not two tokens with one space between", model.merges.size(), line));
  }
  add_merge(model, vocabulary, std::string(line.substr(0, space)), std::string(line.substr(space + 1)), name);
}

void add_added_token(BpeModel& model, int32_t id, const std::string& content, bool special) {
  for (AddedToken& token : model.added_tokens) {
    if (token.id == id) {
      token.content = content;
      return;
    }
  }
  const bool in_vocabulary = static_cast<size_t>(id) < model.tokens.size() && !model.tokens[id].empty();
  set_token(model, id, content);
  model.added_tokens.push_back({id, content, special, in_vocabulary});
}

void read_added_tokens(BpeModel& model, const json& list, std::string_view name) {
  if (!list.is_array()) malformed(name, "added_tokens is not an array");
  for (const json& entry : list) {
    const std::string content = text_of(entry, "content");
    if (content.empty()) malformed(name, "an added token has no content");
    for (const char* option : {"single_word", "lstrip", "rstrip"}) {
      if (flag_of(entry, option, false)) unsupported(name, fmt::format("added token '{}' with {}", content, option));
    }
    const json* id = member(entry, "id");
    if (id == nullptr) malformed(name, fmt::format("added token '{}' has no id", content));
    add_added_token(model, id_of(*id, name, content), content, flag_of(entry, "special", false));
  }
}

void require_byte_level(const json& part, bool use_regex, std::string_view name) {
  const std::string type = text_of(part, "type");
  if (type != "ByteLevel") unsupported(name, fmt::format("pre_tokenizer '{}'", type));
  if (flag_of(part, "add_prefix_space", true)) unsupported(name, "pre_tokenizer ByteLevel with add_prefix_space");
  if (flag_of(part, "use_regex", true) != use_regex) {
    unsupported(name, fmt::format("pre_tokenizer ByteLevel with use_regex {}", !use_regex));
  }
}

PreTokenizer read_pre_tokenizer(const json& root, std::string_view name) {
  const json* part = member(root, "pre_tokenizer");
  if (part == nullptr) unsupported(name, "a missing pre_tokenizer");
  if (text_of(*part, "type") != "Sequence") {
    require_byte_level(*part, true, name);
    return PreTokenizer::gpt2;
  }
  const json* list = member(*part, "pretokenizers");
  if (list == nullptr || !list->is_array() || list->size() != 2) {
    unsupported(name, "a pre_tokenizer Sequence that is not Split and ByteLevel");
  }
  const json& split = (*list)[0];
  if (text_of(split, "type") != "Split") unsupported(name, fmt::format("pre_tokenizer '{}'", text_of(split, "type")));
  require_byte_level((*list)[1], false, name);
  const json* pattern = member(split, "pattern");
  const std::string regex = pattern == nullptr ? "" : text_of(*pattern, "Regex");
  if (text_of(split, "behavior") != "Isolated" || flag_of(split, "invert", false)) {
    unsupported(name, "a pre_tokenizer Split that is not Isolated, or inverted");
  }
  for (const PreTokenizer kind : {PreTokenizer::gpt2, PreTokenizer::llama3}) {
    if (regex == pattern_of(kind)) return kind;
  }
  unsupported(name, fmt::format("the pre_tokenizer pattern '{}'", regex));
}

void read_bpe(BpeModel& model, const json& bpe, std::string_view name) {
  const std::string type = text_of(bpe, "type");
  if (!type.empty() && type != "BPE") unsupported(name, fmt::format("model '{}'", type));
  for (const char* option : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!text_of(bpe, option).empty()) unsupported(name, fmt::format("model BPE with {}", option));
  }
  if (const json* dropout = member(bpe, "dropout"); dropout != nullptr && *dropout != 0.0) {
    unsupported(name, "model BPE with dropout");
  }
  if (flag_of(bpe, "byte_fallback", false)) unsupported(name, "model BPE with byte_fallback");
  model.ignore_merges = flag_of(bpe, "ignore_merges", false);

  const json* vocab = member(bpe, "vocab");
  const json* merges = member(bpe, "merges");
  if (vocab == nullptr || merges == nullptr || !merges->is_array()) malformed(name, "model BPE lacks vocab or merges");
  const Vocabulary vocabulary = read_vocabulary(model, *vocab, name);
  for (const json& merge : *merges) {
    if (merge.is_string()) {
      add_merge_line(model, vocabulary, merge.get_ref<const std::string&>(), name);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      add_merge(model, vocabulary, merge[0].get<std::string>(), merge[1].get<std::string>(), name);
    } else {
      malformed(name, fmt::format("merge {} is {}, not two tokens", model.merges.size(), merge.dump().substr(0, 100)));
    }
  }
}

int32_t find_token(const BpeModel& model, std::string_view content) {
  for (const AddedToken& token : model.added_tokens) {
    if (token.content == content) return token.id;
  }
  const auto found = std::find(model.tokens.begin(), model.tokens.end(), content);
  return content.empty() || found == model.tokens.end() ? -1 : static_cast<int32_t>(found - model.tokens.begin());
}

// eos_token of a configuration file: a string, or an object with `content`.
std::string eos_of(const json& configuration) {
  const json* eos = member(configuration, "eos_token");
  if (eos == nullptr) return "";
  return eos->is_string() ? eos->get<std::string>() : text_of(*eos, "content");
}

void choose_end_of_document(BpeModel& model, const fs::path& folder) {
  std::vector<std::string> candidates;
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    if (folder.empty() || !fs::exists(folder / name)) continue;
    const std::string text = read_text(folder / name);
    candidates.push_back(eos_of(parse_json(text, (folder / name).string())));
    if (model.source_files.contains("tokenizer.json")) model.source_files.emplace(name, text);
  }
  for (const char* usual : {"<|endoftext|>", "<|end_of_text|>", "</s>"}) candidates.emplace_back(usual);
  for (const std::string& name : candidates) {
    const int32_t id = find_token(model, name);
    if (id < 0) continue;
    add_added_token(model, id, name, true);
    model.end_of_document = id;
    return;
  }
}

BpeModel load_vocab_and_merges(const fs::path& folder) {
  BpeModel model;
  const std::string vocab_name = (folder / "vocab.json").string(), merges_name = (folder / "merges.txt").string();
  const Vocabulary vocabulary = read_vocabulary(model, parse_json(read_text(vocab_name), vocab_name), vocab_name);
  const std::string merges = read_text(merges_name);
  std::string_view rest = merges;
  while (!rest.empty()) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || line.starts_with("#version")) continue;
    add_merge_line(model, vocabulary, line, merges_name);
  }
  if (const fs::path added = folder / "added_tokens.json"; fs::exists(added)) {
    const json list = parse_json(read_text(added), added.string());
    if (!list.is_object()) malformed(added.string(), "not an object of token: id");
    for (const auto& [token, id] : list.items()) {
      if (token.empty()) malformed(added.string(), "an added token has no content");
      add_added_token(model, id_of(id, added.string(), token), token, true);
    }
  }
  return model;
}

std::string json_string(std::string_view text) {
  return json(text).dump();
}

std::string vocabulary_json(const BpeModel& model) {
  std::vector<std::string> name(model.tokens.size());
  for (size_t id = 0; id < name.size(); ++id) name[id] = to_printable(model.tokens[id]);
  for (const AddedToken& token : model.added_tokens) name[token.id] = token.in_vocabulary ? token.content : "";
  std::string out = "{";
  for (size_t id = 0; id < name.size(); ++id) {
    if (!name[id].empty()) out += fmt::format("{}{}:{}", out.size() == 1 ? "" : ",", json_string(name[id]), id);
  }
  return out + "}";
}

std::string pre_tokenizer_json(PreTokenizer kind) {
  constexpr std::string_view kByteLevel =
      R"({{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":{}}})";
  if (kind == PreTokenizer::gpt2) return fmt::format(kByteLevel, true);
  return fmt::format(
      R"({{"type":"Sequence","pretokenizers":[{{"type":"Split","pattern":{{"Regex":{}}},"behavior":"Isolated","invert":false}},{}]}})",
      json_string(pattern_of(kind)), fmt::format(kByteLevel, false));
}

std::string make_tokenizer_json(const BpeModel& model) {
  std::string added, merges;
  for (const AddedToken& token : model.added_tokens) {
    added += fmt::format(
        R"({}    {{"id":{},"content":{},"single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":{}}})",
        added.empty() ? "" : ",\n", token.id, json_string(token.content), token.special);
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
  "post_processor": {{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":false,"use_regex":true}},
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
                     added, pre_tokenizer_json(model.pre_tokenizer), model.ignore_merges, vocabulary_json(model),
                     merges);
}

json configuration_json(const BpeModel& model, int64_t model_max_length) {
  // Only the GPT-2 cut has a class of its own that reads vocab.json and merges.txt as well.
  json configuration = {
      {"tokenizer_class", model.pre_tokenizer == PreTokenizer::gpt2 ? "GPT2Tokenizer" : "PreTrainedTokenizerFast"},
      {"add_prefix_space", false},
      {"clean_up_tokenization_spaces", false}};
  if (model_max_length > 0) configuration["model_max_length"] = model_max_length;
  if (model.end_of_document) {
    for (const char* role : {"bos_token", "eos_token", "unk_token"}) {
      configuration[role] = model.tokens[*model.end_of_document];
    }
  }
  return configuration;
}

// All but the derived tables.
BpeModel read_tokenizer_json(std::string_view text, std::string_view name) {
  const json root = parse_json(text, name);
  if (!root.is_object()) malformed(name, "not an object");
  if (const json* normalizer = member(root, "normalizer")) {
    unsupported(name, fmt::format("normalizer '{}'", text_of(*normalizer, "type")));
  }
  if (const json* decoder = member(root, "decoder"); decoder != nullptr && text_of(*decoder, "type") != "ByteLevel") {
    unsupported(name, fmt::format("decoder '{}'", text_of(*decoder, "type")));
  }
  const json* bpe = member(root, "model");
  if (bpe == nullptr || !bpe->is_object()) malformed(name, "no model");
  BpeModel model;
  // First the model: what it is decides whether anything else is worth a message.
  read_bpe(model, *bpe, name);
  model.pre_tokenizer = read_pre_tokenizer(root, name);
  if (const json* added = member(root, "added_tokens")) read_added_tokens(model, *added, name);
  model.source_files.emplace("tokenizer.json", text);
  return model;
}

}  // namespace

BpeModel parse_tokenizer_json(std::string_view text, std::string_view name) {
  BpeModel model = read_tokenizer_json(text, name);
  choose_end_of_document(model, {});
  model.finish(name);
  return model;
}

std::string tokenizer_json(const BpeModel& model) {
  const auto original = model.source_files.find("tokenizer.json");
  return original != model.source_files.end() ? original->second : make_tokenizer_json(model);
}

BpeModel load_bpe_model(const fs::path& path) {
  const bool is_file = fs::is_regular_file(path);
  const fs::path folder = is_file ? path.parent_path() : path;
  const fs::path file = is_file ? path : folder / "tokenizer.json";
  BpeModel model;
  std::string origin = file.string();
  if (fs::exists(file)) {
    model = read_tokenizer_json(read_text(file), origin);
  } else if (fs::exists(folder / "vocab.json") && fs::exists(folder / "merges.txt")) {
    origin = (folder / "vocab.json").string();
    model = load_vocab_and_merges(folder);
  } else {
    throw Error(
        fmt::format("no tokenizer in '{}': neither tokenizer.json, nor vocab.json and merges.txt", path.string()),
        "Give the folder of a tokenizer, or make one: ridgeline tokenizer train --vocab 4096 --out DIR INPUT.");
  }
  choose_end_of_document(model, folder.empty() ? fs::path(".") : folder);
  model.finish(origin);
  return model;
}

void save_bpe_model(const BpeModel& model, const fs::path& folder, int64_t model_max_length) {
  make_folder(folder);
  const auto write = [&](const char* name, const std::string& made) {
    const auto original = model.source_files.find(name);
    write_atomically(folder / name, original != model.source_files.end() ? original->second : made);
  };
  std::string merges = "#version: 0.2\n";
  for (const MergeRule& merge : model.merges) {
    merges += to_printable(model.tokens[merge.left]) + " " + to_printable(model.tokens[merge.right]) + "\n";
  }
  write("vocab.json", vocabulary_json(model) + "\n");
  write("merges.txt", merges);
  json special = json::object();
  if (model.end_of_document) {
    for (const char* role : {"bos_token", "eos_token", "unk_token"})
      special[role] = model.tokens[*model.end_of_document];
  }
  json only_added = json::object();
  for (const AddedToken& token : model.added_tokens) {
    if (!token.in_vocabulary) only_added[token.content] = token.id;
  }
  if (!only_added.empty()) write("added_tokens.json", only_added.dump(2) + "\n");
  write("special_tokens_map.json", special.dump(2) + "\n");
  write("tokenizer_config.json", configuration_json(model, model_max_length).dump(2) + "\n");
  // Last: its presence says that the folder is whole.
  write("tokenizer.json", tokenizer_json(model));
}

}  // namespace ridgeline::data

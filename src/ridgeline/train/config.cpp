#include "ridgeline/train/config.h"

#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>
#include <type_traits>
#include <variant>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/train/config_keys.h"

namespace ridgeline::train {
namespace {

constexpr const char* kOverride = "--set";  // as an origin

// One "key = value" as it was given: by a file or by an override.
struct Assignment {
  std::string name;
  std::string origin;  // "runs/a.toml:12", "--set"
  const toml::node* node = nullptr;
};

// A single value as TOML writes it; "" for lists, groups and dates.
std::string describe(const toml::node& node) {
  if (const auto text = node.value_exact<std::string>()) return value_text(&*text);
  if (const auto whole = node.value_exact<int64_t>()) return value_text(&*whole);
  if (const auto number = node.value_exact<double>()) return value_text(&*number);
  if (const auto truth = node.value_exact<bool>()) return value_text(&*truth);
  return {};
}

std::string_view kind_of(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::table:
      return "a group of keys";
    case toml::node_type::array:
      return "a list";
    case toml::node_type::string:
      return "a string";
    case toml::node_type::integer:
      return "a whole number";
    case toml::node_type::floating_point:
      return "a number with a fraction";
    case toml::node_type::boolean:
      return "true or false";
    default:
      return "a date or time";
  }
}

[[noreturn]] void wrong_type(const Key& key, const Assignment& given) {
  const Config defaults;
  const ConstSlot slot = slot_of(key, defaults);
  const std::string value = describe(*given.node);
  std::string next = fmt::format("For example: {} = {}", key.name, value_text(slot));
  if (const std::string allowed = allowed_text(key); !allowed.empty()) next += fmt::format(" ({})", allowed);
  throw Error(fmt::format("{}: {}{}{}: {} was given, {} is expected", given.origin, key.name,
                          value.empty() ? "" : " = ", value, kind_of(*given.node), type_name(slot)),
              next + ".");
}

[[noreturn]] void unknown(const Assignment& given) {
  throw Error(fmt::format("{}: {}: no such key", given.origin, given.name), unknown_key_hint(given.name));
}

bool is_group(std::string_view name) {
  return std::any_of(keys().begin(), keys().end(), [&](const Key& key) { return key.group() == name; });
}

// False when the node holds another type; a whole number serves as a number, and the other way round.
template <typename Member, typename Value>
bool set(Member* member, std::optional<Value> value) {
  if (value) *member = static_cast<Member>(*value);
  return value.has_value();
}

// [weight, "prefix"], …, or prefixes alone; of one dataset the weight says nothing.
DatasetList datasets_of(const toml::array& list) {
  DatasetList result;
  if (!list.empty() && list.is_homogeneous(toml::node_type::string)) {
    for (const toml::node& node : list) result.entries.push_back({1, *node.value_exact<std::string>()});
    result.by_size = result.is_blend();
    return result;
  }
  for (const toml::node& node : list) {
    const toml::array* const entry = node.as_array();
    const auto weight = entry != nullptr && entry->size() == 2 && entry->get(0)->is_number()
                            ? entry->get(0)->value<double>()
                            : std::nullopt;
    const auto prefix = weight ? entry->get(1)->value_exact<std::string>() : std::nullopt;
    if (!prefix) {
      throw Error(fmt::format("entry {} of the list is {}; each must be [weight, \"prefix\"], or each a prefix",
                              result.entries.size() + 1,
                              entry == nullptr ? fmt::format("{}{}", kind_of(node), " " + describe(node))
                                               : "another list than that"),
                  "For example: [[0.7, \"data/web\"], [0.3, \"data/books\"]]");
    }
    result.entries.push_back({*weight, *prefix});
  }
  if (result.entries.empty()) throw Error("the list is empty", "Name a dataset.");
  if (!result.is_blend() && result.entries.front().weight > 0) result.entries.front().weight = 1;
  return result;
}

struct Setter {
  const toml::node& node;
  bool operator()(int64_t* member) const { return set(member, whole()); }
  bool operator()(double* member) const { return set(member, number()); }
  bool operator()(float* member) const { return set(member, number()); }
  bool operator()(bool* member) const { return set(member, node.value_exact<bool>()); }
  bool operator()(std::string* member) const { return set(member, node.value_exact<std::string>()); }
  bool operator()(DatasetList* member) const {
    if (const auto prefix = node.value_exact<std::string>()) {
      *member = *prefix;
    } else if (const toml::array* const list = node.as_array()) {
      *member = datasets_of(*list);
    } else {
      return false;
    }
    return true;
  }
  bool operator()(const Choice<uint8_t>& member) const {
    const auto word = node.value_exact<std::string>();
    const auto found = std::find(member.words.begin(), member.words.end(), word.value_or(""));
    if (found != member.words.end()) *member.value = static_cast<uint8_t>(found - member.words.begin());
    return found != member.words.end();
  }
  std::optional<int64_t> whole() const {  // 1e3 is one, too
    const auto real = node.value_exact<double>();
    if (real && std::trunc(*real) == *real && std::abs(*real) < kNoLimit) return static_cast<int64_t>(*real);
    return node.value_exact<int64_t>();
  }
  std::optional<double> number() const { return node.is_number() ? node.value<double>() : std::nullopt; }
};

// Runs `body`, whose errors begin with the key's name, and adds where it was given.
template <typename Body>
void located(const Assignment& given, Body body) {
  try {
    body();
  } catch (const Error& error) {
    throw Error(fmt::format("{}: {}", given.origin, error.message()), error.next_step());
  }
}

// "--set KEY=" takes back what is given. Where nothing is, it was meant to name something: training from scratch is not
// what train.init_from="$(…)" asks for when the command in it fails.
void require_something_to_clear(const Key& key, const Config& config) {
  if (value_text(slot_of(key, config)) != "\"\"") return;
  throw Error(fmt::format("{} = \"\": the value is empty, and none is given that it would take back", key.name),
              "A variable of the shell is probably not set, or the command in $(...) failed.");
}

void assign(const Key& key, const Assignment& given, Config& config) {
  if (const auto word = given.node->value_exact<std::string>()) {
    located(given, [&] {
      check_word(key, *word);
      if (word->empty() && given.origin == kOverride) require_something_to_clear(key, config);
    });
  }
  bool is_set = false;
  try {
    is_set = std::visit(Setter{*given.node}, key.slot(config));
  } catch (const Error& error) {
    throw Error(fmt::format("{}: {}: {}", given.origin, key.name, error.message()), error.next_step());
  }
  if (!is_set) wrong_type(key, given);
  config.origins[std::string(key.name)] = given.origin;
  located(given, [&] { check_value(key, config); });
}

void copy_value(const Key& key, Config& from, Config& to) {
  std::visit(
      [&](auto target) {
        const auto source = std::get<decltype(target)>(key.slot(from));
        if constexpr (std::is_pointer_v<decltype(target)>) {
          *target = *source;
        } else {
          *target.value = *source.value;
        }
      },
      key.slot(to));
}

// What a run sets beside any model, whichever it is.
bool setting_of_run(std::string_view key) {
  return key == "model.norm_epsilon" || key == "model.dropout" || key == "model.init_deviation";
}

// Takes the sizes and options of `model` over; `given` is where they come from.
void apply_model(const ridgeline::model::TransformerConfig& model, const Assignment& given, Config& config) {
  ridgeline::model::TransformerConfig& target = config.model.transformer;
  const ridgeline::model::TransformerConfig before = target;
  target = model;
  target.norm_epsilon = before.norm_epsilon;
  target.dropout = before.dropout;
  target.init_deviation = before.init_deviation;
  for (const Key& key : keys()) {
    if (key.group() == "model" && key.name != "model.preset" && !setting_of_run(key.name))
      config.origins[std::string(key.name)] = given.origin;
  }
}

// Sizes and options that came with a preset are not given any more; those given beside it stay.
void forget_preset(Config& config) {
  const auto preset = config.origins.find("model.preset");
  if (preset == config.origins.end()) return;
  const std::string origin = preset->second;
  Config before = config;
  config.model.transformer = Config().model.transformer;
  for (const Key& key : keys()) {
    if (key.group() != "model" || key.name == "model.preset") continue;
    const auto found = config.origins.find(key.name);
    if (!setting_of_run(key.name) && found != config.origins.end() && found->second == origin) {
      config.origins.erase(found);
    } else {
      copy_value(key, before, config);
    }
  }
}

void apply_preset(const Assignment& given, Config& config) {
  if (given.node->value_exact<std::string>() == "") forget_preset(config);
  assign(*find_key("model.preset"), given, config);
  if (config.model.preset.empty()) return;
  ridgeline::model::TransformerConfig sizes;
  located(given, [&] { sizes = ridgeline::model::preset(config.model.preset); });
  // Left open until all keys are read, so that a width given beside the preset takes the usual sizes along.
  ridgeline::model::TransformerConfig open = sizes;
  open.kv_heads = open.ffn = open.rotary_width = 0;
  const ridgeline::model::TransformerConfig usual = ridgeline::model::with_usual_sizes(open);
  if (usual.kv_heads == sizes.kv_heads) sizes.kv_heads = 0;
  if (usual.ffn == sizes.ffn) sizes.ffn = 0;
  if (usual.rotary_width == sizes.rotary_width) sizes.rotary_width = 0;
  apply_model(sizes, given, config);
}

// A family's options replace those given before it; sizes stay.
void apply_family(const Assignment& given, Config& config) {
  const std::string before = config.model.transformer.family;
  assign(*find_key("model.family"), given, config);
  if (config.model.transformer.family == before) return;
  const ridgeline::model::TransformerConfig sizes = config.model.transformer;
  ridgeline::model::TransformerConfig target = ridgeline::model::family_options(sizes.family);
  target.layers = sizes.layers;
  target.width = sizes.width;
  target.heads = sizes.heads;
  target.kv_heads = sizes.kv_heads;
  target.separate_head_width = sizes.separate_head_width;
  target.ffn = sizes.ffn;
  target.vocab = sizes.vocab;
  target.context = sizes.context;
  target.norm_epsilon = sizes.norm_epsilon;
  target.dropout = sizes.dropout;
  target.init_deviation = sizes.init_deviation;
  config.model.transformer = target;
}

// A preset comes before the family, and that before the sizes and options given beside it, wherever they stand.
void apply_layer(const std::vector<Assignment>& layer, Config& config) {
  for (const Assignment& given : layer) {
    if (find_key(given.name) == nullptr) unknown(given);
    if (given.name == "model.preset") apply_preset(given, config);
  }
  for (const Assignment& given : layer) {
    if (given.name == "model.family") apply_family(given, config);
  }
  for (const Assignment& given : layer) {
    if (given.name != "model.preset" && given.name != "model.family") assign(*find_key(given.name), given, config);
  }
}

// Every "key = value" of the file, by line, so that the first error is the file's first.
std::vector<Assignment> assignments_of(const toml::table& root, std::string_view source) {
  std::vector<std::tuple<int64_t, Assignment>> found;
  const auto add = [&](const toml::key& key, std::string name, const toml::node& node) {
    const auto line = static_cast<int64_t>(key.source().begin.line);
    found.emplace_back(line, Assignment{std::move(name), fmt::format("{}:{}", source, line), &node});
  };
  for (const auto& [group, node] : root) {
    const toml::table* members = node.as_table();
    if (members == nullptr || !is_group(group.str())) {
      add(group, std::string(group.str()), node);
      continue;
    }
    for (const auto& [member, value] : *members) add(member, fmt::format("{}.{}", group.str(), member.str()), value);
  }
  std::stable_sort(found.begin(), found.end(),
                   [](const auto& a, const auto& b) { return std::get<0>(a) < std::get<0>(b); });
  std::vector<Assignment> result;
  for (auto& [line, assignment] : found) {
    if (is_group(assignment.name)) {
      throw Error(fmt::format("{}: {}: {} was given, a group of keys is expected", assignment.origin, assignment.name,
                              kind_of(*assignment.node)),
                  unknown_key_hint(assignment.name + "."));
    }
    result.push_back(std::move(assignment));
  }
  return result;
}

toml::table parse_toml(std::string_view text, std::string_view source) {
  try {
    return toml::parse(text, source);
  } catch (const toml::parse_error& error) {
    throw Error(fmt::format("{}:{}: {}", source, error.source().begin.line, error.description()),
                "The file must be TOML: [group], then lines of key = value; text in quotes.");
  }
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

// The value of an override as a TOML table with the one key "value". Bare text stands for a string.
toml::table override_value(const Key* key, std::string_view value) {
  const bool quotes = !value.empty() && (value.front() == '"' || value.front() == '\'');
  const Config defaults;
  const bool text_key = key != nullptr && is_word(slot_of(*key, defaults));
  const bool list =
      key != nullptr && std::holds_alternative<const DatasetList*>(slot_of(*key, defaults)) && value.starts_with('[');
  if (!text_key || quotes || list) {
    try {
      toml::table parsed = toml::parse(fmt::format("value = {}", value));
      if (parsed.size() == 1) return parsed;
    } catch (const toml::parse_error& error) {  // bare text: its type is judged by the key
      if (list && value.starts_with("[[")) {
        throw Error(fmt::format("--set: {} = {}: {}", key->name, value, error.description()),
                    fmt::format("Put quotes around each prefix, and others around the whole: --set '{}=[[0.7, "
                                "\"data/web\"], [0.3, \"data/books\"]]'",
                                key->name));
      }
    }
  }
  toml::table table;
  table.insert("value", std::string(value));
  return table;
}

void apply_overrides(std::span<const std::string> overrides, Config& config) {
  std::vector<toml::table> values;
  std::vector<Assignment> layer;
  values.reserve(overrides.size());
  for (const std::string& text : overrides) {
    const size_t equals = text.find('=');
    const std::string_view name = trimmed(std::string_view(text).substr(0, equals));
    if (equals == std::string::npos || name.empty()) {
      throw Error(fmt::format("--set {}: no key=value", text), "For example: --set train.steps=100");
    }
    values.push_back(override_value(find_key(name), trimmed(std::string_view(text).substr(equals + 1))));
    layer.push_back({std::string(name), kOverride, values.back().get("value")});
    if (is_group(name)) {
      throw Error(fmt::format("--set {}: {} is a group of keys", text, name),
                  unknown_key_hint(fmt::format("{}.", name)));
    }
  }
  apply_layer(layer, config);
}

void complete(Config& config) {
  if (!config.has_model()) return;
  config.model.transformer = ridgeline::model::with_usual_sizes(config.model.transformer);
  if (config.train.sequence == 0) config.train.sequence = config.model.transformer.context;
}

Config parse(const toml::table& root, std::string_view source, std::span<const std::string> overrides) {
  Config config;
  apply_layer(assignments_of(root, source), config);
  apply_overrides(overrides, config);
  complete(config);
  return config;
}

// `text` as comment lines of at most 100 columns.
std::string as_comment(std::string_view text) {
  constexpr size_t kColumns = 98;
  std::string result, line;
  const auto flush = [&] {
    result += "# " + line + "\n";
    line.clear();
  };
  while (!text.empty()) {
    const size_t end = std::min(text.find(' '), text.size());
    if (!line.empty() && line.size() + 1 + end > kColumns) flush();
    line += (line.empty() ? "" : " ") + std::string(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  flush();
  return result;
}

std::string documentation(const Key& key) {
  const Config defaults;
  std::vector<std::string> facts;
  if (!key.unit.empty()) facts.emplace_back(key.unit);
  if (const std::string allowed = allowed_text(key); !allowed.empty()) facts.push_back(allowed);
  if (!key.later_words.empty()) facts.push_back(fmt::format("later versions: {}", fmt::join(key.later_words, ", ")));
  facts.push_back(fmt::format("default {}", value_text(slot_of(key, defaults))));
  return as_comment(key.meaning) + as_comment(fmt::format("[{}]", fmt::join(facts, "; ")));
}

}  // namespace

Config parse_config(const std::filesystem::path& file, std::span<const std::string> overrides) {
  if (file.empty()) return parse({}, "", overrides);
  return parse_config_text(read_text(file), file.string(), overrides);
}

Config parse_config_text(std::string_view text, std::string_view source, std::span<const std::string> overrides) {
  const toml::table root = parse_toml(text, source);
  return parse(root, source, overrides);
}

Config with_imported_model(Config config, const ridgeline::model::TransformerConfig& imported,
                           const std::string& source) {
  const std::string from = source.empty() ? "train.init_from" : source;
  Config result = config;
  result.model.transformer = imported;
  result.model.transformer.dropout = config.model.transformer.dropout;
  result.model.transformer.init_deviation = config.model.transformer.init_deviation;
  for (const Key& key : keys()) {
    const auto origin = config.origins.find(key.name);
    if (key.group() != "model" || key.name == "model.preset" || origin == config.origins.end()) continue;
    const std::string given = value_text(slot_of(key, config)), theirs = value_text(slot_of(key, result));
    const bool left_open = given == "0" && (key.member() == "kv_heads" || key.member() == "ffn" ||
                                            key.member() == "rotary_width" || key.member() == "head_width");
    if (given == theirs || left_open) continue;
    const auto preset = config.origins.find("model.preset");
    const bool of_file_preset =
        preset != config.origins.end() && preset->second == origin->second && origin->second != kOverride;
    throw Error(
        fmt::format("{}: {} = {}: the model in {} has {}", origin->second, key.name, given,
                    source.empty() ? fmt::format("train.init_from ({})", config.train.init_from) : source, theirs),
        fmt::format("Leave the model's sizes out{}: they come with {}. Or start from another model.",
                    of_file_preset ? " (--set model.preset= takes the preset back)" : "", from));
  }
  complete(result);
  return result;
}

std::string to_toml(const Config& config, Detail detail) {
  std::string text;
  std::string_view group;
  for (const Key& key : keys()) {
    if (key.group() != group) {
      text += fmt::format("{}[{}]\n", group.empty() ? "" : "\n", key.group());
      group = key.group();
    }
    if (detail == Detail::documented) text += "\n" + documentation(key);
    text += fmt::format("{} = {}\n", key.member(), value_text(slot_of(key, config)));
  }
  return text;
}

std::vector<std::string> differences(const Config& before, const Config& after) {
  std::vector<std::string> result;
  for (const Key& key : keys()) {
    const std::string old_value = value_text(slot_of(key, before)), new_value = value_text(slot_of(key, after));
    if (old_value != new_value) result.push_back(fmt::format("{}: {} -> {}", key.name, old_value, new_value));
  }
  return result;
}

DType dtype_of(Storage storage) {
  return storage == Storage::bf16 ? DType::bf16 : DType::f32;
}

DType activation_dtype(const Config& config) {
  switch (config.train.precision) {
    case Precision::fp32:
      return DType::f32;
    case Precision::fp16:
      return DType::f16;
    case Precision::bf16:
    case Precision::pure_bf16:
      return DType::bf16;
  }
  RL_REQUIRE(false, "precision {}", static_cast<int>(config.train.precision));
  return DType::f32;
}

}  // namespace ridgeline::train

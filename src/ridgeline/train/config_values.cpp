// The values of configuration keys: how they are written, which are allowed, and what an unknown key was meant to be.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "ridgeline/base/error.h"
#include "ridgeline/data/blend.h"
#include "ridgeline/train/config_keys.h"

namespace ridgeline::train {
namespace {

template <size_t N>
using Words = std::array<std::string_view, N>;

template <typename Number>
std::string number_text(Number value) {
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".ein") == std::string::npos) text += ".0";  // TOML tells 1.0 from 1
  return text;
}

std::string in_quotes(std::string_view text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      result += '\\';
      result += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      result += fmt::format("\\u{:04x}", static_cast<unsigned>(static_cast<unsigned char>(c)));
    } else {
      result += c;
    }
  }
  return result + '"';
}

bool is_integer(ConstSlot slot) {
  return std::holds_alternative<const int64_t*>(slot);
}

std::string limit_text(ConstSlot slot, double limit) {
  if (is_integer(slot)) return fmt::format("{}", static_cast<int64_t>(limit));
  return fmt::format("{}", limit);
}

std::string default_text(const Key& key) {
  const Config defaults;
  return value_text(slot_of(key, defaults));
}

void check_number(const Key& key, ConstSlot slot, double value) {
  // Numbers with a fraction become floats before they are used: what is a limit there is one here.
  const auto as_used = [&](double number) {
    return is_integer(slot) ? number : static_cast<double>(static_cast<float>(number));
  };
  const bool low = value < key.low && as_used(value)<as_used(key.low), high = value> key.high;
  const bool too_small = value > 0 && value < key.least;
  if (!low && !too_small && (key.below_high ? as_used(value) < key.high : value <= key.high)) return;  // NaN goes on
  std::string required = allowed_text(key), next = "The default";
  if (low || (high && !key.below_high)) {
    const std::string limit = limit_text(slot, low ? key.low : key.high);
    if (!key.default_only) required = fmt::format("{} {}", low ? "at least" : "at most", limit);
    next = fmt::format("The nearest valid value is {}; the default", limit);
  } else if (too_small) {
    required += fmt::format(", 0 or at least {}", key.least);
  } else if (value < key.high) {
    required += " (in fp32)";
  }
  throw Error(fmt::format("{} = {}: must be {}", key.name, value_text(slot), required),
              fmt::format("{} is {}.", next, default_text(key)));
}

void check_datasets(const Key& key, const DatasetList& list) {
  double sum = 0;
  std::set<std::string_view> seen;
  for (size_t i = 0; i < list.entries.size(); ++i) {
    const auto& [weight, prefix] = list.entries[i];
    const std::string name = entry_name(key.name, list, i);
    sum += weight;
    if (prefix.empty()) throw Error(fmt::format("{}: no prefix", name), "Name the dataset, or leave the entry out.");
    if (!seen.insert(prefix).second)
      throw Error(fmt::format("{} = '{}': named twice", name, prefix),
                  "Its samples would come twice: give it once, with the sum of the weights.");
    if (weight > 0 && std::isfinite(sum)) continue;
    throw Error(
        fmt::format("{} = '{}': a weight of {}; a finite number above 0 is expected", name, prefix, weight),
        weight == 0 ? "Leave the dataset out, if nothing of it is to be used." : "Give the share it is to have.");
  }
  if (std::ssize(list.entries) > data::kMostDatasets)
    throw Error(
        fmt::format("{}: {} datasets, and {} can be counted", key.name, list.entries.size(), data::kMostDatasets),
        "Join some of them.");
}

}  // namespace

std::vector<double> DatasetList::weights() const {
  std::vector<double> given;
  for (const Entry& entry : entries) given.push_back(entry.weight);
  return data::normalized(given);
}

std::string entry_name(std::string_view key, const DatasetList& list, size_t index) {
  return list.is_blend() ? fmt::format("{}[{}]", key, index + 1) : std::string(key);
}

std::span<const std::string_view> words_of(Precision /*type*/) {
  static constexpr Words<4> kWords = {"fp32", "bf16", "fp16", "pure_bf16"};
  return kWords;
}

std::span<const std::string_view> words_of(Storage /*type*/) {
  static constexpr Words<2> kWords = {"fp32", "bf16"};
  return kWords;
}

std::span<const std::string_view> words_of(Offload /*type*/) {
  static constexpr Words<3> kWords = {"none", "host", "file"};
  return kWords;
}

std::span<const std::string_view> words_of(AdamForm /*type*/) {
  static constexpr Words<2> kWords = {"adamw", "adam"};
  return kWords;
}

std::span<const std::string_view> words_of(Cadence /*type*/) {
  static constexpr Words<3> kWords = {"auto", "every", "last"};
  return kWords;
}

void check_word(const Key& key, const std::string& word) {
  if (key.words.empty() || std::find(key.words.begin(), key.words.end(), word) != key.words.end()) return;
  const std::string list = fmt::format("{}", fmt::join(key.words, ", "));
  if (std::find(key.later_words.begin(), key.later_words.end(), word) != key.later_words.end()) {
    throw Error(fmt::format("{} = \"{}\": not in this version", key.name, word),
                fmt::format("This version has: {}.", list));
  }
  const std::string guess = nearest(word, key.words);
  throw Error(fmt::format("{} = \"{}\": must be {}", key.name, word, allowed_text(key)),
              guess.empty() ? fmt::format("The default is {}. {}", default_text(key), key.meaning)
                            : fmt::format("The nearest valid value is {}.", in_quotes(guess)));
}

const Key* find_key(std::string_view name) {
  for (const Key& key : keys()) {
    if (key.name == name) return &key;
  }
  return nullptr;
}

std::string unknown_key_hint(std::string_view name) {
  std::vector<std::string> names, groups, members;
  const std::string_view group = name.substr(0, name.find('.'));
  const std::string_view member = name.find('.') == std::string_view::npos ? name : name.substr(name.find('.') + 1);
  std::string elsewhere;
  for (const Key& key : keys()) {
    names.emplace_back(key.name);
    if (groups.empty() || groups.back() != key.group()) groups.emplace_back(key.group());
    if (key.group() == group) members.emplace_back(key.member());
    if (key.member() == member)
      elsewhere = elsewhere.empty() ? std::string(key.name) : elsewhere + " or " + std::string(key.name);
  }
  if (!elsewhere.empty()) return fmt::format("Did you mean {}?", elsewhere);
  if (name.find('.') != std::string_view::npos) {
    if (const std::string guess = nearest(name, names); !guess.empty()) return fmt::format("Did you mean {}?", guess);
  }
  if (!members.empty()) return fmt::format("Keys of [{}]: {}.", group, fmt::join(members, ", "));
  if (const std::string guess = nearest(group, groups); !guess.empty()) return fmt::format("Did you mean [{}]?", guess);
  return fmt::format("Groups: {}. `ridgeline train --print-config` shows every key.", fmt::join(groups, ", "));
}

ConstSlot slot_of(const Key& key, const Config& config) {
  // The table has one accessor per key, for writing; this use of it only reads.
  const Slot slot = key.slot(const_cast<Config&>(config));  // NOLINT(cppcoreguidelines-pro-type-const-cast)
  struct Constant {
    ConstSlot operator()(const Choice<uint8_t>& member) const {
      return Choice<const uint8_t>{member.value, member.words};
    }
    ConstSlot operator()(const int64_t* member) const { return member; }
    ConstSlot operator()(const double* member) const { return member; }
    ConstSlot operator()(const float* member) const { return member; }
    ConstSlot operator()(const bool* member) const { return member; }
    ConstSlot operator()(const std::string* member) const { return member; }
    ConstSlot operator()(const DatasetList* member) const { return member; }
  };
  return std::visit(Constant{}, slot);
}

bool is_word(ConstSlot slot) {
  return std::holds_alternative<const std::string*>(slot) || std::holds_alternative<Choice<const uint8_t>>(slot) ||
         std::holds_alternative<const DatasetList*>(slot);
}

std::string value_text(ConstSlot slot) {
  struct Writer {
    std::string operator()(const int64_t* v) const { return fmt::format("{}", *v); }
    std::string operator()(const double* v) const { return number_text(*v); }
    std::string operator()(const float* v) const { return number_text(*v); }
    std::string operator()(const bool* v) const { return *v ? "true" : "false"; }
    std::string operator()(const std::string* v) const { return in_quotes(*v); }
    std::string operator()(const Choice<const uint8_t>& v) const { return in_quotes(v.words[*v.value]); }
    std::string operator()(const DatasetList* v) const {
      if (!v->is_blend()) return in_quotes(v->empty() ? "" : v->entries.front().prefix);
      std::string list;
      for (const DatasetList::Entry& entry : v->entries) {
        if (!list.empty()) list += ", ";
        list += v->by_size ? in_quotes(entry.prefix)
                           : fmt::format("[{}, {}]", number_text(entry.weight), in_quotes(entry.prefix));
      }
      return fmt::format("[{}]", list);
    }
  };
  return std::visit(Writer{}, slot);
}

std::string_view type_name(ConstSlot slot) {
  constexpr std::array<std::string_view, 7> kNames = {"a whole number",
                                                      "a number",
                                                      "a number",
                                                      "true or false",
                                                      "a string",
                                                      "a string",
                                                      "a prefix or a list of datasets"};
  return kNames.at(slot.index());
}

std::string allowed_text(const Key& key) {
  const Config defaults;
  const ConstSlot slot = slot_of(key, defaults);
  if (!key.words.empty()) return fmt::format("{}", fmt::join(key.words, " | "));
  if (key.default_only) return fmt::format("{} in this version", default_text(key));
  if (std::isinf(key.low)) return "";
  if (key.below_high)
    return fmt::format("at least {} and below {}", limit_text(slot, key.low), limit_text(slot, key.high));
  // Limits that only keep arithmetic safe would distract; an error names them.
  if (key.high > 1e5) return fmt::format("at least {}", limit_text(slot, key.low));
  return fmt::format("between {} and {}", limit_text(slot, key.low), limit_text(slot, key.high));
}

void check_value(const Key& key, const Config& config) {
  const ConstSlot slot = slot_of(key, config);
  if (key.default_only && value_text(slot) != default_text(key)) {
    // An impossible value is called that, not a promise.
    if (const auto* number = std::get_if<const int64_t*>(&slot)) check_number(key, slot, static_cast<double>(**number));
    throw Error(fmt::format("{} = {}: not in this version", key.name, value_text(slot)),
                fmt::format("The only value of this version is {}.", default_text(key)));
  }
  struct Checker {
    const Key& key;
    ConstSlot slot;
    void operator()(const int64_t* v) const { check_number(key, slot, static_cast<double>(*v)); }
    void operator()(const double* v) const { check_number(key, slot, *v); }
    void operator()(const float* v) const { check_number(key, slot, static_cast<double>(*v)); }
    void operator()(const bool* /*v*/) const {}
    void operator()(const std::string* v) const { check_word(key, *v); }
    void operator()(const Choice<const uint8_t>& /*v*/) const {}
    void operator()(const DatasetList* v) const { check_datasets(key, *v); }
  };
  std::visit(Checker{key, slot}, slot);
}

}  // namespace ridgeline::train

// The table of configuration keys: the only place that lists them. To add a key, add a member to Config and a row to
// config_keys.cpp (optimizer, batch ramp and loss scale: config_optimization_keys.cpp); reading, writing,
// --print-config and checks follow.
#pragma once

#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "ridgeline/train/config.h"

namespace ridgeline::train {

// An option with a few values, each known by a word: the value is the word's number.
template <typename Value>
struct Choice {
  Value* value;
  std::span<const std::string_view> words;
};
template <typename E>
Choice<uint8_t> choice(E& option) {
  static_assert(sizeof(E) == sizeof(uint8_t));
  return {reinterpret_cast<uint8_t*>(&option), words_of(option)};
}

inline std::vector<std::string> words_in(std::span<const std::string_view> all) {
  return {all.begin(), all.end()};
}
template <typename E>
std::vector<std::string> words_for(E option) {
  return words_in(words_of(option));
}

// The member of a Config that a key sets.
using Slot = std::variant<int64_t*, double*, float*, bool*, std::string*, Choice<uint8_t>, DatasetList*>;
using ConstSlot = std::variant<const int64_t*, const double*, const float*, const bool*, const std::string*,
                               Choice<const uint8_t>, const DatasetList*>;

struct Key {
  std::string_view name;  // "train.steps"
  std::string_view unit;  // "steps", "tokens"; "" = none
  Slot (*slot)(Config& config);
  std::string_view meaning;
  // Of numbers:
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool below_high = false;    // high itself is not allowed, nor what rounds to it in fp32
  double least = 0;           // of values above 0: smaller ones would vanish in fp32
  bool default_only = false;  // other values are known, but not in this version
  // Of words; both empty: any text.
  std::vector<std::string> words = {};
  std::vector<std::string> later_words = {};  // known, but not in this version
  // Of a schedule's settings: which schedules read it; beside others it must be at its default. Null: all do.
  bool optim::ScheduleSettings::*read_by = nullptr;

  std::string_view group() const { return name.substr(0, name.find('.')); }
  std::string_view member() const { return name.substr(name.find('.') + 1); }
};

// Of counts. Up to here arithmetic in floating point (schedules, shares, JSON) counts exactly.
inline constexpr double kNoLimit = 0x1p53;

// Parts of keys(): the last of [train], and all of [optimizer].
std::vector<Key> batch_and_scale_keys();
std::vector<Key> optimizer_keys();

// In the order of to_toml; keys of one group stand together.
std::span<const Key> keys();
// Null when there is none.
const Key* find_key(std::string_view name);
// Where an unknown key might have been meant to point, and what its group offers: the next step of the error.
std::string unknown_key_hint(std::string_view name);

ConstSlot slot_of(const Key& key, const Config& config);
// Takes text: a string, one of an option's words, or a dataset.
bool is_word(ConstSlot slot);
// The value in TOML's spelling; numbers in the fewest digits that read back exactly.
std::string value_text(ConstSlot slot);
// "a whole number", "a number", "true or false", "a string", "a prefix or a list of datasets".
std::string_view type_name(ConstSlot slot);
// "at least 1", "fp32 | bf16", "at least 0 and below 1"; "" when anything goes. Very high limits are left out.
std::string allowed_text(const Key& key);

// Error unless the word is one of the key's.
void check_word(const Key& key, const std::string& word);
// Error unless the value is allowed; its message begins "NAME = VALUE: ".
void check_value(const Key& key, const Config& config);

}  // namespace ridgeline::train

#include "ridgeline/migrate/draft.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "ridgeline/base/error.h"
#include "ridgeline/base/json.h"
#include "ridgeline/train/config_keys.h"

namespace ridgeline::migrate {
namespace {

// Not of what a preset or a family sets: there the default is theirs.
bool at_usual_value(std::string_view key, const std::string& value, bool other_model) {
  const train::Key* const known = train::find_key(key);
  RL_REQUIRE(known != nullptr, "{}: no such key", key);
  if (other_model && known->group() == "model") return false;
  const train::Config defaults;
  return train::value_text(train::slot_of(*known, defaults)) == value;
}

}  // namespace

std::string_view title_of(Section section) {
  constexpr std::array<std::string_view, kSections> kTitles = {
      "Translated",
      "Where the original contradicts itself, or does not do what it says",
      "Worth knowing",
      "Dead text: the original ignores it",
      "Not supported, or no matter of the configuration",
      "Unknown",
      "Left to you"};
  return kTitles[static_cast<size_t>(section)];
}

std::string toml(int64_t value) {
  return std::to_string(value);
}
std::string toml(double value) {
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".ein") == std::string::npos) text += ".0";
  return text;
}
std::string toml(bool value) {
  return value ? "true" : "false";
}
std::string toml(std::string_view text) {
  return json_string(text, NotUtf8::replace);
}

void Draft::set(std::string_view key, std::string value, std::string from, std::string why) {
  const auto [found, added] = settings_.try_emplace(std::string(key));
  if (added) order_.emplace_back(key);
  found->second.value = std::move(value);
  found->second.from = std::move(from);
  found->second.why = std::move(why);
}

void Draft::alternative(std::string_view key, std::string value, std::string when) {
  const auto found = settings_.find(key);
  RL_REQUIRE(found != settings_.end(), "an alternative to {}, which is not set", key);
  found->second.alternatives.emplace_back(std::move(value), std::move(when));
}

void Draft::say(Section section, std::string text) {
  const bool told = std::any_of(items_.begin(), items_.end(), [&](const Item& item) { return item.text == text; });
  if (!told) items_.push_back({section, std::move(text)});
}

std::string Draft::value(std::string_view key) const {
  const auto found = settings_.find(key);
  return found == settings_.end() ? "" : found->second.value;
}

std::vector<Item> Draft::items() const {
  std::vector<Item> items;
  for (const std::string& key : order_) {
    const Setting& setting = settings_.find(key)->second;
    items.push_back({Section::translated, fmt::format("{} -> {} = {}{}", setting.from, key, setting.value,
                                                      setting.why.empty() ? "" : ": " + setting.why)});
  }
  items.insert(items.end(), items_.begin(), items_.end());
  return items;
}

std::string Draft::keys_as_toml() const {
  std::string text;
  std::string_view group;
  const bool other_model = has("model.preset") || has("model.family");
  for (const train::Key& key : train::keys()) {
    const auto found = settings_.find(key.name);
    if (found == settings_.end()) continue;
    const Setting& setting = found->second;
    if (setting.alternatives.empty() && at_usual_value(key.name, setting.value, other_model)) continue;
    if (key.group() != group) {
      text += fmt::format("{}[{}]\n", group.empty() ? "" : "\n", key.group());
      group = key.group();
    }
    if (!setting.why.empty()) text += wrapped(setting.why, "# ", "# ");
    text += fmt::format("{} = {}  # {}\n", key.member(), setting.value, setting.from);
    for (const auto& [value, when] : setting.alternatives)
      text += fmt::format("# {} = {}  # {}\n", key.member(), value, when);
  }
  return text;
}

std::string wrapped(std::string_view text, std::string_view first, std::string_view prefix) {
  constexpr size_t kColumns = 100;
  std::string result, line(first);
  bool empty = true;
  while (!text.empty()) {
    const size_t end = std::min(text.find_first_of(" \n"), text.size());
    if (!empty && line.size() + 1 + end > kColumns) {
      result += line + "\n";
      line = prefix;
      empty = true;
    }
    line += (empty ? "" : " ") + std::string(text.substr(0, end));
    empty = false;
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return result + line + "\n";
}

}  // namespace ridgeline::migrate

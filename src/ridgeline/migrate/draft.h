// The configuration while it is being made, with where each value comes from, and what there is to say about it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ridgeline::migrate {

// The parts of a report, in its order.
enum class Section : uint8_t {
  translated,     // what became a key
  disagreement,   // the sources contradict one another, or the original does something else than they say
  notice,         // what the run does as it is written, and the user may not expect
  dead,           // what the original ignores
  no_equivalent,  // not supported, or a matter of something else than the configuration
  unknown,
  fill_in  // left to the user
};
inline constexpr int kSections = 7;
std::string_view title_of(Section section);

struct Item {
  Section section;
  std::string text;
};

// Values in TOML's spelling.
std::string toml(int64_t value);
std::string toml(double value);
std::string toml(bool value);
std::string toml(std::string_view text);
inline std::string toml(const char* text) {
  return toml(std::string_view(text));
}

class Draft {
 public:
  // The key's value and where it comes from: "`--lr 6e-5` (launch.sh:31)", "Megatron's default". A second call
  // replaces the first. `why`: what a reader should know beside the value; "" for nothing.
  void set(std::string_view key, std::string value, std::string from, std::string why = {});
  // Another value that the user may mean; stands as a comment beside the key.
  void alternative(std::string_view key, std::string value, std::string when);
  void say(Section section, std::string text);

  bool has(std::string_view key) const { return settings_.find(key) != settings_.end(); }
  // In TOML's spelling; "" when it is not set.
  std::string value(std::string_view key) const;
  // Those said, and one for every key that was set.
  std::vector<Item> items() const;
  // The keys that are not at their default, or stand beside an alternative, each with where it comes from.
  std::string keys_as_toml() const;

 private:
  struct Setting {
    std::string value, from, why;
    std::vector<std::pair<std::string, std::string>> alternatives;  // value, when
  };
  std::map<std::string, Setting, std::less<>> settings_;
  std::vector<std::string> order_;  // keys, as they were set first
  std::vector<Item> items_;
};

// `text` in lines of at most 100 columns, of which each begins with `prefix`, the first with `first`.
std::string wrapped(std::string_view text, std::string_view first, std::string_view prefix);

}  // namespace ridgeline::migrate

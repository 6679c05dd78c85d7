#include "ridgeline/migrate/deepspeed_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "ridgeline/base/error.h"
#include "ridgeline/base/json.h"

namespace ridgeline::migrate {
namespace {

using nlohmann::json;
constexpr int kDeepest = 100;

int64_t line_at(std::string_view text, size_t byte) {
  return 1 + std::count(text.begin(), text.begin() + static_cast<ptrdiff_t>(std::min(byte, text.size())), '\n');
}

// Lines of all keys, by path. The text is JSON already: a string is a key when a colon follows.
std::map<std::string, int64_t, std::less<>> key_lines(std::string_view text) {
  std::map<std::string, int64_t, std::less<>> lines;
  std::vector<std::string> groups;  // the path of every open brace or bracket
  std::string key;
  int64_t line = 1;
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (c == '\n') {
      ++line;
    } else if (c == '{' || c == '[') {
      groups.push_back(groups.empty() ? "" : key);
    } else if (c == '}' || c == ']') {
      if (!groups.empty()) groups.pop_back();
    } else if (c == '"') {
      std::string word;
      for (++at; at < text.size() && text[at] != '"'; ++at) {
        if (text[at] == '\\' && at + 1 < text.size()) ++at;
        word += text[at];
      }
      const size_t next = text.find_first_not_of(" \t\r\n", at + 1);
      if (next == std::string_view::npos || text[next] != ':' || groups.empty()) continue;
      key = groups.back().empty() ? word : groups.back() + "." + word;
      lines.emplace(key, line);
    }
  }
  return lines;
}

}  // namespace

DeepSpeedJson::DeepSpeedJson(const Source& source) : name_(source.name) {
  try {
    json_ = parse_shallow_json(source.text, kDeepest);
  } catch (const json::parse_error& error) {
    throw Error(fmt::format("{}:{}: not valid JSON", name_, line_at(source.text, error.byte == 0 ? 0 : error.byte - 1)),
                "Before this place a comma, a quote or a bracket is missing or too much; JSON has no comments.");
  } catch (const json::exception&) {
    throw Error(fmt::format("{}: holds a number that is too large for any program", name_), "Correct it.");
  } catch (const Error& error) {
    throw Error(fmt::format("{}: {}", name_, error.message()), error.next_step());
  }
  if (!json_.is_object())
    throw Error(fmt::format("{}:1: a JSON object is expected", name_), "Give DeepSpeed's configuration, { ... }.");
  lines_ = key_lines(source.text);
  list(json_, "");
  std::stable_sort(paths_.begin(), paths_.end(),
                   [&](const std::string& a, const std::string& b) { return origin(a).line < origin(b).line; });
}

void DeepSpeedJson::list(const json& value, const std::string& path) {
  if (!value.is_object() || (value.empty() && !path.empty())) {
    paths_.push_back(path);
    return;
  }
  for (const auto& [key, inner] : value.items()) list(inner, path.empty() ? key : path + "." + key);
}

const json* DeepSpeedJson::at(const std::string& path) const {
  const json* value = &json_;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('.', begin), path.size());
    const std::string key = path.substr(begin, end - begin);
    if (!value->is_object() || !value->contains(key)) return nullptr;
    value = &value->at(key);
    begin = end + 1;
  }
  return value;
}

bool DeepSpeedJson::is_auto(const std::string& path) {
  mark_read(path);
  const json* const value = at(path);
  return value != nullptr && value->is_string() && value->get<std::string>() == "auto";
}

void DeepSpeedJson::wrong_type(const std::string& path, const char* expected) const {
  throw Error(fmt::format("{}: {} = {}: {} is expected", origin(path).text(), path,
                          json_text(*at(path), -1, NotUtf8::replace), expected),
              "DeepSpeed would refuse it, too: correct the file.");
}

std::optional<double> DeepSpeedJson::number(const std::string& path) {
  const json* const value = at(path);
  if (is_auto(path) || value == nullptr || value->is_null()) return {};
  if (!value->is_number() || !std::isfinite(value->get<double>())) wrong_type(path, "a number");
  return value->get<double>();
}

std::optional<int64_t> DeepSpeedJson::whole(const std::string& path) {
  const std::optional<double> value = number(path);
  if (!value) return {};
  constexpr double kCountable = 0x1p53;
  if (std::floor(*value) != *value || std::abs(*value) > kCountable) wrong_type(path, "a whole number");
  return static_cast<int64_t>(*value);
}

std::optional<bool> DeepSpeedJson::truth(const std::string& path) {
  const json* const value = at(path);
  if (is_auto(path) || value == nullptr || value->is_null()) return {};
  if (!value->is_boolean()) wrong_type(path, "true or false");
  return value->get<bool>();
}

std::optional<std::string> DeepSpeedJson::word(const std::string& path) {
  const json* const value = at(path);
  if (is_auto(path) || value == nullptr || value->is_null()) return {};
  if (!value->is_string()) wrong_type(path, "a string");
  return value->get<std::string>();
}

std::string DeepSpeedJson::where(const std::string& path) const {
  const json* const value = at(path);
  std::string text = value == nullptr ? "" : json_text(*value, -1, NotUtf8::replace);
  constexpr size_t kLongest = 60;
  if (text.size() > kLongest) text = text.substr(0, kLongest - 3) + "...";
  return fmt::format("`{}: {}` ({})", path, text, origin(path).text());
}

Origin DeepSpeedJson::origin(const std::string& path) const {
  const auto found = lines_.find(path);
  return {name_, found == lines_.end() ? 1 : found->second};
}

std::vector<std::string> DeepSpeedJson::unread() const {
  std::vector<std::string> result;
  for (const std::string& path : paths_) {
    if (!read_.contains(path)) result.push_back(path);
  }
  return result;
}

}  // namespace ridgeline::migrate

#include "ridgeline/base/json.h"

#include <nlohmann/json.hpp>

#include "ridgeline/base/error.h"

namespace ridgeline {
namespace {

using nlohmann::json;

template <typename Json>
std::string text_of(const Json& value, int indent, NotUtf8 not_utf8) {
  using Handler = typename Json::error_handler_t;
  return value.dump(indent, ' ', false, not_utf8 == NotUtf8::replace ? Handler::replace : Handler::strict);
}

}  // namespace

json parse_json(std::string_view text) {
  return json::parse(text);
}

json parse_shallow_json(std::string_view text, int deepest, const char* too_deep) {
  return json::parse(text, [=](int depth, json::parse_event_t, json&) {
    if (depth > deepest) throw Error(too_deep);
    return true;
  });
}

json parse_json_if_any(std::string_view text) {
  return json::parse(text, nullptr, false);
}

std::string json_text(const json& value, int indent, NotUtf8 not_utf8) {
  return text_of(value, indent, not_utf8);
}

std::string json_text(const nlohmann::ordered_json& value, int indent, NotUtf8 not_utf8) {
  return text_of(value, indent, not_utf8);
}

std::string json_string(std::string_view text, NotUtf8 not_utf8) {
  return text_of(json(text), -1, not_utf8);
}

}  // namespace ridgeline

// JSON as text, read and written in one place: nlohmann's parser and printer are templates, and each file that called
// them would compile them again, for up to 3 s.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace ridgeline {

// The value of `text`. Throws nlohmann::json::parse_error, whose `byte` counts from 1.
nlohmann::json parse_json(std::string_view text);
// The same, but text that is no JSON is a value of no type (is_discarded(); neither object nor array) and no error.
nlohmann::json parse_json_if_any(std::string_view text);
// As parse_json, for values that will be printed, which recurses: deeper than `deepest` levels is Error(`too_deep`).
nlohmann::json parse_shallow_json(std::string_view text, int deepest, const char* too_deep = "nested too deeply");

// What to do with strings that are no UTF-8, which JSON cannot hold: throw nlohmann::json::type_error, or write U+FFFD
// in the place of what is none.
enum class NotUtf8 { refuse, replace };

// The text of `value`: on one line without spaces, or `indent` spaces to a level. Numbers that JSON cannot hold (NaN,
// infinity) become null.
std::string json_text(const nlohmann::json& value, int indent = -1, NotUtf8 not_utf8 = NotUtf8::refuse);
std::string json_text(const nlohmann::ordered_json& value, int indent = -1, NotUtf8 not_utf8 = NotUtf8::refuse);
// `text` as a JSON string, in quotes.
std::string json_string(std::string_view text, NotUtf8 not_utf8 = NotUtf8::refuse);

}  // namespace ridgeline

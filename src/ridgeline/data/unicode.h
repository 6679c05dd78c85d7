// Characters: UTF-8 one by one, and the four classes that decide where words are cut (Unicode 16, pinned: ids must not
// depend on the libraries of a machine).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace ridgeline::data {

// L: general category L*. N: N*. S: property White_Space. Everything else: other.
enum class CharClass : uint8_t { other = 0, letter = 1, number = 2, space = 3 };

namespace detail {
// Two stages: code point / 256 -> block, then two bits per code point. Made by tools/make_unicode_table.py.
extern const uint8_t kClassBlock[0x110000 / 256];
extern const uint8_t kClassBits[];
}  // namespace detail

// `code` < 0x110000.
inline CharClass class_of(uint32_t code) {
  const uint32_t in_block = code % 256;
  const uint8_t packed = detail::kClassBits[detail::kClassBlock[code / 256] * 64U + in_block / 4];
  return static_cast<CharClass>((packed >> (in_block % 4 * 2)) & 3);
}

// White space as Python's str.strip() sees it: White_Space and U+001C … U+001F.
inline bool is_python_space(uint32_t code) {
  return (code >= 0x1C && code <= 0x1F) || class_of(code) == CharClass::space;
}

// Whether str.strip() would leave nothing of `line`.
bool is_blank(std::string_view line);

struct Utf8Char {
  enum class Status : uint8_t {
    valid,
    invalid,    // `length` bytes can never be part of a character (a maximal subpart, as WHATWG's decoder counts them)
    incomplete  // the text ends inside what may still become a character
  };
  uint32_t code;   // U+FFFD unless valid
  uint8_t length;  // bytes, >= 1
  Status status;
};

// The character at the start of `text`, which is not empty.
Utf8Char decode_utf8(std::string_view text);

// The character that ends where `text` (not empty, valid UTF-8) ends.
Utf8Char decode_last_utf8(std::string_view text);

inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// Bytes before the first that is no part of a valid character; text.size() when all is well.
size_t valid_utf8_prefix(std::string_view text);

// Appends `text` to `out` with every invalid sequence replaced by U+FFFD; returns how many were.
int64_t append_as_utf8(std::string_view text, std::string& out);

void append_utf8(uint32_t code, std::string& out);

}  // namespace ridgeline::data

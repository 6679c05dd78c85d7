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

// The class of a character and its length in bytes; what is no character is `other`, as long as decode_utf8() says.
struct ClassifiedChar {
  CharClass kind;
  uint8_t length;
};

namespace detail {
ClassifiedChar classify_decoded(std::string_view text);
}

// Of the character at the start of `text`, which is not empty: without a call for nearly all of up to three bytes.
inline ClassifiedChar classify_utf8(std::string_view text) {
  const auto first = static_cast<uint8_t>(text[0]);
  if (first < 0x80) return {class_of(first), 1};
  if (text.size() < 4) return detail::classify_decoded(text);
  uint32_t bytes = 0;
  for (int i = 0; i < 4; ++i) bytes |= uint32_t{static_cast<uint8_t>(text[i])} << (8 * i);
  if ((bytes & 0xC0C0F0) == 0x8080E0) {
    const uint32_t code = (bytes & 0xF) << 12 | (bytes >> 8 & 0x3F) << 6 | (bytes >> 16 & 0x3F);
    if (code >= 0x800 && code >> 11 != 0xD800 >> 11) return {class_of(code), 3};
  } else if ((bytes & 0xC0E0) == 0x80C0) {
    const uint32_t code = (bytes & 0x1F) << 6 | (bytes >> 8 & 0x3F);
    if (code >= 0x80) return {class_of(code), 2};
  }
  return detail::classify_decoded(text);
}

// The character that ends where `text` (not empty, valid UTF-8) ends.
Utf8Char decode_last_utf8(std::string_view text);

inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// Bytes before the first that is no part of a valid character; text.size() when all is well.
size_t valid_utf8_prefix(std::string_view text);

// Appends `text` to `out` with every invalid sequence replaced by U+FFFD; returns how many were.
int64_t append_as_utf8(std::string_view text, std::string& out);

void append_utf8(uint32_t code, std::string& out);

}  // namespace ridgeline::data

// Texts for tests of what must hold for every byte string: all that the scanners tell apart, next to each other in any
// order, valid UTF-8 or not.
#pragma once

#include <array>
#include <random>
#include <string>
#include <string_view>

namespace ridgeline::data::test {

inline constexpr auto kTextParts = std::to_array<std::string_view>({
    "a",
    "s",
    "t",
    "re",
    "ve",
    "ll",
    "d",
    "m",
    "Z",
    "word",
    "thE",
    "7",
    "42",
    " ",
    " ",
    " ",
    "  ",
    "\n",
    "\n",
    "\r\n",
    "\t",
    "\v",
    {"\0", 1},
    "'",
    "'",
    "’",
    ".",
    "!?",
    "<|",
    "_",
    "\x7F",
    "\u00a0",
    "\u0085",
    "\u2003",
    "\u3000",
    "\u2028",
    "\u180e",
    "\u200b",  // white space, and what looks like it
    "é",
    "ſ",
    "ß",
    "Ж",
    "слово",
    "ω",
    "א",
    "ع",
    "ह",
    "ि",
    "漢",
    "字漢字",
    "ひらがな",
    "한국",
    "𝔘",
    "ꙮ",
    "Ⴀ",
    "e\u0301",  // letters
    "٣",
    "²",
    "Ⅷ",
    "४",
    "𝟙",
    "㊿",
    "。",
    "、",
    "「",
    "😀",
    "👩‍👩‍👧",
    "\uFFFD",
    "\U0010FFFF",
    "\x80",
    "\xBF",
    "\xC0",
    "\xC3",
    "\xE6",
    "\xE6\xBC",
    "\xED\xA0\x80",
    "\xF0\x9F\x98",
    "\xF4\x90\x80\x80",
    "\xFF",
    "\xC2",
});

inline std::string any_text(std::mt19937& random, size_t bytes) {
  std::string text;
  while (text.size() < bytes) {
    const std::string_view part = kTextParts[random() % kTextParts.size()];
    const auto kind = random() % 16;
    const auto times = kind == 0 ? random() % 70 : kind < 4 ? random() % 6 : 1U;
    for (size_t i = 0; i < times; ++i) text += part;
    // Bytes that may cut a character in two.
    if (kind == 5 && !text.empty()) text.pop_back();
  }
  text.resize(bytes);
  return text;
}

}  // namespace ridgeline::data::test

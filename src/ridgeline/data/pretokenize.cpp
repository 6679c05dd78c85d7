#include "ridgeline/data/pretokenize.h"

#include <algorithm>
#include <array>

#include "ridgeline/data/added_tokens.h"
#include "ridgeline/data/unicode.h"

namespace ridgeline::data {
namespace {

constexpr auto kAsciiClass = [] {
  std::array<CharClass, 128> classes{};
  for (char c = 'a'; c <= 'z'; ++c) classes[static_cast<size_t>(c)] = CharClass::letter;
  for (char c = 'A'; c <= 'Z'; ++c) classes[static_cast<size_t>(c)] = CharClass::letter;
  for (char c = '0'; c <= '9'; ++c) classes[static_cast<size_t>(c)] = CharClass::number;
  for (const char c : {'\t', '\n', '\v', '\f', '\r', ' '}) classes[static_cast<size_t>(c)] = CharClass::space;
  return classes;
}();

inline ClassifiedChar at(std::string_view text, size_t i) {
  const auto byte = static_cast<uint8_t>(text[i]);
  if (byte < 0x80) [[likely]]
    return {kAsciiClass[byte], 1};
  return classify_utf8({text.data() + i, text.size() - i});
}

// End of the run of `kind` that starts at i (i itself when there is none).
inline size_t run_end(std::string_view text, size_t i, CharClass kind) {
  while (i < text.size()) {
    const ClassifiedChar c = at(text, i);
    if (c.kind != kind) break;
    i += c.length;
  }
  return i;
}

// White space from `start`, by \s+(?!\S)|\s+ : to the end of the text all of it, otherwise all but its last character.
size_t space_end(std::string_view text, size_t start) {
  size_t last = start, end = start;
  while (end < text.size()) {
    const ClassifiedChar c = at(text, end);
    if (c.kind != CharClass::space) break;
    last = end;
    end += c.length;
  }
  return end == text.size() || last == start ? end : last;
}

size_t next_gpt2(std::string_view text, size_t start) {
  const char first = text[start];
  if (first == '\'') {
    if (const size_t length = contraction(PreTokenizer::gpt2, text, start); length != 0) return start + length;
  }
  size_t body = start;
  if (first == ' ') {
    if (start + 1 == text.size()) return start + 1;
    body = start + 1;
  }
  const ClassifiedChar c = at(text, body);
  if (c.kind == CharClass::space) return space_end(text, start);
  return run_end(text, body + c.length, c.kind);
}

// `most_digits`: of a piece of numbers.
size_t next_llama3(std::string_view text, size_t start, int most_digits) {
  const char first = text[start];
  if (first == '\'') {
    if (const size_t length = contraction(PreTokenizer::llama3, text, start); length != 0) return start + length;
  }
  const ClassifiedChar c = at(text, start);
  const size_t second = start + c.length;
  if (c.kind == CharClass::letter) return run_end(text, second, CharClass::letter);
  if (c.kind == CharClass::number) {
    size_t end = second;
    for (int i = 1; i < most_digits && end < text.size(); ++i) {
      const ClassifiedChar digit = at(text, end);
      if (digit.kind != CharClass::number) break;
      end += digit.length;
    }
    return end;
  }
  const CharClass following = second < text.size() ? at(text, second).kind : CharClass::space;
  if (following == CharClass::letter && first != '\r' && first != '\n') {
    return run_end(text, second, CharClass::letter);
  }
  if (c.kind == CharClass::other || (first == ' ' && following == CharClass::other)) {
    size_t end = run_end(text, second, CharClass::other);
    while (end < text.size() && (text[end] == '\r' || text[end] == '\n')) ++end;
    return end;
  }
  const size_t run = run_end(text, start, CharClass::space);
  const size_t line_end = text.substr(start, run - start).find_last_of("\r\n");
  if (line_end != std::string_view::npos) return start + line_end + 1;
  return space_end(text, start);
}

}  // namespace

std::string_view pattern_of(PreTokenizer kind) {
  switch (kind) {
    case PreTokenizer::gpt2:
      return R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
    case PreTokenizer::llama3:
      return R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
    case PreTokenizer::qwen2:
      return R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
    case PreTokenizer::whole:
      break;
  }
  return "";
}

size_t contraction(PreTokenizer kind, std::string_view text, size_t apostrophe) {
  const bool any_case = kind != PreTokenizer::gpt2;
  const auto letter = [&](size_t i) {
    const char c = i < text.size() ? text[i] : '\0';
    return any_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
  };
  const char a = letter(apostrophe + 1), b = letter(apostrophe + 2);
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
  if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
  // Case folding makes U+017F (long s) an s.
  if (any_case && text.substr(apostrophe + 1, 2) == "\xC5\xBF") return 3;
  return 0;
}

size_t next_cut(std::string_view text, size_t from) {
  const auto kind = [&](size_t i) { return i < text.size() ? at(text, i).kind : CharClass::space; };
  const auto kind_before = [&](size_t i) {
    size_t begin = i - 1;
    while (begin > 0 && i - begin < 4 && (static_cast<uint8_t>(text[begin]) & 0xC0) == 0x80) --begin;
    const ClassifiedChar last = at(text, begin);
    return last.length == i - begin ? last.kind : CharClass::other;
  };
  for (size_t cut = std::max<size_t>(from, 1); cut < text.size(); ++cut) {
    if (text[cut] == ' ') {
      if (kind(cut + 1) != CharClass::letter) continue;
      const CharClass before = kind_before(cut);
      if (before == CharClass::letter || before == CharClass::number) return cut;
    } else if (const std::string_view mark = text.substr(cut, 3); mark == "。" || mark == "、" || mark == "，") {
      if (kind_before(cut) == CharClass::letter) return cut;
    } else if (text[cut - 1] == '\n' && cut >= 2 && kind(cut) != CharClass::space) {
      if (trailing_space(text.substr(0, cut)) == 1) return cut;
    }
  }
  return text.size();
}

size_t next_piece(PreTokenizer kind, std::string_view text, size_t start) {
  switch (kind) {
    case PreTokenizer::gpt2:
      return next_gpt2(text, start);
    case PreTokenizer::llama3:
      return next_llama3(text, start, 3);
    case PreTokenizer::qwen2:
      return next_llama3(text, start, 1);
    case PreTokenizer::whole:
      break;
  }
  return text.size();
}

}  // namespace ridgeline::data

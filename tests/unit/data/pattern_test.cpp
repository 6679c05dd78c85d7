// Regular expressions by PCRE2: as Oniguruma means them, on Unicode 16, beside the scanners.
#include "ridgeline/data/pattern.h"

#include <gmock/gmock.h>

#include "any_text.h"
#include "ridgeline/data/later_characters.h"
#include "ridgeline/data/normalizer.h"
#include "ridgeline/data/pattern_syntax.h"
#include "ridgeline/data/piece_scanner.h"
#include "ridgeline/data/pretokenize.h"
#include "ridgeline/data/unicode.h"
#include "support.h"

namespace ridgeline::data {
namespace {

using testing::ElementsAre;
using Behavior = Cut::Behavior;

std::vector<std::string> parts(const Cut& cut, std::string_view text) {
  std::vector<std::string> result;
  cut.for_each_part(text, [&](std::string_view part) { result.emplace_back(part); });
  return result;
}

std::vector<std::string> scanned(PreTokenizer kind, std::string_view text) {
  std::vector<std::string> result;
  for_each_piece(kind, text, [&](std::string_view piece) { result.emplace_back(piece); });
  return result;
}

// One of any script: every other time of a small neighbourhood, so that runs and case meet.
void append_any_character(std::mt19937& random, uint32_t& near, std::string& text) {
  const auto below = [&](uint32_t limit) { return static_cast<uint32_t>(random() % limit); };
  if (below(2) == 0) near = below(below(4) == 0 ? 0x110000 : 0x3000);
  const uint32_t code = std::min<uint32_t>(near + below(8), 0x10FFFF);
  if (code >= 0xD800 && code < 0xE000) return;
  append_utf8(code, text);
}

std::vector<std::string> scanned_in_blocks(PreTokenizer kind, std::string_view text) {
  std::vector<std::string> result;
  PieceScanner scanner(kind, text);
  PieceScanner::Ends ends;
  while (const size_t count = scanner.next(ends)) {
    for (size_t i = 0, begin = 0; i < count; begin = ends[i++])
      result.emplace_back(text.substr(begin, ends[i] - begin));
    text.remove_prefix(ends[count - 1]);
  }
  return result;
}

class ScannedPatterns : public testing::TestWithParam<PreTokenizer> {};

TEST_P(ScannedPatterns, ArePcre2sOnAnyText) {
  const Cut cut{Pattern::regex(pattern_of(GetParam()))};
  std::mt19937 random(12);
  uint32_t near = 0;
  for (int i = 0; i < 400; ++i) {
    std::string text = test::any_text(random, random() % 300);
    ASSERT_EQ(parts(cut, text), scanned(GetParam(), text)) << testing::PrintToString(text);
    ASSERT_EQ(parts(cut, text), scanned_in_blocks(GetParam(), text)) << testing::PrintToString(text);
    text.clear();
    for (int c = 0; c < 60; ++c) {
      if (random() % 3 == 0) text += test::kTextParts[random() % test::kTextParts.size()];
      append_any_character(random, near, text);
    }
    ASSERT_EQ(parts(cut, text), scanned(GetParam(), text)) << testing::PrintToString(text);
    ASSERT_EQ(parts(cut, text), scanned_in_blocks(GetParam(), text)) << testing::PrintToString(text);
  }
}

TEST_P(ScannedPatterns, ArePcre2sOnEveryCharacter) {
  const Cut cut{Pattern::regex(pattern_of(GetParam()))};
  for (uint32_t first = 0; first < 0x110000; first += 0x1000) {
    std::string text;
    for (uint32_t code = first; code < first + 0x1000; ++code) {
      if (code < 0xD800 || code >= 0xE000) append_utf8(code, text);
    }
    ASSERT_EQ(parts(cut, text), scanned(GetParam(), text)) << first;
  }
}

INSTANTIATE_TEST_SUITE_P(Pattern, ScannedPatterns,
                         testing::Values(PreTokenizer::gpt2, PreTokenizer::llama3, PreTokenizer::qwen2));

TEST(LaterCharacters, StandForOnesOfTheirClassAndLength) {
  size_t later = 0;
  for (uint32_t code = 0; code < 0x110000; ++code) {
    const uint32_t known = known_character(code);
    if (known == code) continue;
    ++later;
    std::string one, other;
    append_utf8(code, one);
    append_utf8(known, other);
    ASSERT_EQ(one.size(), other.size()) << code;
    ASSERT_EQ(class_of(code), class_of(known)) << code;
    ASSERT_EQ(known_character(known), known);
  }
  EXPECT_GT(later, 9000U);
}

TEST(Pattern, PartsByEveryBehavior) {
  const auto cut = [](Behavior behavior, bool inverted = false) {
    return parts({Pattern::literal("-"), behavior, inverted}, "a--b-");
  };
  EXPECT_THAT(cut(Behavior::isolated), ElementsAre("a", "-", "-", "b", "-"));
  EXPECT_THAT(cut(Behavior::with_previous), ElementsAre("a-", "-", "b-"));
  EXPECT_THAT(cut(Behavior::with_next), ElementsAre("a", "-", "-b", "-"));
  EXPECT_THAT(cut(Behavior::contiguous), ElementsAre("a", "--", "b", "-"));
  EXPECT_THAT(cut(Behavior::with_next, true), ElementsAre("a-", "-", "b-"));
}

TEST(Pattern, EmptyMatchesCutToo) {
  EXPECT_THAT(parts({Pattern::regex("x*")}, "axxé"), ElementsAre("a", "xx", "é"));
  EXPECT_THAT(parts({Pattern::regex("(?=b)")}, "abab"), ElementsAre("a", "ba", "b"));
}

TEST(Pattern, MeansWhatItMeansToOniguruma) {
  EXPECT_EQ(to_pcre2(R"((a|b)+\v\u00e9\p{Han}[x[yz]^&]$)"), R"((?:a|b)+\x{b}\x{00e9}\p{sc:Han}[xyz\^&]$)");
  // Lines end and begin inside of a text.
  EXPECT_THAT(parts({Pattern::regex("^a")}, "a\na\rab"), ElementsAre("a", "\n", "a", "\rab"));
  EXPECT_THAT(parts({Pattern::regex(".+")}, "a\rb\nc"), ElementsAre("a\rb", "\n", "c"));
  EXPECT_THAT(parts({Pattern::regex("(?i:k)")}, "\u212A1"), ElementsAre("\u212A", "1"));
}

TEST(Pattern, WhatMeansSomethingElseIsRefusedByName) {
  const std::vector<std::pair<const char*, const char*>> refused = {
      {R"(\w)", R"('\w')"},
      {R"(a\b)", R"('\b')"},
      {R"(\h)", R"('\h')"},
      {R"(\A)", R"('\A')"},
      {R"((a)\1)", R"('\1')"},
      {R"(\p{Script=Han})", R"('\p{Script=Han}')"},
      {R"(\pL)", "without braces"},
      {R"(\xe9)", R"('\xe9')"},
      {R"(\x{)", "code point"},
      {"a{2}+", "a '+' behind '{…}'"},
      {"a{2}?", "a '?' behind '{n}'"},
      {"a{,2}", "not {n}, {n,} or {n,m}"},
      {"a**", "'*' behind another"},
      {"*a", "nothing before it"},
      {"(?=a)+", "nothing before it"},
      {"(?m:a)", "'(?m'"},
      {"(?i)a", "'(?i'"},
      {"(*FAIL)", "'(*'"},
      {"(?<n>a)", "'(?<'"},
      {"[[:alpha:]]", "POSIX"},
      {"[a&&b]", "intersection"},
      {"[a[^b]]", "negated set"},
      {"[]a]", "begins a set"},
      {"[a-[b]]", "beside a set"},
      {"[ab", "'[' without ']'"},
      {"(a", "'(' without ')'"},
      {"a)", "')' without '('"},
      {"(?i:ss)", "'ss' in '(?i:'"},
      {"(?i:é)", "beyond ASCII"},
      {R"((?i:\p{Lu}))", R"('\p' in '(?i:')"},
      {"[b-a]", "PCRE2 says"},
      {"(?<=a+)b", "PCRE2 says"},
      {"a\\", "'\\' at the end"},
  };
  for (const auto& row : refused) EXPECT_ERROR(row.second, Pattern::regex(row.first));
}

TEST(Pattern, ALongMatchNeedsNoLongStack) {
  const std::string text(size_t{1} << 17, 'a');
  EXPECT_EQ(parts({Pattern::regex("(?:a|b|cd)+")}, text).size(), 1U);
}

}  // namespace
}  // namespace ridgeline::data

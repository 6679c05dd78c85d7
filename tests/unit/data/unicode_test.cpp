#include "ridgeline/data/unicode.h"

#include <array>

#include "support.h"

namespace ridgeline::data {
namespace {

using Status = Utf8Char::Status;

TEST(Unicode, ClassesHaveTheSizesOfUnicode16) {
  std::array<int, 4> sizes{};
  for (uint32_t code = 0; code < 0x110000; ++code) ++sizes[static_cast<size_t>(class_of(code))];
  EXPECT_EQ(sizes[static_cast<size_t>(CharClass::letter)], 141028);
  EXPECT_EQ(sizes[static_cast<size_t>(CharClass::number)], 1911);
  EXPECT_EQ(sizes[static_cast<size_t>(CharClass::space)], 25);
}

TEST(Unicode, ClassesOfSingleCharacters) {
  for (const uint32_t letter : {0x41U, 0xAAU, 0x6F22U, 0x1C89U})
    EXPECT_EQ(class_of(letter), CharClass::letter) << letter;
  for (const uint32_t number : {0x39U, 0xB2U, 0xBDU, 0x2167U, 0x0663U}) EXPECT_EQ(class_of(number), CharClass::number);
  for (const uint32_t space : {0x20U, 0x85U, 0xA0U, 0x3000U, 0x2028U}) EXPECT_EQ(class_of(space), CharClass::space);
  for (const uint32_t other : {0x27U, 0x0301U, 0x180EU, 0x200BU, 0x1F600U, 0x10FFFFU, 0x1CU}) {
    EXPECT_EQ(class_of(other), CharClass::other) << other;
  }
  EXPECT_TRUE(is_python_space(0x1C));
  EXPECT_TRUE(is_python_space(0x3000));
  EXPECT_FALSE(is_python_space(0x200B));
}

TEST(Unicode, EveryCharacterDecodesToItself) {
  for (uint32_t code = 0; code < 0x110000; ++code) {
    if (code >= 0xD800 && code < 0xE000) continue;
    std::string text;
    append_utf8(code, text);
    const Utf8Char c = decode_utf8(text + "x");
    ASSERT_EQ(c.code, code);
    ASSERT_EQ(c.length, text.size());
    ASSERT_EQ(c.status, Status::valid);
    ASSERT_EQ(decode_last_utf8("é" + text).code, code);
    ASSERT_EQ(valid_utf8_prefix(text), text.size());
    for (size_t cut = 1; cut < text.size(); ++cut) {
      ASSERT_EQ(decode_utf8(text.substr(0, cut)).status, Status::incomplete) << code;
    }
  }
}

TEST(Unicode, ClassifiesEveryCharacterAndEverythingElseAsItIsDecoded) {
  const auto expect_equal = [](std::string_view text) {
    const Utf8Char c = decode_utf8(text);
    const ClassifiedChar found = classify_utf8(text);
    ASSERT_EQ(found.length, c.length) << testing::PrintToString(text);
    ASSERT_EQ(found.kind, c.status == Status::valid ? class_of(c.code) : CharClass::other)
        << testing::PrintToString(text);
  };
  for (uint32_t code = 0; code < 0x110000; ++code) {
    if (code >= 0xD800 && code < 0xE000) continue;
    std::string text;
    append_utf8(code, text);
    ASSERT_NO_FATAL_FAILURE(expect_equal(text));
    ASSERT_NO_FATAL_FAILURE(expect_equal(text + "\xBF end"));
  }
  for (int first = 0x80; first < 0x100; ++first) {
    for (int second = 0; second < 0x100; ++second) {
      for (const int third : {0x00, 0x41, 0x7F, 0x80, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF}) {
        const std::string text = {static_cast<char>(first), static_cast<char>(second), static_cast<char>(third)};
        for (const std::string_view end : {"", "\x80", "a", "\x80\x80\x80"})
          ASSERT_NO_FATAL_FAILURE(expect_equal(text + std::string(end)));
      }
    }
  }
}

// The examples of the Unicode standard, chapter 3.9, "U+FFFD substitution of maximal subparts".
TEST(Unicode, ReplacesMaximalSubparts) {
  const auto repaired = [](std::string_view text, int64_t expected) {
    std::string out = "<";
    EXPECT_EQ(append_as_utf8(text, out), expected);
    return out;
  };
  const std::string r(kReplacement);
  EXPECT_EQ(repaired("a\xF1\x80\x80\xE1\x80\xC2"
                     "b\x80"
                     "c\x80\xBF"
                     "d",
                     6),
            "<a" + r + r + r + "b" + r + "c" + r + r + "d");
  EXPECT_EQ(repaired("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82"
                     "A",
                     8),
            "<" + r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(repaired("\xED\xA0\x80", 3), "<" + r + r + r);
  EXPECT_EQ(repaired("\xF4\x91\x92\x93\xFF"
                     "A\x80\xBF"
                     "B",
                     7),
            "<" + r + r + r + r + r + "A" + r + r + "B");
  EXPECT_EQ(repaired("ends in \xE6\xBC", 1), "<ends in " + r);
  EXPECT_EQ(repaired("all good é漢😀", 0), "<all good é漢😀");
}

}  // namespace
}  // namespace ridgeline::data

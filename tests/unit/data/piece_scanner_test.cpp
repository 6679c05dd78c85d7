#include "ridgeline/data/piece_scanner.h"

#include <gmock/gmock.h>

#include <cstring>
#include <memory>
#include <vector>

#include "../many_cases.h"
#include "any_text.h"
#include "ridgeline/data/unicode.h"
#include "support.h"

namespace ridgeline::data {
namespace {

using test::any_text;

std::vector<size_t> ends_one_by_one(PreTokenizer kind, std::string_view text) {
  std::vector<size_t> ends;
  for (size_t end = 0; end < text.size();) ends.push_back(end = next_piece(kind, text, end));
  return ends;
}

std::vector<size_t> ends_of(PieceScanner scanner) {
  PieceScanner::Ends some;
  std::vector<size_t> ends;
  while (const size_t count = scanner.next(some)) {
    const size_t begin = ends.empty() ? 0 : ends.back();
    for (size_t i = 0; i < count; ++i) ends.push_back(begin + some[i]);
  }
  EXPECT_EQ(scanner.next(some), 0U);
  return ends;
}

std::vector<size_t> ends_by_scanner(PreTokenizer kind, std::string_view text, device::Isa isa) {
  return ends_of(PieceScanner(kind, text, isa));
}

// Those of this machine for which the scanner has code of its own.
std::vector<device::Isa> instruction_sets() {
  std::vector<device::Isa> levels;
  for (const device::Isa level : {device::Isa::portable, device::Isa::avx2, device::Isa::avx512}) {
    if (level <= device::isa()) levels.push_back(level);
  }
  return levels;
}

// By every expression and instruction set.
void expect_equal(std::string_view text) {
  for (const PreTokenizer kind : {PreTokenizer::gpt2, PreTokenizer::llama3, PreTokenizer::qwen2, PreTokenizer::whole}) {
    const std::vector<size_t> expected = ends_one_by_one(kind, text);
    for (const device::Isa isa : instruction_sets())
      ASSERT_EQ(ends_by_scanner(kind, text, isa), expected)
          << device::name_of(isa) << ", expression " << static_cast<int>(kind) << ": " << testing::PrintToString(text);
  }
}

TEST(PieceScanner, EqualsTheScannerOfOnePieceAtEveryAlignmentAndLength) {
  std::mt19937 random(1);
  for (size_t length = 0; length <= 200; ++length) {
    for (size_t alignment = 0; alignment < 64; ++alignment) {
      // No byte lies behind it: a sanitizer sees who reads there.
      const auto memory = std::make_unique<char[]>(alignment + length);
      const std::string text = any_text(random, length);
      std::memcpy(memory.get() + alignment, text.data(), length);
      ASSERT_NO_FATAL_FAILURE(expect_equal({memory.get() + alignment, length}));
    }
  }
}

TEST(PieceScanner, RefusesAPieceThatIsTooLongWhereverItStands) {
  constexpr size_t kLongest = 1000;
  for (const PreTokenizer kind : {PreTokenizer::gpt2, PreTokenizer::llama3, PreTokenizer::qwen2}) {
    for (const device::Isa isa : instruction_sets()) {
      for (const size_t before : {0U, 1U, 130U, 5000U}) {
        std::string text;
        while (text.size() < before) text += "a b\n";
        // As much as is surely accepted, and refused.
        const std::string good = text + std::string(kLongest - 128, 'x') + " y",
                          bad = text + std::string(1200, 'x') + " y";
        EXPECT_EQ(ends_of(PieceScanner(kind, good, isa, kLongest)), ends_one_by_one(kind, good));
        EXPECT_ERROR("a word of more than 1000 bytes", ends_of(PieceScanner(kind, bad, isa, kLongest)));
      }
    }
  }
  EXPECT_ERROR("a word of more than 1000 bytes",
               ends_of(PieceScanner(PreTokenizer::whole, std::string(1001, ' '), device::isa(), kLongest)));
}

TEST(PieceScanner, EqualsItWhereBlocksMeet) {
  // All short strings of what is told apart, across the edge of a block, after each kind of character.
  const std::vector<std::string_view> parts = {"s", "r", "e",      "1",      " ",  "\n",
                                               "'", ".", "\u00a0", "\u3000", "漢", "\xE6"};
  ManyCases cases(7);
  for (const std::string_view before : {"x", "3", ".", "\n", " "}) {
    for (size_t places = 58; places <= 64; ++places) {
      std::string text;
      for (size_t code = 0; code < parts.size() * parts.size() * parts.size() * parts.size(); ++code) {
        if (cases.skips()) continue;
        text.clear();
        while (text.size() < places) text += before;
        for (size_t rest = code, i = 0; i < 4; ++i, rest /= parts.size()) text += parts[rest % parts.size()];
        // The edge of the text's last two blocks, or of two before them.
        text.append((code + places) % 2 * 130, 'x');
        const std::vector<size_t> expected = ends_one_by_one(PreTokenizer::gpt2, text);
        for (const device::Isa isa : instruction_sets())
          ASSERT_EQ(ends_by_scanner(PreTokenizer::gpt2, text, isa), expected)
              << device::name_of(isa) << ": " << testing::PrintToString(text);
      }
    }
  }
}

TEST(PieceScanner, EqualsItOnEveryCharacter) {
  std::mt19937 random(2);
  std::string text;
  for (uint32_t code = 0; code < 0x110000; ++code) {
    if (code >= 0xD800 && code < 0xE000) continue;
    append_utf8(code, text);
    text += test::kTextParts[random() % test::kTextParts.size()];
  }
  for (const PreTokenizer kind : {PreTokenizer::gpt2, PreTokenizer::llama3, PreTokenizer::qwen2}) {
    const std::vector<size_t> expected = ends_one_by_one(kind, text);
    for (const device::Isa isa : instruction_sets()) {
      EXPECT_TRUE(ends_by_scanner(kind, text, isa) == expected)
          << device::name_of(isa) << ", expression " << static_cast<int>(kind);
    }
  }
}

TEST(PieceScanner, EqualsItOnEveryTwoBytesThatBeginACharacter) {
  // And any third: also what is no character, and in texts of many scripts.
  std::mt19937 random(9);
  std::string text;
  for (unsigned first = 0xC0; first < 0x100; ++first) {
    for (unsigned second = 0; second < 0x100; ++second) {
      text +=
          {static_cast<char>(first), static_cast<char>(second), static_cast<char>(random() % 2 * 0x80 | random() % 64)};
      text += test::kTextParts[random() % test::kTextParts.size()];
    }
  }
  ASSERT_NO_FATAL_FAILURE(expect_equal(text));
}

TEST(PieceScanner, EqualsItOnLongTextsAndLongRuns) {
  std::mt19937 random(3);
  for (int i = 0; i < 20; ++i) ASSERT_NO_FATAL_FAILURE(expect_equal(any_text(random, 30000)));
  for (const std::string_view part : {"a", " ", "\n", "1", "'", "'s", "漢", "\u3000", "\xFF", ". "}) {
    std::string text;
    for (int i = 0; i < 3000; ++i) text += part;
    ASSERT_NO_FATAL_FAILURE(expect_equal(text));
    ASSERT_NO_FATAL_FAILURE(expect_equal(text + "x"));
  }
}

TEST(PieceScanner, EqualsItOnRunsThatGoOverBlocks) {
  // Few kinds of characters at a time, so that runs of each have every length up to some blocks: lines of white space,
  // numbers in threes, contractions, what stands before letters.
  const std::vector<std::vector<std::string_view>> alphabets = {
      {" ", "\n", "x"},
      {" ", "\t", "\r\n", "\r", "."},
      {" ", "\n", "\u3000", "\u00a0", "\u2028", ".", "。"},
      {"1", "2", "a", " ", "\n"},
      {"1", "²", "٣", "𝟙", "x"},
      {"'", "s", "L", "l", "V", "e", "ſ", " "},
      {".", "“", "😀", "\xFF", "\xE6", "a", "é", "漢", "е\u0301"},
      {" ", ".", "\n", "。", "1"},
  };
  std::mt19937 random(5);
  const ManyCases cases(4);
  for (const std::vector<std::string_view>& alphabet : alphabets) {
    for (int i = 0; i < cases.share(300); ++i) {
      const size_t length = random() % 300, stays = random() % 32;
      std::string text;
      for (std::string_view part = alphabet[0]; text.size() < length; text += part) {
        if (random() % 32 >= stays) part = alphabet[random() % alphabet.size()];
      }
      ASSERT_NO_FATAL_FAILURE(expect_equal(text));
    }
  }
}

TEST(PieceScanner, EqualsItOnARunFromOneBlockToAnother) {
  ManyCases cases(5);
  for (const std::string_view before : {"\n", ".\n", "\n\n", ".\r\n", " \n", "。\n", " .", "a", "2"}) {
    for (const char of : {' ', '1', '.'}) {
      for (const std::string_view behind : {"", "x", "\n", ".", "1", "\u3000x"}) {
        for (const size_t length : {1, 2, 3, 60, 61, 62, 63, 64, 65, 66, 67, 127, 128, 129}) {
          for (size_t place = 58; place <= 66; ++place) {
            if (cases.skips()) continue;
            std::string text(place, 'x');
            text.append(before).append(length, of).append(behind);
            ASSERT_NO_FATAL_FAILURE(expect_equal(text));
          }
        }
      }
    }
  }
}

TEST(Cut, BothPartsHaveThePiecesOfTheWhole) {
  std::mt19937 random(4);
  size_t cuts = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string text = any_text(random, 60);
    // Random text has few such places.
    text.insert(random() % text.size(), std::array{"on the", "é\né", "é é", "字。"}[i % 4]);
    for (size_t cut = next_cut(text, 0); cut < text.size(); cut = next_cut(text, cut + 1)) {
      ++cuts;
      for (const PreTokenizer kind : {PreTokenizer::gpt2, PreTokenizer::llama3, PreTokenizer::qwen2}) {
        std::vector<size_t> parts = ends_one_by_one(kind, text.substr(0, cut));
        for (const size_t end : ends_one_by_one(kind, text.substr(cut))) parts.push_back(cut + end);
        ASSERT_EQ(parts, ends_one_by_one(kind, text)) << testing::PrintToString(text) << " at " << cut;
      }
    }
  }
  EXPECT_GT(cuts, 2000U);
}

TEST(Cut, IsTheFirstFromThere) {
  EXPECT_EQ(next_cut("one two three", 0), 3U);
  EXPECT_EQ(next_cut("one two three", 4), 7U);
  EXPECT_EQ(next_cut("one two three", 8), 13U);
  EXPECT_EQ(next_cut("1.\n2.\n", 0), 3U);
  EXPECT_EQ(next_cut("a \nb  c\n\nd", 0), 10U);
  EXPECT_EQ(next_cut("", 0), 0U);
  EXPECT_EQ(next_cut("слово и", 0), 10U);
  EXPECT_EQ(next_cut("\x80 a\x80 b", 0), 6U) << "bytes that are no text";
  EXPECT_EQ(next_cut("漢字。漢、", 0), 6U);
  EXPECT_EQ(next_cut("漢字。漢、", 7), 12U);
}

}  // namespace
}  // namespace ridgeline::data

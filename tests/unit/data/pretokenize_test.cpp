#include "ridgeline/data/pretokenize.h"

#include <gmock/gmock.h>

#include "support.h"

namespace ridgeline::data {
namespace {

using testing::ElementsAre;

std::vector<std::string> pieces(std::string_view text, PreTokenizer kind = PreTokenizer::gpt2) {
  std::vector<std::string> result;
  for_each_piece(kind, text, [&](std::string_view piece) { result.emplace_back(piece); });
  return result;
}

TEST(Gpt2Pieces, SpacesBelongToTheWordAfterThem) {
  EXPECT_THAT(pieces("a  b"), ElementsAre("a", " ", " b"));
  EXPECT_THAT(pieces("a\n b"), ElementsAre("a", "\n", " b"));
  EXPECT_THAT(pieces("a \nb"), ElementsAre("a", " ", "\n", "b"));
  EXPECT_THAT(pieces("a\u00a0b"), ElementsAre("a", "\u00a0", "b"));
  EXPECT_THAT(pieces("a   "), ElementsAre("a", "   "));
  EXPECT_THAT(pieces(" "), ElementsAre(" "));
  EXPECT_THAT(pieces("\n\n x"), ElementsAre("\n\n", " x"));
}

TEST(Gpt2Pieces, ContractionsOnlyStartAtTheApostrophe) {
  EXPECT_THAT(pieces("I'll've"), ElementsAre("I", "'ll", "'ve"));
  EXPECT_THAT(pieces("!'s"), ElementsAre("!'", "s"));
  EXPECT_THAT(pieces("'S"), ElementsAre("'", "S"));
  EXPECT_THAT(pieces("it’s"), ElementsAre("it", "’", "s"));
  EXPECT_THAT(pieces(" 's"), ElementsAre(" '", "s"));
  EXPECT_THAT(pieces("'r"), ElementsAre("'", "r"));
}

TEST(Gpt2Pieces, RunsOfOneClass) {
  EXPECT_THAT(pieces("abc123...é漢 ٣x"), ElementsAre("abc", "123", "...", "é漢", " ٣", "x"));
  EXPECT_THAT(pieces("e\u0301"), ElementsAre("e", "\u0301"));
  EXPECT_THAT(pieces("a\xFF\xC3 \xE6\xBC"), ElementsAre("a", "\xFF\xC3", " \xE6\xBC"));
}

TEST(Llama3Pieces, DigitsInThreesLinesAndCase) {
  const auto llama = [](std::string_view text) { return pieces(text, PreTokenizer::llama3); };
  EXPECT_THAT(llama("12345 I'LL!\n\n x"), ElementsAre("123", "45", " I", "'LL", "!\n\n", " x"));
  EXPECT_THAT(llama("\thello\r\n  \n  y"), ElementsAre("\thello", "\r\n  \n", " ", " y"));
  EXPECT_THAT(llama(" 12"), ElementsAre(" ", "12"));
  EXPECT_THAT(llama("'ſa"), ElementsAre("'ſ", "a"));
  EXPECT_THAT(pieces("12 3", PreTokenizer::qwen2), ElementsAre("1", "2", " ", "3"));
}

TEST(Pieces, CoverEveryTextWithoutOverlap) {
  std::string text;
  for (uint32_t i = 0; i < 5000; ++i) text.push_back(static_cast<char>(i * 2654435761U >> 24));
  for (const PreTokenizer kind : {PreTokenizer::gpt2, PreTokenizer::llama3, PreTokenizer::qwen2, PreTokenizer::whole}) {
    std::string joined;
    for (const std::string& piece : pieces(text, kind)) {
      EXPECT_FALSE(piece.empty());
      joined += piece;
    }
    EXPECT_EQ(joined, text);
  }
}

}  // namespace
}  // namespace ridgeline::data

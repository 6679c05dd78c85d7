// Added tokens, NFC, prefix spaces, odd vocabularies: ids as Hugging Face tokenizers gives them.
#include <gmock/gmock.h>

#include <random>
#include <sstream>

#include "ridgeline/data/bpe_model.h"
#include "ridgeline/data/normalize.h"
#include "ridgeline/data/tokenizer.h"
#include "support.h"

namespace ridgeline::data {
namespace {

using nlohmann::json;
using test::fixture;
using test::json_fixture;
using test::TemporaryFolder;
using testing::ElementsAre;

std::vector<std::string> merges_of(const char* folder) {
  std::istringstream lines(read_text(fixture(folder) / "merges.txt"));
  std::vector<std::string> merges;
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("#version")) merges.push_back(line);
  }
  return merges;
}

// "small", "gpt2" or "gpt_neox" of added_token_cases.json, as its maker composes them.
json base(const std::string& name) {
  const bool neox = name == "gpt_neox";
  std::vector<std::string> merges = merges_of(neox ? "gpt_neox_tokenizer" : "gpt2_tokenizer");
  if (name == "small") merges.resize(400);
  json vocabulary = json::object();
  const auto add = [&](const std::string& token) {
    if (!vocabulary.contains(token)) vocabulary[token] = vocabulary.size();
  };
  if (neox) {
    add("<|endoftext|>");
    add("<|unk|>");
  }
  for (const uint8_t byte : bytes_in_printable_order()) {
    const bool in_utf8 = byte != 0xC0 && byte != 0xC1 && byte < 0xF5;
    if (in_utf8 || !neox) add(to_printable(std::string(1, static_cast<char>(byte))));
  }
  for (std::string merge : merges) add(merge.erase(merge.find(' '), 1));
  if (name == "gpt2") add("<|endoftext|>");
  return {{"added_tokens", json::array()},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", merges}}}};
}

json golden(const std::string& name) {
  static const json cases = json_fixture("data/added_token_cases.json");
  for (const json& row : cases["tokenizers"]) {
    if (row["name"] != name) continue;
    json document = base(row["base"]);
    document.merge_patch(row["patch"]);
    return document;
  }
  ADD_FAILURE() << "no tokenizer " << name;
  return {};
}

Tokenizer load(const json& document) {
  return Tokenizer::from_json(document.dump(), "test");
}

class AddedTokens : public testing::TestWithParam<const char*> {};

TEST_P(AddedTokens, IdsEqualHuggingFace) {
  const json cases = json_fixture("data/added_token_cases.json");
  const Tokenizer tokenizer = load(golden(GetParam()));
  Encoder warm(tokenizer);
  size_t compared = 0, special = 0;
  for (const json& row : cases["tokenizers"]) {
    if (row["name"] != GetParam()) continue;
    for (size_t i = 0; i < cases["texts"].size(); ++i) {
      const auto text = cases["texts"][i].get<std::string>();
      const auto expected = row["as_text"][i].get<std::vector<int32_t>>();
      EXPECT_EQ(tokenizer.encode(text), expected) << json(text);
      const auto recognised = row["recognise"].find(std::to_string(i));
      const auto with_specials =
          recognised == row["recognise"].end() ? expected : recognised->get<std::vector<int32_t>>();
      EXPECT_EQ(tokenizer.encode(text, Specials::recognise), with_specials) << json(text);
      std::vector<int32_t> ids;
      warm.encode(text, ids);
      EXPECT_EQ(ids, expected) << json(text);
      ++compared;
      special += recognised == row["recognise"].end() ? 0 : 1;
    }
  }
  EXPECT_GT(compared, 200U);
  EXPECT_GT(special, 0U);
}

TEST_P(AddedTokens, MayBeCutWhereNextCutSays) {
  const json document = golden(GetParam());
  const Tokenizer tokenizer = load(document);
  std::vector<std::string> parts = {"word", " ", "\n", "été", "e\u0301", "x ", " y", "3", "漢字。", "."};
  for (const json& token : document["added_tokens"]) parts.push_back(token["content"]);
  std::mt19937 random(9);
  Encoder encoder(tokenizer);
  size_t cuts = 0;
  for (int i = 0; i < 200; ++i) {
    std::string text;
    for (int k = 0; k < 30; ++k) text += parts[random() % parts.size()];
    for (const Specials specials : {Specials::as_text, Specials::recognise}) {
      std::vector<int32_t> ids;
      for (size_t begin = 0, end = 0; begin < text.size(); begin = end) {
        end = tokenizer.next_cut(text, begin + 1, specials);
        encoder.encode(std::string_view(text).substr(begin, end - begin), ids, specials);
        ++cuts;
      }
      ASSERT_EQ(ids, tokenizer.encode(text, specials)) << json(text);
    }
  }
  EXPECT_GT(cuts, GetParam() == std::string("codegen") ? 500U : 399U) << "hardly any place to cut";
}

INSTANTIATE_TEST_SUITE_P(Golden, AddedTokens,
                         testing::Values("gpt_neox", "olmo", "codegen", "prefix_space", "strips", "overlaps", "nfc",
                                         "nfc_prefix_space", "literal_space"),
                         [](const auto& test) { return std::string(test.param); });

TEST(AddedTokens, WhatTheyAskForIsWrittenBackAndInTheHash) {
  const std::string plain = load(golden("overlaps")).hash();
  json changed = golden("overlaps");
  changed["added_tokens"][1]["special"] = true;
  EXPECT_NE(load(changed).hash(), plain);
  changed = golden("overlaps");
  changed["normalizer"] = {{"type", "NFC"}};
  EXPECT_NE(load(changed).hash(), plain);
  changed = golden("overlaps");
  changed["pre_tokenizer"]["add_prefix_space"] = true;
  EXPECT_NE(load(changed).hash(), plain);
  // vocab.json and merges.txt say less: what is special comes from elsewhere, everything else is made.
  const TemporaryFolder folder;
  const json spaces = golden("literal_space")["model"];
  folder.write("vocab.json", spaces["vocab"].dump());
  std::string merges;
  for (const json& merge : spaces["merges"]) merges += merge.get<std::string>() + "\n";
  folder.write("merges.txt", merges);
  folder.write("added_tokens.json", R"({"<|endoftext|>": 659, "    ": 660, "<|im_end|>": 661})");
  folder.write(
      "tokenizer_config.json",
      R"({"eos_token": "<|im_end|>", "add_bos_token": true, "bos_token": "<|endoftext|>", "add_prefix_space": true,
                   "added_tokens_decoder": {"660": {"content": "    ", "special": false},
                                            "662": {"content": "[x]", "special": false, "rstrip": true}}})");
  const Tokenizer tokenizer = Tokenizer::load(folder / "");
  EXPECT_EQ(tokenizer.vocab_size(), 663);
  EXPECT_EQ(tokenizer.end_of_document(), 661);
  EXPECT_THAT(tokenizer.encode("    [x]  "), ElementsAre(660, 662));
  EXPECT_THAT(tokenizer.encode_prompt(""), ElementsAre(659));
  EXPECT_EQ(tokenizer.encode("a"), tokenizer.encode(" a"));
  const Tokenizer again = Tokenizer::from_json(tokenizer.to_json(), "again");
  EXPECT_EQ(again.hash(), tokenizer.hash());
  EXPECT_EQ(again.encode_prompt("<|im_end|>    [x] b"), tokenizer.encode_prompt("<|im_end|>    [x] b"));
}

// As GPT-NeoX's 24 spaces: the vocabulary has a token of these bytes, too, which is spelled otherwise.
TEST(AddedTokens, WhiteSpaceIsNoNameOfAnEntryOfTheVocabulary) {
  const TemporaryFolder folder;
  for (const char* name : {"vocab.json", "merges.txt"}) {
    std::filesystem::copy(std::filesystem::path(fixture("gpt2_tokenizer")) / name, folder / name);
  }
  EXPECT_THAT(Tokenizer::load(folder / "").encode("\n\n"), ElementsAre(628));
  folder.write("tokenizer_config.json",
               R"({"added_tokens_decoder": {"50257": {"content": "\n\n", "special": false}}})");
  const Tokenizer tokenizer = Tokenizer::load(folder / "");
  EXPECT_THAT(tokenizer.encode("\n\n"), ElementsAre(50257));
  EXPECT_EQ(Tokenizer::from_json(tokenizer.to_json(), "again").hash(), tokenizer.hash());
}

TEST(AddedTokens, TextOfNonSpecialOnesCounts) {
  const Tokenizer codegen = load(golden("codegen"));
  EXPECT_TRUE(codegen.is_special(50256));
  EXPECT_FALSE(codegen.is_special(50257));
  EXPECT_EQ(codegen.decode(codegen.encode("a\n        b")), "a\n        b");
}

TEST(Vocabulary, MayLackBytesThatUtf8NeverUses) {
  const Tokenizer neox = load(golden("gpt_neox"));
  const std::string replacement(neox.decode(neox.encode("\uFFFD")));
  EXPECT_EQ(replacement, "\uFFFD");
  EXPECT_EQ(neox.decode(neox.encode("a\xC0z\xFF")), "a\uFFFDz\uFFFD");
  // Other bytes that are no UTF-8 come back, as everywhere.
  EXPECT_EQ(neox.decode(neox.encode("a\x80\xE2\x82z")), "a\x80\xE2\x82z");
  json lacking = golden("gpt_neox");
  lacking["model"]["vocab"].erase("A");
  lacking["model"]["merges"] = json::array();
  EXPECT_ERROR("no token for the single byte 0x41", load(lacking));
}

TEST(Vocabulary, ASpaceThatStandsForItselfIsNotTheByte) {
  const Tokenizer tokenizer = load(golden("literal_space"));
  const std::vector<int32_t> ids = tokenizer.encode("a  b");
  EXPECT_THAT(ids, testing::Not(testing::Contains(656)));
  EXPECT_EQ(tokenizer.decode(ids), "a  b");
  EXPECT_EQ(tokenizer.token_bytes(656), " ");
  EXPECT_EQ(tokenizer.token_bytes(658), "\u0120\u6f22");
}

TEST(Nfc, TextThatIsNormalIsNotCopied) {
  std::string buffer;
  for (const std::string text :
       {"plain", "\u00e9t\u00e9 na\u00efve", "\u6f22\u5b57 \ud55c\uad6d \U0001f600", "e\u0315\u0345", ""}) {
    EXPECT_EQ(to_nfc(text, buffer).data(), text.data()) << text;
  }
  EXPECT_EQ(to_nfc("e\u0301"), "\u00e9");
  EXPECT_EQ(to_nfc("\u1112\u1161\u11ab"), "\ud55c");
}

TEST(Nfc, BytesThatAreNoTextStay) {
  EXPECT_EQ(to_nfc("e\xFF\u0301 e\u0301\xE2\x82"), "e\xFF\u0301 \u00e9\xE2\x82");
  EXPECT_EQ(to_nfc("\x80\x80"), "\x80\x80");
}

TEST(Nfc, CharactersOfLaterUnicodeVersionsStay) {
  // U+07FD (Unicode 11) has combining class 220, U+0334 has 1: a library of today would exchange them.
  EXPECT_EQ(to_nfc("a\u07fd\u0334"), "a\u07fd\u0334");
  // The same with a mark that Unicode 9 knew.
  EXPECT_EQ(to_nfc("a\u0316\u0334"), "a\u0334\u0316");
}

TEST(Nfkc, CompatibleCharactersBecomeOne) {
  std::string buffer;
  EXPECT_EQ(to_nfkc("\uff21\uff11 \ufb01 \u33ff\u00b2\u00a0\uff76\uff9e e\u0301", buffer), "A1 fi gal2 \u30ac \u00e9");
  for (const std::string text : {"plain", "\u00e9t\u00e9", "\u6f22\u5b57 \ud55c\uad6d", ""})
    EXPECT_EQ(to_nfkc(text, buffer).data(), text.data()) << text;
  EXPECT_EQ(to_nfkc("\xFF\uff21\xE2\x82", buffer),
            "\xFF"
            "A\xE2\x82");
  // U+32FF is a square of two characters, of Unicode 12.1: left alone.
  EXPECT_EQ(to_nfkc("\u32ff\u32fe", buffer), "\u32ff\u30f2");
}

}  // namespace
}  // namespace ridgeline::data

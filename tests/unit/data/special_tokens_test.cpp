// Which ids mean what, and the files that say so.
#include <gmock/gmock.h>

#include "ridgeline/data/tokenizer.h"
#include "support.h"

namespace ridgeline::data {
namespace {

using nlohmann::json;
using test::fixture;
using test::json_fixture;
using test::TemporaryFolder;
using testing::ElementsAre;

// Llama 3's shape: 700 is <|begin_of_text|>, 701 <|end_of_text|>.
class SpecialTokensTest : public testing::Test {
 protected:
  SpecialTokensTest() { put("tokenizer.json", json_fixture("data/llama3_style/tokenizer.json")); }
  void put(const std::string& name, const json& content) { files_.set(name, content.dump()); }
  Tokenizer load() const { return Tokenizer::from_files(files_, "folder"); }
  void add_tokens() {
    json tokenizer = json_fixture("data/llama3_style/tokenizer.json");
    for (const char* name : {"<|eot_id|>", "<|pad|>"}) {
      json token = tokenizer["added_tokens"][0];
      token["content"] = name;
      token["id"] = 700 + static_cast<int>(tokenizer["added_tokens"].size());
      tokenizer["added_tokens"].push_back(token);
    }
    tokenizer["post_processor"] = {
        {"type", "Sequence"},
        {"processors",
         {{{"type", "ByteLevel"}},
          {{"type", "TemplateProcessing"},
           {"single",
            {{{"SpecialToken", {{"id", "<|begin_of_text|>"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}}}}}}}}}};
    put("tokenizer.json", tokenizer);
  }
  TokenizerFiles files_;
};

TEST_F(SpecialTokensTest, EachRoleHasItsOwnId) {
  add_tokens();
  put("tokenizer_config.json",
      {{"eos_token", "<|eot_id|>"}, {"bos_token", {{"content", "<|begin_of_text|>"}}}, {"pad_token", "<|pad|>"}});
  put("generation_config.json", {{"eos_token_id", {701, 702}}, {"temperature", 0.6}});
  const SpecialTokens special = load().special();
  EXPECT_EQ(special.end_of_document, 702);
  EXPECT_EQ(special.bos, 700);
  EXPECT_EQ(special.pad, 703);
  EXPECT_THAT(special.stop, ElementsAre(701, 702));
  EXPECT_THAT(special.before_text, ElementsAre(700));
}

TEST_F(SpecialTokensTest, APromptBeginsAsTheFilesSay) {
  EXPECT_EQ(load().encode_prompt("a b"), load().encode("a b"));
  add_tokens();
  std::vector<int32_t> expected{700};
  for (const int32_t id : load().encode("a b")) expected.push_back(id);
  EXPECT_EQ(load().encode_prompt("a b"), expected);
  EXPECT_EQ(load().encode_prompt("<|begin_of_text|>a b"), expected) << "one that is there already is not doubled";
  EXPECT_THAT(load().encode_prompt(""), ElementsAre(700));
}

TEST_F(SpecialTokensTest, ATokenThatTheTokenizerLacksIsAnError) {
  put("tokenizer_config.json", {{"eos_token", "<|end_of_txt|>"}});
  EXPECT_ERROR("folder/tokenizer_config.json: the eos_token '<|end_of_txt|>' is not in the tokenizer", load());
  EXPECT_ERROR("Did you mean '<|end_of_text|>'?", load());
  put("tokenizer_config.json", {{"bos_token", "<s>"}});
  EXPECT_ERROR("the bos_token '<s>' is not in the tokenizer", load());
  put("tokenizer_config.json", json::object());
  put("special_tokens_map.json", {{"eos_token", "<|im_end|>"}});
  EXPECT_ERROR("folder/special_tokens_map.json: the eos_token", load());
  // Of padding no model ever sees anything.
  put("special_tokens_map.json", {{"pad_token", "[PAD]"}});
  EXPECT_EQ(load().special().pad, std::nullopt);
}

TEST_F(SpecialTokensTest, TheOlderFileYieldsToACompleteConfiguration) {
  add_tokens();
  put("special_tokens_map.json", {{"eos_token", "<|end_of_text|>"}});
  put("tokenizer_config.json", {{"eos_token", "<|eot_id|>"}});
  EXPECT_EQ(load().end_of_document(), 701);
  put("tokenizer_config.json", {{"eos_token", "<|eot_id|>"}, {"added_tokens_decoder", json::object()}});
  EXPECT_EQ(load().end_of_document(), 702);
}

TEST_F(SpecialTokensTest, WhatIsNamedSpecialIsSpecial) {
  json tokenizer = json_fixture("data/llama3_style/tokenizer.json");
  tokenizer["added_tokens"][0]["special"] = false;
  put("tokenizer.json", tokenizer);
  EXPECT_THAT(load().encode("<|begin_of_text|>"), ElementsAre(700));
  put("tokenizer_config.json", {{"additional_special_tokens", {"<|begin_of_text|>"}}});
  EXPECT_GT(load().encode("<|begin_of_text|>").size(), 1U);
  EXPECT_THAT(load().encode("<|begin_of_text|>", Specials::recognise), ElementsAre(700));
}

TEST_F(SpecialTokensTest, DamagedFilesAreNamed) {
  files_.set("generation_config.json", "{");
  EXPECT_ERROR("folder/generation_config.json: not valid JSON", load());
  put("generation_config.json", {{"eos_token_id", "x"}});
  EXPECT_ERROR("folder/generation_config.json: the id of 'eos_token_id'", load());
}

TEST(TokenizerFiles, AreReadAndWrittenByteForByte) {
  const TemporaryFolder folder;
  std::filesystem::copy(fixture("data/llama3_style/tokenizer.json"), folder / "tokenizer.json");
  folder.write("tokenizer_config.json", "{\"eos_token\":   \"<|end_of_text|>\"}\n\n");
  folder.write("chat_template.jinja", "{{ bos_token }}\xFF");
  folder.write("generation_config.json", "{\"eos_token_id\": [701]}");
  folder.write("config.json", "{}");
  folder.write("model.safetensors", "x");
  const TokenizerFiles files = TokenizerFiles::read(folder / "");
  EXPECT_EQ(files.all().size(), 4U);
  EXPECT_EQ(files.vocabulary_file(), "tokenizer.json");
  Tokenizer::load(folder / "").save(folder / "copy");
  for (const auto& [name, bytes] : files.all()) EXPECT_EQ(read_text(folder / ("copy/" + name)), bytes) << name;
  EXPECT_TRUE(TokenizerFiles::read(folder / "missing").empty());
}

TEST(TokenizerFiles, OfAnotherTokenizerAreInTheWay) {
  const TemporaryFolder folder;
  folder.write("chat_template.jinja", "of another");
  EXPECT_ERROR("chat_template.jinja' belongs to another tokenizer",
               Tokenizer::load(fixture("gpt2_tokenizer")).save(folder / ""));
  EXPECT_EQ(folder.files(), 1U);
}

TEST(TokenizerFiles, AKindThatIsNotReadIsNamedAndStillCarried) {
  const TemporaryFolder folder;
  folder.write("spiece.model", std::string("\x0A\x00\xFF", 3));
  const TokenizerFiles files = TokenizerFiles::read(folder / "");
  EXPECT_FALSE(files.empty());
  EXPECT_THROW(Tokenizer::from_files(files, "folder"), UnsupportedTokenizer);
  EXPECT_ERROR("spiece.model", Tokenizer::from_files(files, "folder"));
}

}  // namespace
}  // namespace ridgeline::data

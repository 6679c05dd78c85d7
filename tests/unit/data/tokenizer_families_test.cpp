// Tokenizers of every family, with what their files ask for: ids and texts as Hugging Face tokenizers and SentencePiece
// give them, or a refusal that names the feature; and the table of docs/tokenizers.md that says which.
#include <gmock/gmock.h>

#include <set>

#include "any_text.h"
#include "ridgeline/data/bpe_model.h"
#include "ridgeline/data/tokenizer.h"
#include "ridgeline/data/tokenizer_json.h"
#include "ridgeline/data/unicode.h"
#include "support.h"

namespace ridgeline::data {
namespace {

using nlohmann::json;
using test::fixture;
using test::TemporaryFolder;

const json& families() {
  static const json cases = test::json_fixture("tokenizers/families.json");
  return cases;
}

Tokenizer family(const json& row) {
  json document = families()["bases"][row["base"].get<std::string>()];
  document.merge_patch(row["patch"]);
  return Tokenizer::from_json(document.dump(), "test");
}

const json& row_named(const char* list, const std::string& name) {
  for (const json& row : families()[list]) {
    if (row["name"] == name) return row;
  }
  throw std::runtime_error("no tokenizer " + name);
}

Tokenizer family_named(const std::string& name) {
  return family(row_named("tokenizers", name));
}

std::vector<int32_t> ids_at(const json& row, const char* list, size_t text) {
  const json& all = row[list];
  if (all.is_array()) return all[text].get<std::vector<int32_t>>();
  const auto found = all.find(std::to_string(text));
  return (found == all.end() ? row["as_text"][text] : *found).get<std::vector<int32_t>>();
}

// Compares ids and texts of a row; returns how many texts there were.
size_t expect_golden(const Tokenizer& tokenizer, const json& row) {
  const json& texts = families()["texts"];
  Encoder warm(tokenizer);
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto text = texts[i].get<std::string>();
    const std::vector<int32_t> expected = ids_at(row, "as_text", i);
    EXPECT_EQ(tokenizer.encode(text), expected) << row["name"] << " " << texts[i];
    std::vector<int32_t> ids;
    warm.encode(text, ids);
    EXPECT_EQ(ids, expected) << row["name"] << " " << texts[i];
    const std::vector<int32_t> recognised = row.contains("recognise") ? ids_at(row, "recognise", i) : expected;
    if (row.contains("recognise")) {
      EXPECT_EQ(tokenizer.encode(text, Specials::recognise), recognised) << row["name"] << " " << texts[i];
    }
    const auto other = row["decoded"].find(std::to_string(i));
    const std::string decoded = other == row["decoded"].end() ? text : other->get<std::string>();
    EXPECT_EQ(tokenizer.decode(recognised), decoded) << row["name"] << " " << texts[i];
  }
  return texts.size();
}

TEST(TokenizerFamilies, IdsAndTextsEqualHuggingFace) {
  size_t compared = 0;
  for (const json& row : families()["tokenizers"]) compared += expect_golden(family(row), row);
  EXPECT_GT(compared, 1500U);
}

TEST(TokenizerFamilies, WhatIsNotDoneExactlyIsRefusedByName) {
  for (const json& row : families()["refused"]) {
    EXPECT_ERROR(row["feature"].get<std::string>(), family(row));
    EXPECT_THROW(family(row), UnsupportedTokenizer) << row["name"];
  }
}

TEST(TokenizerFamilies, TheTableOfTheDocumentationSaysWhatIsTrue) {
  const std::string page = read_text(fixture("../../docs/tokenizers.md"));
  const auto rows = [&](std::string_view what) {
    size_t count = 0;
    for (size_t at = page.find(what); at != std::string::npos; at = page.find(what, at + 1)) ++count;
    return count;
  };
  for (const char* list : {"tokenizers", "models"}) {
    for (const json& row : families()[list]) {
      EXPECT_EQ(rows("| `" + row["name"].get<std::string>() + "` | works exactly |"), 1U) << row["name"];
    }
  }
  for (const json& row : families()["refused"]) {
    EXPECT_EQ(rows("| " + row["name"].get<std::string>() + " | refused: "), 1U) << row["name"];
  }
  EXPECT_EQ(rows("| works exactly |"), families()["tokenizers"].size() + families()["models"].size());
}

TEST(TokenizerFamilies, BytesThatAreNoTextComeBack) {
  std::mt19937 random(9);
  for (const char* name : {"llama3", "starcoder", "olmo2", "gpt4o", "deepseek", "bloom", "behaviors", "gemma"}) {
    const Tokenizer tokenizer = family_named(name);
    for (int i = 0; i < 60; ++i) {
      const std::string text = test::any_text(random, 300);
      ASSERT_EQ(tokenizer.decode(tokenizer.encode(text)), text) << name;
    }
  }
  const Tokenizer llama = family_named("llama2");
  EXPECT_EQ(llama.decode(llama.encode("a\xFF\xE6\xBC z")), "a\xFF\xE6\xBC z");
  // Without tokens for bytes they are unknown characters.
  const Tokenizer unknown = family_named("unknown");
  EXPECT_EQ(unknown.encode("a\xFF\xFE"), unknown.encode("a\uFFFD\uFFFD"));
}

TEST(TokenizerFamilies, AnEncoderThatRemembersGivesTheSameIdsInLongTexts) {
  std::mt19937 random(10);
  for (const json& row : families()["tokenizers"]) {
    const Tokenizer tokenizer = family(row);
    Encoder warm(tokenizer);
    for (int i = 0; i < 8; ++i) {
      std::string text;
      append_as_utf8(test::any_text(random, 1500), text);
      std::vector<int32_t> ids;
      warm.encode(text, ids);
      ASSERT_EQ(ids, tokenizer.encode(text)) << row["name"];
    }
  }
}

// All of a text at once, merge by merge, as the definition says.
std::vector<int32_t> merged_ids(const BpeModel& model, std::string_view text) {
  std::vector<int32_t> ids(text.size());
  ids.resize(model.first_ids(text, ids.data()));
  test::merge_all(model, ids);
  return ids;
}

TEST(TokenizerFamilies, PartsOfATextAreMergedAsTheWholeWouldBe) {
  std::mt19937 random(11);
  std::vector<TokenizerFiles> all(3);
  all[0].set("tokenizer.json", family_named("llama2").to_json());
  all[1].set("tokenizer.json", family_named("unknown").to_json());
  all[2].set("tokenizer.model", read_text(fixture("tokenizers/rules.model")));
  for (const TokenizerFiles& files : all) {
    const BpeModel model = read_bpe_model(files, "test");
    const Tokenizer tokenizer = Tokenizer::from_files(files, "test");
    for (int i = 0; i < 150; ++i) {
      std::string text, buffer;
      append_as_utf8(test::any_text(random, static_cast<size_t>(i) * 3), text);
      if (!model.normalized_tokens.empty(Specials::as_text)) text.erase(std::min(text.find('['), text.size()));
      ASSERT_EQ(tokenizer.encode(text), merged_ids(model, model.normalizer.apply(text, buffer)))
          << testing::PrintToString(text);
    }
  }
}

TEST(TokenizerFamilies, SpecialTokensAndPrompts) {
  const Tokenizer llama = family_named("llama2");
  EXPECT_EQ(llama.end_of_document(), 2);
  EXPECT_THAT(llama.special().before_text, testing::ElementsAre(1));
  EXPECT_EQ(llama.encode_prompt("the").front(), 1);
  EXPECT_TRUE(llama.is_special(0));
  EXPECT_FALSE(llama.is_special(3));
  EXPECT_EQ(llama.token_bytes(3), std::string(1, '\0'));
  // A stream goes on behind a prompt: the space before a word stays.
  StreamDecoder decoder(llama);
  std::string text;
  for (const int32_t id : llama.encode("the dog")) text += decoder.push(id);
  EXPECT_EQ(text + decoder.finish(), " the dog");
  EXPECT_EQ(llama.to_json(), Tokenizer::from_json(llama.to_json(), "again").to_json());
}

TEST(TokenizerFamilies, WhatTheStepsDoIsInTheHash) {
  std::set<std::string> hashes;
  for (const json& row : families()["tokenizers"]) hashes.insert(family(row).hash());
  EXPECT_EQ(hashes.size(), families()["tokenizers"].size());
}

TEST(SentencePieceModels, IdsAndTextsEqualSentencePiece) {
  for (const json& row : families()["models"]) {
    const Tokenizer tokenizer = Tokenizer::load(fixture("tokenizers/" + row["name"].get<std::string>() + ".model"));
    EXPECT_EQ(tokenizer.vocab_size(), row["vocab"]);
    EXPECT_EQ(tokenizer.end_of_document(), 2);
    EXPECT_GT(expect_golden(tokenizer, row), 60U);
  }
}

TEST(SentencePieceModels, AreFoundInFoldersAndWrittenBack) {
  const TemporaryFolder folder;
  std::filesystem::copy(fixture("tokenizers/llama.model"), folder / "tokenizer.model");
  folder.write("tokenizer_config.json", R"({"add_bos_token": true, "bos_token": "<s>", "eos_token": "</s>"})");
  const Tokenizer tokenizer = Tokenizer::load(folder / "");
  EXPECT_EQ(tokenizer.encode_prompt("the").front(), 1);
  EXPECT_THAT(tokenizer.encode("<s>", Specials::recognise), testing::ElementsAre(1));
  tokenizer.save(folder / "saved");
  EXPECT_EQ(read_text(folder / "saved/tokenizer.model"), read_text(folder / "tokenizer.model"));
  EXPECT_EQ(Tokenizer::load(folder / "saved").hash(), tokenizer.hash());
  EXPECT_ERROR("cannot be written", tokenizer.to_json());
  // A tokenizer.json beside it goes first.
  folder.write("tokenizer.json", family_named("llama2").to_json());
  EXPECT_NE(Tokenizer::load(folder / "").hash(), tokenizer.hash());
  EXPECT_EQ(Tokenizer::load(folder / "tokenizer.model").hash(), tokenizer.hash());
}

TEST(SentencePieceModels, OthersAndDamagedOnesAreRefusedByName) {
  EXPECT_ERROR("of type unigram is not supported", Tokenizer::load(fixture("tokenizers/unigram.model")));
  const std::string whole = read_text(fixture("tokenizers/llama.model"));
  const TemporaryFolder folder;
  const auto error = [&](std::string_view bytes) {
    folder.write("tokenizer.model", bytes);
    return test::error_of([&] { Tokenizer::load(folder / ""); });
  };
  EXPECT_THAT(error(whole.substr(0, 1000)), testing::HasSubstr("goes on behind the end"));
  EXPECT_THAT(error(""), testing::HasSubstr("no pieces"));
  EXPECT_THAT(error("\x0F"), testing::HasSubstr("wire type 7"));
  EXPECT_THAT(error(std::string(12, '\xFF')), testing::HasSubstr("more than 64 bits"));
  EXPECT_THAT(error("IQ== 0\nIg== 1\n"), testing::HasSubstr("tiktoken's form"));
  EXPECT_THROW(Tokenizer::load(folder / ""), UnsupportedTokenizer);
  EXPECT_THAT(error("SQ== 0"), testing::HasSubstr("tiktoken's form"));
  EXPECT_THAT(error(" 0\n"), testing::Not(testing::HasSubstr("tiktoken")));
  EXPECT_THAT(error("IQ== x\n"), testing::Not(testing::HasSubstr("tiktoken")));
  std::filesystem::remove(folder / "tokenizer.model");
  folder.write("qwen.tiktoken", "IQ== 0\n");
  EXPECT_ERROR("qwen.tiktoken: a vocabulary in tiktoken's form", Tokenizer::load(folder / ""));
  // A piece "ab" of type UNUSED.
  EXPECT_THAT(error(whole + std::string("\x0A\x06\x0A\x02\x61\x62\x18\x05", 8)),
              testing::HasSubstr("UNUSED pieces ('ab')"));
  EXPECT_THAT(error(whole + std::string("\x0A\x04\x0A\x02\xC3\x28", 6)), testing::HasSubstr("no UTF-8"));
  EXPECT_THAT(error(whole + std::string("\x1A\x02\x28\x00", 4)), testing::HasSubstr("without escape_whitespaces"));
}

}  // namespace
}  // namespace ridgeline::data

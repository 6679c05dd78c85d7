#include "ridgeline/data/tokenizer.h"

#include <gmock/gmock.h>

#include <random>

#include "ridgeline/data/unicode.h"
#include "support.h"

namespace ridgeline::data {
namespace {

using test::fixture;
using test::gpt2;
using test::json_fixture;
using test::TemporaryFolder;
using testing::ElementsAre;

std::string random_bytes(std::mt19937& random, size_t longest) {
  std::string text(random() % longest, '\0');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

TEST(Tokenizer, IdsEqualTiktokenAndHuggingFace) {
  Encoder warm(gpt2());
  for (const auto& row : json_fixture("data/tokenizer_cases.json")) {
    const auto text = row["text"].get<std::string>();
    const auto expected = row["gpt2"].get<std::vector<int32_t>>();
    EXPECT_EQ(gpt2().encode(text), expected) << text;
    EXPECT_EQ(gpt2().encode(text, Specials::recognise), row["gpt2_specials"].get<std::vector<int32_t>>()) << text;
    EXPECT_EQ(gpt2().decode(expected), text);
    // What an encoder remembers from the texts before changes nothing.
    std::vector<int32_t> ids{7};
    warm.encode(text, ids);
    ids.erase(ids.begin());
    EXPECT_EQ(ids, expected) << text;
  }
}

TEST(Tokenizer, Llama3StyleIdsEqualHuggingFace) {
  const Tokenizer tokenizer = Tokenizer::load(fixture("data/llama3_style"));
  EXPECT_EQ(tokenizer.vocab_size(), 702);
  EXPECT_EQ(tokenizer.end_of_document(), 701);
  for (const auto& row : json_fixture("data/tokenizer_cases.json")) {
    const auto text = row["text"].get<std::string>();
    const auto expected = row["llama3_specials"].get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer.encode(text, Specials::recognise), expected) << text;
    EXPECT_EQ(tokenizer.decode(expected), text);
  }
}

TEST(Tokenizer, AnyBytesComeBack) {
  std::mt19937 random(3);
  const Tokenizer llama = Tokenizer::load(fixture("data/llama3_style"));
  Encoder encoder(gpt2());
  for (int i = 0; i < 300; ++i) {
    const std::string text = random_bytes(random, 400);
    std::vector<int32_t> ids;
    encoder.encode(text, ids);
    ASSERT_EQ(gpt2().decode(ids), text);
    ASSERT_EQ(llama.decode(llama.encode(text, Specials::recognise)), text);
  }
}

TEST(Tokenizer, MemoryOfPiecesIsBoundedAndForgettingChangesNothing) {
  // More distinct pieces than an encoder keeps (2^19): it forgets on the way.
  Encoder encoder(gpt2());
  std::vector<int32_t> ids;
  std::string text;
  for (int i = 0; i < 540000; ++i) text += " " + std::to_string(1000000 + i);
  encoder.encode(text, ids);
  EXPECT_EQ(gpt2().decode(ids), text);
  std::vector<int32_t> again;
  encoder.encode(" 1000000 1539999", again);
  EXPECT_EQ(again, gpt2().encode(" 1000000 1539999"));
}

TEST(Tokenizer, KnowsItsVocabulary) {
  EXPECT_EQ(gpt2().vocab_size(), 50257);
  EXPECT_EQ(gpt2().end_of_document(), 50256);
  EXPECT_TRUE(gpt2().is_special(50256));
  EXPECT_FALSE(gpt2().is_special(0));
  EXPECT_EQ(gpt2().token_bytes(0), "!");
  EXPECT_EQ(gpt2().token_bytes(198), "\n");
  EXPECT_EQ(gpt2().token_bytes(220), " ");
  EXPECT_EQ(gpt2().token_bytes(255), "\xAD");
  EXPECT_EQ(gpt2().encode(""), std::vector<int32_t>{});
  EXPECT_ERROR("50257", gpt2().decode(std::vector<int32_t>{50257}));
  EXPECT_ERROR("-1", gpt2().decode(std::vector<int32_t>{-1}));
}

TEST(Tokenizer, SavedFoldersGiveTheSameTokenizer) {
  const TemporaryFolder folder;
  gpt2().save(folder / "a", 1024);
  const Tokenizer from_json = Tokenizer::load(folder / "a");
  EXPECT_EQ(from_json.hash(), gpt2().hash());
  EXPECT_EQ(Tokenizer::load(folder / "a/tokenizer.json").hash(), gpt2().hash());
  std::filesystem::remove(folder / "a/tokenizer.json");
  EXPECT_EQ(Tokenizer::load(folder / "a").hash(), gpt2().hash());
  EXPECT_EQ(read_text(folder / "a/merges.txt"), read_text(fixture("gpt2_tokenizer/merges.txt")));
  const auto configuration = nlohmann::json::parse(read_text(folder / "a/tokenizer_config.json"));
  EXPECT_EQ(configuration["eos_token"], "<|endoftext|>");
  EXPECT_EQ(configuration["model_max_length"], 1024);

  const Tokenizer llama = Tokenizer::load(fixture("data/llama3_style"));
  llama.save(folder / "b");
  EXPECT_EQ(read_text(folder / "b/tokenizer.json"), read_text(fixture("data/llama3_style/tokenizer.json")));
  EXPECT_EQ(Tokenizer::load(folder / "b").hash(), llama.hash());
  EXPECT_NE(llama.hash(), gpt2().hash());
}

TEST(Tokenizer, TravelsAsText) {
  for (const char* name : {"gpt2_tokenizer", "data/llama3_style"}) {
    const Tokenizer tokenizer = Tokenizer::load(fixture(name));
    const Tokenizer copy = Tokenizer::from_json(tokenizer.to_json(), "copy");
    EXPECT_EQ(copy.hash(), tokenizer.hash());
    EXPECT_EQ(copy.end_of_document(), tokenizer.end_of_document());
    EXPECT_EQ(copy.encode("It's  the same.<|endoftext|>", Specials::recognise),
              tokenizer.encode("It's  the same.<|endoftext|>", Specials::recognise));
  }
  EXPECT_ERROR("copy/tokenizer.json: not valid JSON", Tokenizer::from_json("{", "copy"));
}

TEST(Tokenizer, AddedTokensOfGptJDecodeAndAreWrittenBack) {
  const TemporaryFolder folder;
  for (const char* name : {"vocab.json", "merges.txt"}) {
    std::filesystem::copy(fixture("gpt2_tokenizer") / name, folder / name);
  }
  nlohmann::json added;
  for (int i = 1; i <= 143; ++i) added["<|extratoken_" + std::to_string(i) + "|>"] = 50256 + i;
  folder.write("added_tokens.json", added.dump());
  const Tokenizer tokenizer = Tokenizer::load(folder / "");
  EXPECT_EQ(tokenizer.vocab_size(), 50400);
  EXPECT_EQ(tokenizer.end_of_document(), 50256);
  EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{50257, 64, 50399}), "<|extratoken_1|>a<|extratoken_143|>");
  EXPECT_THAT(tokenizer.encode("a<|extratoken_12|>", Specials::recognise), ElementsAre(64, 50268));
  tokenizer.save(folder / "saved");
  EXPECT_EQ(Tokenizer::load(folder / "saved").hash(), tokenizer.hash());
  EXPECT_EQ(nlohmann::json::parse(read_text(folder / "saved/vocab.json")).size(), 50257U);
}

TEST(Tokenizer, IdsWithoutANameDecodeToNothing) {
  const TemporaryFolder folder;
  for (const char* name : {"vocab.json", "merges.txt"}) {
    std::filesystem::copy(fixture("gpt2_tokenizer") / name, folder / name);
  }
  folder.write("added_tokens.json", R"({"<|last|>": 50300})");
  const Tokenizer tokenizer = Tokenizer::load(folder / "");
  EXPECT_EQ(tokenizer.vocab_size(), 50301);
  EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{64, 50280, 50300}), "a<|last|>");
}

TEST(Tokenizer, EndOfDocumentComesFromTheConfiguration) {
  const TemporaryFolder folder;
  std::filesystem::copy(fixture("data/llama3_style/tokenizer.json"), folder / "tokenizer.json");
  folder.write("tokenizer_config.json", R"({"eos_token": {"content": "<|begin_of_text|>"}, "extra": 1})");
  const Tokenizer tokenizer = Tokenizer::load(folder / "");
  EXPECT_EQ(tokenizer.end_of_document(), 700);
  tokenizer.save(folder / "saved");
  EXPECT_EQ(read_text(folder / "saved/tokenizer_config.json"), read_text(folder / "tokenizer_config.json"));
}

class BadTokenizer : public testing::Test {
 protected:
  BadTokenizer() : json_(json_fixture("data/llama3_style/tokenizer.json")) {}
  std::string error() const {
    folder_.write("tokenizer.json", json_.dump());
    return test::error_of([&] { Tokenizer::load(folder_ / ""); });
  }
  nlohmann::json json_;
  TemporaryFolder folder_;
};

TEST_F(BadTokenizer, NothingThere) {
  EXPECT_ERROR("neither tokenizer.json, nor vocab.json", Tokenizer::load(folder_ / ""));
  EXPECT_ERROR("neither tokenizer.json, nor vocab.json", Tokenizer::load(folder_ / "missing"));
}

TEST_F(BadTokenizer, CutJson) {
  const std::string whole = json_.dump();
  folder_.write("tokenizer.json", whole.substr(0, whole.size() / 2));
  EXPECT_ERROR("not valid JSON", Tokenizer::load(folder_ / ""));
}

TEST_F(BadTokenizer, UnsupportedFeaturesAreNamed) {
  const auto original = json_;
  const auto expect = [&](const char* part, auto change) {
    json_ = original;
    change(json_);
    EXPECT_THAT(error(), testing::HasSubstr(part));
  };
  using Json = nlohmann::json;
  expect("normalizer 'NFKD' is not supported", [](Json& j) { j["normalizer"] = {{"type", "NFKD"}}; });
  expect("decoder 'Metaspace' is not supported", [](Json& j) { j["decoder"] = {{"type", "Metaspace"}}; });
  expect("model 'Unigram' is not supported", [](Json& j) { j["model"]["type"] = "Unigram"; });
  expect("model 'Unigram' is not supported", [](Json& j) {
    j["model"].erase("type");
    j["model"]["vocab"] = Json::array({Json::array({"a", -1.5})});
  });
  expect("continuing_subword_prefix", [](Json& j) { j["model"]["continuing_subword_prefix"] = "##"; });
  expect("pre_tokenizer 'Whitespace'", [](Json& j) { j["pre_tokenizer"] = {{"type", "Whitespace"}}; });
  expect("pattern '\\w+'", [](Json& j) { j["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "\\w+"; });
  expect("behavior 'Removed'", [](Json& j) { j["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed"; });
}

TEST_F(BadTokenizer, DamageIsNamed) {
  const auto original = json_;
  const auto expect = [&](const char* part, auto change) {
    json_ = original;
    change(json_);
    EXPECT_THAT(error(), testing::HasSubstr(part));
  };
  using Json = nlohmann::json;
  expect("is given to", [](Json& j) { j["model"]["vocab"]["a"] = 0; });
  expect("not a number from 0", [](Json& j) { j["model"]["vocab"]["a"] = -4; });
  expect("not a number from 0", [](Json& j) { j["model"]["vocab"]["a"] = int64_t{1} << 40; });
  expect("not in the vocabulary", [](Json& j) { j["model"]["merges"].push_back({"zzz", "q"}); });
  expect("not two tokens", [](Json& j) { j["model"]["merges"].push_back("ab"); });
  expect("not two tokens", [](Json& j) { j["model"]["merges"].push_back(17); });
  expect("no token for the single byte 0x61", [](Json& j) {
    j["model"]["merges"] = Json::array();
    j["model"]["vocab"].erase("a");
  });
  expect("has no id", [](Json& j) { j["added_tokens"][0].erase("id"); });
  expect("no model", [](Json& j) { j.erase("model"); });
}

TEST(StreamDecoder, GivesOnlyWholeCharacters) {
  const std::string text = "naïve 漢字 👩‍👩‍👧 😀 end";
  StreamDecoder decoder(gpt2());
  std::string all;
  bool waited = false;
  for (const int32_t id : gpt2().encode(text)) {
    const std::string part = decoder.push(id);
    EXPECT_EQ(valid_utf8_prefix(part), part.size());
    waited |= part.empty();
    all += part;
  }
  EXPECT_EQ(all + decoder.finish(), text);
  EXPECT_TRUE(waited) << "no character of the text was cut between tokens: the test shows nothing";
}

TEST(StreamDecoder, RepairsWhatCanNoLongerBecomeACharacter) {
  StreamDecoder decoder(gpt2());
  const auto byte = [](int value) { return gpt2().encode(std::string(1, static_cast<char>(value)))[0]; };
  EXPECT_EQ(decoder.push(byte(0xE6)), "");
  EXPECT_EQ(decoder.push(byte('a')), "\uFFFDa");
  EXPECT_EQ(decoder.push(byte(0xFF)), "\uFFFD");
  EXPECT_EQ(decoder.push(byte(0xF0)), "");
  EXPECT_EQ(decoder.finish(), "\uFFFD");
  EXPECT_EQ(decoder.finish(), "");
}

}  // namespace
}  // namespace ridgeline::data

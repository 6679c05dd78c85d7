// The tokenizer and the special ids between data, checkpoint and export.
#include "ridgeline/train/run_tokenizer.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "ridgeline/base/file.h"
#include "ridgeline/train/state.h"

namespace ridgeline::train {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

TEST(RunTokenizer, OfAnOldCheckpointStandsInTheManifest) {
  RunState state;
  state.end_of_document = 7;
  json manifest = to_json(state, {});
  EXPECT_EQ(run_state_from_json(manifest, "m").end_of_document, 7);
  EXPECT_TRUE(run_state_from_json(manifest, "m").tokenizer.empty());
  manifest.erase("end_of_document");
  manifest["tokenizer"] = "{\"text\": 1}";
  const RunState old = run_state_from_json(manifest, "m");
  ASSERT_NE(old.tokenizer.find("tokenizer.json"), nullptr);
  EXPECT_EQ(*old.tokenizer.find("tokenizer.json"), "{\"text\": 1}");
  EXPECT_EQ(old.end_of_document, std::nullopt);
}

// A tokenizer, a dataset whose note names it, and a configuration that does not.
class TokenizerOfTheNote : public testing::Test {
 protected:
  void SetUp() override {
    fs::remove_all(folder_);
    fs::create_directories(folder_ / "tokenizer");
    const json families = json::parse(read_text(fs::path(RIDGELINE_TEST_DATA) / "tokenizers" / "families.json"));
    write_atomically(folder_ / "tokenizer" / "tokenizer.json", families["bases"]["bytes"].dump());
    const auto tokenizer = data::Tokenizer::load(folder_ / "tokenizer");
    note_ = {.tokens = 3,
             .documents = 1,
             .vocabulary = tokenizer.vocab_size(),
             .end_of_document = tokenizer.end_of_document().value_or(-1),
             .tokenizer_hash = tokenizer.hash(),
             .tokenizer = (folder_ / "tokenizer").string()};
    config_.model.transformer.vocab = note_.vocabulary;
  }
  void TearDown() override { fs::remove_all(folder_); }

  RunTokenizer opened() const {
    data::IndexedDatasetWriter writer(folder_ / "data", note_.vocabulary);
    writer.add_document(std::vector<int32_t>{1, 2, 3});
    writer.finish(note_);
    RunDocuments documents;
    documents.train.push_back({data::IndexedDataset::open(folder_ / "data"), {0, 1}, 1});
    Config config = config_;
    config.data.train = (folder_ / "data").string();
    return open_tokenizer(config, documents);
  }

  fs::path folder_ = fs::path(testing::TempDir()) / ("tokenizer_of_the_note_" + std::to_string(::getpid()));
  data::DatasetNote note_;
  Config config_;
};

TEST_F(TokenizerOfTheNote, IsTakenWhereItIsTheSame) {
  const RunTokenizer run = opened();
  ASSERT_TRUE(run.tokenizer);
  EXPECT_EQ(run.tokenizer->hash(), note_.tokenizer_hash);
  EXPECT_FALSE(run.files.empty()) << "kept in checkpoints";
  EXPECT_THAT(run.message, HasSubstr("was prepared, is taken"));
  config_.data.tokenizer = (folder_ / "tokenizer").string();
  EXPECT_EQ(opened().message, "");
}

TEST_F(TokenizerOfTheNote, IsNotTakenWhereItIsAnother) {
  note_.tokenizer_hash = "0123456789abcdef";
  RunTokenizer run = opened();
  EXPECT_FALSE(run.tokenizer);
  EXPECT_TRUE(run.files.empty());
  EXPECT_THAT(run.message, HasSubstr("is another one by now"));
  note_.tokenizer_hash = data::Tokenizer::load(folder_ / "tokenizer").hash();
  note_.end_of_document = 7;
  EXPECT_THAT(opened().message, HasSubstr("is another one by now"));
  note_.end_of_document = -1;
  --config_.model.transformer.vocab;
  run = opened();
  EXPECT_FALSE(run.tokenizer);
  EXPECT_THAT(run.message, HasSubstr("more than model.vocab"));
  ++config_.model.transformer.vocab;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_ / "tokenizer"))
    write_atomically(entry.path(), "{");
  run = opened();
  EXPECT_FALSE(run.tokenizer);
  EXPECT_THAT(run.message, HasSubstr("cannot be read"));
  fs::remove_all(folder_ / "tokenizer");
  EXPECT_EQ(opened().message, "") << "as where the data was prepared elsewhere";
  EXPECT_FALSE(opened().tokenizer);
}

TEST(ExportedIds, ComeFromWhatTheModelLearnedThenFromTheFiles) {
  data::TokenizerFiles files;
  files.set("generation_config.json", R"({"eos_token_id": [3, 4, 99], "bos_token_id": 1, "temperature": 0.5})");
  const json config = {{"bos_token_id", 8}, {"eos_token_id", 9}, {"pad_token_id", 2}};
  const ExportedIds ids = exported_ids(files, std::nullopt, 5, config, 20);
  EXPECT_THAT(ids.eos, ElementsAre(5, 3, 4)) << "99 is outside the vocabulary";
  EXPECT_EQ(ids.bos, 1);
  EXPECT_EQ(ids.pad, 2);
  EXPECT_EQ(generation_config(files, ids),
            json({{"eos_token_id", {5, 3, 4}}, {"bos_token_id", 1}, {"pad_token_id", 2}, {"temperature", 0.5}}));
  EXPECT_THAT(exported_ids({}, std::nullopt, std::nullopt, config, 20).eos, ElementsAre(9));
}

TEST(ExportedIds, ThatNobodyKnowsAreNull) {
  json config;
  set_ids(config, exported_ids({}, std::nullopt, std::nullopt, json(), 20));
  EXPECT_EQ(config, json({{"bos_token_id", nullptr}, {"eos_token_id", nullptr}, {"pad_token_id", nullptr}}));
}

}  // namespace
}  // namespace ridgeline::train

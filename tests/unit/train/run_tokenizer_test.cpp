// The tokenizer and the special ids between data, checkpoint and export.
#include "ridgeline/train/run_tokenizer.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "ridgeline/train/state.h"

namespace ridgeline::train {
namespace {

using nlohmann::json;
using testing::ElementsAre;

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

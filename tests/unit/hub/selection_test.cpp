#include "ridgeline/hub/selection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "../error_of.h"
#include "ridgeline/base/error.h"

namespace ridgeline::hub {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::UnorderedElementsAre;
using Paths = std::vector<std::string>;

Paths model(const Paths& paths, const Wanted& wanted = {}) {
  return select_model(paths, wanted).paths;
}

Paths dataset(const Paths& paths, const std::string& config, const std::string& split = "",
              const std::vector<DataFiles>& card = {}) {
  Wanted wanted;
  wanted.config = config;
  wanted.split = split;
  return select_dataset(paths, card, wanted).paths;
}

TEST(HubModels, OneFormOfTheWeightsIsFetched) {
  const Paths gpt2 = {".gitattributes", "64.tflite",         "README.md",        "config.json", "flax_model.msgpack",
                      "merges.txt",     "model.safetensors", "onnx/config.json", "onnx/m.onnx", "pytorch_model.bin",
                      "rust_model.ot",  "tf_model.h5",       "tokenizer.json",   "vocab.json"};
  const Selection selection = select_model(gpt2, {});
  EXPECT_THAT(selection.paths, ElementsAre(".gitattributes", "README.md", "config.json", "merges.txt",
                                           "model.safetensors", "tokenizer.json", "vocab.json"));
  EXPECT_THAT(selection.left_out, ElementsAre("64.tflite", "flax_model.msgpack", "onnx/config.json", "onnx/m.onnx",
                                              "pytorch_model.bin", "rust_model.ot", "tf_model.h5"));
  EXPECT_THAT(selection.notes, IsEmpty());
}

TEST(HubModels, PiecesComeWithTheirIndex) {
  EXPECT_THAT(model({"config.json", "consolidated.safetensors", "model-00001-of-00002.safetensors",
                     "model-00002-of-00002.safetensors", "model.safetensors.index.json",
                     "pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"}),
              ElementsAre("config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
                          "model.safetensors.index.json"));
  EXPECT_THAT(model({"model-00001-of-00001.safetensors", "model.safetensors", "model.safetensors.index.json"}),
              ElementsAre("model.safetensors"))
      << "as the import reads them";
}

TEST(HubModels, PicklesAreFetchedWhereThereIsNothingElseAndThatIsSaid) {
  const Selection gptj = select_model({"config.json", "flax_model.msgpack", "pytorch_model.bin", "tf_model.h5"}, {});
  EXPECT_THAT(gptj.paths, ElementsAre("config.json", "pytorch_model.bin"));
  ASSERT_EQ(gptj.notes.size(), 1);
  EXPECT_THAT(gptj.notes[0], HasSubstr("pickles"));
  const Selection other = select_model({"config.json", "m.gguf"}, {});
  EXPECT_THAT(other.paths, ElementsAre("config.json"));
  EXPECT_THAT(other.notes.at(0), HasSubstr("m.gguf"));
  EXPECT_THAT(model({"adapter_config.json", "adapter_model.safetensors"}),
              ElementsAre("adapter_config.json", "adapter_model.safetensors"));
}

TEST(HubModels, PatternsChooseInPlaceOfTheRules) {
  const Paths paths = {"a.json", "model.safetensors", "onnx/m.onnx", "pytorch_model.bin"};
  Wanted wanted;
  wanted.include = {"*.bin", "onnx/"};
  EXPECT_THAT(model(paths, wanted), ElementsAre("onnx/m.onnx", "pytorch_model.bin"));
  wanted.exclude = {"*.onnx"};
  EXPECT_THAT(model(paths, wanted), ElementsAre("pytorch_model.bin"));
  wanted = {};
  wanted.exclude = {"*.safetensors"};
  EXPECT_THAT(model(paths, wanted), ElementsAre("a.json"));
  wanted.exclude = {"*"};
  EXPECT_THROW(model(paths, wanted), Error);
  wanted.exclude = {"pytorch_modl.bin"};
  EXPECT_THAT(error_of([&] { model(paths, wanted); }), HasSubstr("The nearest is 'pytorch_model.bin'"));
  EXPECT_THROW(model({}), Error);
}

const Paths kOscar = {"README.md",
                      "oscar.py",
                      "unshuffled/deduplicated/af/af.txt.gz",
                      "unshuffled/deduplicated/af/af_sha256.txt",
                      "unshuffled/deduplicated/als/als_part_1.txt.gz",
                      "unshuffled/original/af/af.txt.gz"};

TEST(HubDatasets, OscarsConfigurationsAreFoundWhereverTheyLie) {
  const std::string config = "unshuffled_deduplicated_af";
  EXPECT_THAT(dataset(kOscar, config), ElementsAre(kOscar[2], kOscar[3]));
  for (const Paths& paths : std::vector<Paths>{{"1.0/unshuffled/deduplicated/af/af_part_1.txt.gz"},
                                               {"unshuffled_deduplicated_af/af.txt.gz"},
                                               {"unshuffled_deduplicated_af/train/0000.parquet"},
                                               {"unshuffled_deduplicated/af_part_2.txt.gz"},
                                               {"data/unshuffled_deduplicated_af.txt.gz"},
                                               {"deduplicated/af/af.txt.gz"},
                                               {"packaged/af/af.txt.gz"},
                                               {"af.txt.gz"},
                                               {"af/af_part_1.txt.gz"}}) {
    Paths with_others = paths;
    for (const char* other :
         {"unshuffled_deduplicated_als/als.txt.gz", "afr.txt.gz", "unshuffled/original/af/af.txt.gz"})
      with_others.emplace_back(other);
    if (!paths[0].starts_with("af")) {
      EXPECT_EQ(dataset(with_others, config), paths) << paths[0];
    } else {
      with_others.pop_back();
      EXPECT_EQ(dataset(with_others, config), paths) << paths[0];
    }
  }
  EXPECT_THROW(dataset({"x/af.txt.gz", "y/af.txt.gz"}, config), Error) << "which of them is not said";
  EXPECT_THAT(dataset({"packaged/af/af.txt.gz", "packaged_nondedup/af/af.txt.gz"}, "original_af"),
              ElementsAre("packaged_nondedup/af/af.txt.gz"));
}

TEST(HubDatasets, LaterReleasesHaveAFolderForALanguage) {
  EXPECT_THAT(dataset({"af_meta/af_meta.jsonl.zst", "af_meta/checksum.sha256", "als_meta/als_meta.jsonl.zst"}, "af"),
              ElementsAre("af_meta/af_meta.jsonl.zst", "af_meta/checksum.sha256"));
  EXPECT_THAT(
      dataset({"compressed/vi_meta/vi_meta_part_46.jsonl.gz", "compressed/vi_meta/checksum.sha256"}, "vi").size(), 2);
}

TEST(HubDatasets, ACardDecidesBeforeNamesDo) {
  const Paths paths = {"README.md", "a/en-1.gz", "a/en-t.gz", "en/old.gz"};
  const std::vector<DataFiles> card = {
      {"en", "train", {"a/en-[0-9].gz"}}, {"en", "test", {"a/en-t.gz"}}, {"de", "", {"de"}}};
  EXPECT_THAT(dataset(paths, "en", "", card), ElementsAre("a/en-1.gz", "a/en-t.gz"));
  EXPECT_THAT(dataset(paths, "en", "test", card), ElementsAre("a/en-t.gz"));
  EXPECT_THAT(error_of([&] { dataset(paths, "en", "validation", card); }), HasSubstr("It has test, train"));
  EXPECT_THAT(error_of([&] { dataset(paths, "", "", card); }), HasSubstr("Choose one with --config: de, en"));
  EXPECT_THAT(error_of([&] { dataset(paths, "enn", "", card); }), HasSubstr("Did you mean en?"));
}

// https://huggingface.co/docs/datasets/repository_structure: the patterns of `data_files`.
TEST(HubDatasets, ACardsPatternsStayInAFolderUnlessTheySayMore) {
  const Paths paths = {"data/a.gz", "data/old/b.gz", "data/old/er/c.gz", "data.gz"};
  const auto taken = [&](const char* pattern) { return dataset(paths, "en", "", {{"en", "", {pattern}}}); };
  EXPECT_THAT(taken("data/*"), ElementsAre(paths[0]));
  EXPECT_THAT(taken("data/*/*"), ElementsAre(paths[1]));
  EXPECT_THAT(taken("data/**"), ElementsAre(paths[0], paths[1], paths[2]));
  EXPECT_THAT(taken("data/**/*.gz"), ElementsAre(paths[0], paths[1], paths[2]));
  EXPECT_THAT(taken("**/old/**/?.gz"), ElementsAre(paths[1], paths[2]));
  EXPECT_THAT(taken("**"), ElementsAre(paths[0], paths[1], paths[2], paths[3]));
  EXPECT_THAT(taken("*.gz"), ElementsAre(paths[3]));
  EXPECT_THAT(taken("data/old"), ElementsAre(paths[1], paths[2])) << "a folder's name alone is all of it";
}

TEST(HubDatasets, ASplitIsAWordOfThePath) {
  const Paths paths = {"wiki/test-00000-of-00001.parquet", "wiki/train-00000-of-00001.parquet"};
  EXPECT_THAT(dataset(paths, "wiki", "train"), ElementsAre(paths[1]));
  EXPECT_THAT(dataset(paths, "", "test"), ElementsAre(paths[0]));
  EXPECT_THAT(error_of([&] { dataset(paths, "wiki", "valid"); }), HasSubstr("There are test, train"));
  EXPECT_THAT(dataset(kOscar, "unshuffled_deduplicated_af", "train").size(), 2) << "all is train where nothing is said";
  EXPECT_THROW(dataset({"a/training.gz", "a/test.gz"}, "a", "train"), Error);
}

TEST(HubDatasets, WithoutAConfigurationAllIsFetched) {
  EXPECT_THAT(dataset({"a", "b/c"}, ""), ElementsAre("a", "b/c"));
  EXPECT_THAT(error_of([] { dataset(kOscar, "unshuffled_deduplicated_aff"); }),
              HasSubstr("unshuffled_deduplicated_af?"));
  EXPECT_THAT(error_of([] { dataset({"oscar.py"}, "af"); }), HasSubstr("refs/convert/parquet"));
}

}  // namespace
}  // namespace ridgeline::hub

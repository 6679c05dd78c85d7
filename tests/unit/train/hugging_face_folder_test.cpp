// Folders that other tools leave: tied models with heads of their own, dropout rates that differ.
#include "ridgeline/train/hugging_face_folder.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <map>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/model/declarations.h"
#include "ridgeline/train/hugging_face_names.h"
#include "ridgeline/train/model_source.h"

namespace ridgeline::train {
namespace {

namespace fs = std::filesystem;

std::vector<float> values_of(const checkpoint::HuggingFaceModel& weights, const std::string& name, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  weights.read_range(name, 0, count, values.data());
  return values;
}

class HuggingFaceFolders : public testing::TestWithParam<std::string_view> {
 protected:
  static fs::path reference() { return fs::path(RIDGELINE_TEST_DATA) / "reference" / GetParam(); }
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("ridgeline_folders_" + std::to_string(::getpid()));
    fs::remove_all(folder_);
    untied_ = model::from_hugging_face(checkpoint::read_config(reference()));
    untied_.tied = false;
    vocabulary_ = untied_.vocab * untied_.width;
  }
  void TearDown() override { fs::remove_all(folder_); }

  // The reference with a head of its own, changed at its last element when `differs`, and a config.json that says tied;
  // without the vocabulary matrix's tensor when `head_only`.
  void write(bool differs, bool head_only = false) const {
    const model::TransformerConfig original = model::from_hugging_face(checkpoint::read_config(reference()));
    const checkpoint::HuggingFaceModel source(reference(), hugging_face_names(original));
    checkpoint::ExportOptions options;
    options.config = model::to_hugging_face(untied_);
    options.config["tie_word_embeddings"] = true;
    checkpoint::NameTable table = hugging_face_names(untied_);
    if (head_only) std::erase_if(table.tensors, [](const auto& mapping) { return mapping.name == "embedding.weight"; });
    checkpoint::export_hugging_face(
        folder_, table,
        [&](std::string_view name, int64_t first, int64_t count, Ref destination) {
          const bool head = name == "head.weight";
          source.read_range(head ? "embedding.weight" : name, first, count, destination);
          if (head && differs && first + count == vocabulary_) destination.as<float>()[count - 1] += 1.0F;
        },
        options);
  }
  std::vector<float> embedding() const {
    const model::TransformerConfig original = model::from_hugging_face(checkpoint::read_config(reference()));
    return values_of(checkpoint::HuggingFaceModel(reference(), hugging_face_names(original)), "embedding.weight",
                     vocabulary_);
  }

  fs::path folder_;
  model::TransformerConfig untied_;
  int64_t vocabulary_ = 0;
};

TEST_P(HuggingFaceFolders, TiedByNameWithTwoMatricesIsReadUntiedAndSaysSo) {
  write(true);
  const HuggingFaceFolder opened = open_hugging_face(folder_);
  EXPECT_FALSE(opened.config.tied);
  ASSERT_EQ(opened.notes.size(), 1U);
  EXPECT_NE(opened.notes[0].find("tie_word_embeddings"), std::string::npos) << opened.notes[0];
  EXPECT_NE(opened.notes[0].find(GetParam() == "gpt_neox" ? "embed_out.weight" : "lm_head.weight"), std::string::npos)
      << opened.notes[0];
  std::vector<float> expected = embedding();
  EXPECT_EQ(values_of(*opened.weights, "embedding.weight", vocabulary_), expected);
  expected.back() += 1.0F;
  EXPECT_EQ(values_of(*opened.weights, "head.weight", vocabulary_), expected);
  EXPECT_EQ(model::to_hugging_face(opened.config).at("tie_word_embeddings"), false);
  EXPECT_FALSE(ModelSource::open(folder_).config().tied);
  // Whoever insists on one matrix is refused.
  model::TransformerConfig tied = untied_;
  tied.tied = true;
  EXPECT_THROW(checkpoint::HuggingFaceModel(folder_, hugging_face_names(tied)), Error);
}

TEST_P(HuggingFaceFolders, TiedWithEqualMatricesIsOne) {
  write(false);
  const HuggingFaceFolder opened = open_hugging_face(folder_);
  EXPECT_TRUE(opened.config.tied);
  EXPECT_TRUE(opened.notes.empty());
  EXPECT_EQ(values_of(*opened.weights, "embedding.weight", vocabulary_), embedding());
}

TEST_P(HuggingFaceFolders, TiedWithTheHeadAloneIsReadFromIt) {
  write(false, true);
  const HuggingFaceFolder opened = open_hugging_face(folder_);
  EXPECT_TRUE(opened.config.tied);
  EXPECT_TRUE(opened.notes.empty());
  EXPECT_EQ(values_of(*opened.weights, "embedding.weight", vocabulary_), embedding());
}

TEST_P(HuggingFaceFolders, DropoutRatesThatDifferAskForTheRunsOwn) {
  write(false);
  nlohmann::json config = checkpoint::read_config(folder_);
  const model::DropoutRates rates = model::hugging_face_dropout(config);
  config[rates.back().first] = 0.125;
  write_atomically(folder_ / "config.json", config.dump());
  const HuggingFaceFolder opened = open_hugging_face(folder_);
  EXPECT_EQ(opened.dropout.back(), (std::pair<std::string, double>{rates.back().first, 0.125}));
  EXPECT_EQ(ModelSource::open(folder_).dropout_rates(), opened.dropout);
  const std::string init_from = "train.init_from=" + folder_.string();
  const auto import = [&](std::vector<std::string> overrides) {
    overrides.push_back(init_from);
    return with_imported_folder(parse_config({}, overrides), opened).model.transformer.dropout;
  };
  EXPECT_EQ(import({"model.dropout=0.25"}), 0.25F);
  EXPECT_EQ(import({"model.dropout=0"}), 0.0F) << "given, although it is the default";
  if (opened.dropout.size() == 1) return;  // one rate cannot differ
  try {
    import({});
    ADD_FAILURE() << "rates that differ were taken";
  } catch (const Error& error) {
    EXPECT_NE(error.message().find(rates.back().first + " = 0.125"), std::string::npos) << error.message();
    EXPECT_NE(error.message().find("model.dropout"), std::string::npos) << error.message();
    EXPECT_NE(error.next_step().find("--set model.dropout=0.125"), std::string::npos) << error.next_step();
  }
}

INSTANTIATE_TEST_SUITE_P(Families, HuggingFaceFolders, testing::ValuesIn(model::family_names()),
                         [](const auto& family) { return std::string(family.param); });

TEST(HuggingFaceFolder, WithoutWeightsServesAPlanAlone) {
  const fs::path folder = fs::temp_directory_path() / ("ridgeline_config_only_" + std::to_string(::getpid()));
  make_folder(folder);
  write_atomically(folder / "config.json", model::to_hugging_face(model::preset("gpt2")).dump());
  EXPECT_EQ(open_hugging_face(folder, false).config, model::preset("gpt2"));
  EXPECT_EQ(open_hugging_face(folder, false).weights, nullptr);
  EXPECT_THROW(open_hugging_face(folder), Error);
  fs::remove_all(folder);
}

}  // namespace
}  // namespace ridgeline::train

// The name tables against folders that Hugging Face transformers wrote.
#include "ridgeline/train/hugging_face_names.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "ridgeline/base/error.h"
#include "ridgeline/model/declarations.h"

namespace ridgeline::train {
namespace {

namespace fs = std::filesystem;

class HuggingFaceNames : public testing::TestWithParam<std::string_view> {
 protected:
  fs::path reference() const { return fs::path(RIDGELINE_TEST_DATA) / "reference" / GetParam(); }
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("ridgeline_names_" + std::to_string(::getpid()));
    fs::remove_all(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  static std::vector<float> whole(const checkpoint::HuggingFaceModel& model, const model::Tensor& tensor) {
    std::vector<float> values(static_cast<size_t>(tensor.count()));
    model.read_range(tensor.name, 0, tensor.count(), values.data());
    return values;
  }

  fs::path folder_;
};

TEST_P(HuggingFaceNames, ImportExportImportIsBitwise) {
  const model::TransformerConfig config = model::from_hugging_face(checkpoint::read_config(reference()));
  EXPECT_EQ(config.family, GetParam());
  const checkpoint::HuggingFaceModel original(reference(), hugging_face_names(config));
  checkpoint::ExportOptions options;
  options.config = model::to_hugging_face(config);
  checkpoint::export_hugging_face(
      folder_, hugging_face_names(config),
      [&](std::string_view name, int64_t first, int64_t count, Ref destination) {
        original.read_range(name, first, count, destination);
      },
      options);
  EXPECT_EQ(model::from_hugging_face(checkpoint::read_config(folder_)), config);
  const checkpoint::HuggingFaceModel again(folder_, hugging_face_names(config));
  int64_t elements = 0;
  for (const model::Segment& unit : model::declare(config)) {
    for (const model::Tensor& tensor : unit.tensors) {
      const std::vector<float> values = whole(original, tensor);
      EXPECT_EQ(values, whole(again, tensor)) << tensor.name;
      EXPECT_TRUE(std::any_of(values.begin(), values.end(), [](float v) { return v != 0.0F; })) << tensor.name;
      elements += tensor.count();
    }
  }
  EXPECT_EQ(elements, config.parameters());
  // Their file holds the same tensors under the same names, bit for bit, and no other.
  ASSERT_EQ(original.files().tensors().size(), again.files().tensors().size());
  for (const checkpoint::TensorFolder::Place& place : original.files().tensors()) {
    const checkpoint::TensorFolder::Place mine = again.files().at(place.tensor->name);
    EXPECT_EQ(mine.tensor->shape, place.tensor->shape);
    const auto a = place.file->bytes(*place.tensor), b = mine.file->bytes(*mine.tensor);
    EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end())) << place.tensor->name;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, HuggingFaceNames, testing::ValuesIn(model::family_names()),
                         [](const auto& family) { return std::string(family.param); });

TEST(HuggingFaceNameTables, NameEveryTensorOfEveryOptionThatTheClassHas) {
  const auto names = [](const char* preset, auto change) {
    model::TransformerConfig config = model::preset(preset);
    config.layers = 2;
    change(config);
    config = model::with_usual_sizes(config);
    const checkpoint::NameTable table = hugging_face_names(config);
    std::vector<std::string> theirs;
    int64_t elements = 0;
    for (const checkpoint::Mapping& mapping : table.tensors) {
      for (const checkpoint::Block& block : mapping.blocks) {
        theirs.push_back(block.name);
        elements += block.count();
      }
    }
    EXPECT_EQ(elements, config.parameters()) << preset;
    return theirs;
  };
  const auto has = [](const std::vector<std::string>& all, const char* name) {
    return std::find(all.begin(), all.end(), name) != all.end();
  };
  EXPECT_TRUE(has(names("gpt2", [](auto& c) { c.tied = false; }), "lm_head.weight"));
  EXPECT_TRUE(has(names("gptj-6b", [](auto& c) { c.tied = true; }), "lm_head.bias"));
  EXPECT_FALSE(has(names("gpt-neox-20b", [](auto& c) { c.tied = true; }), "embed_out.weight"));
  EXPECT_FALSE(has(names("gpt-neox-20b", [](auto& c) { c.qkv_bias = c.out_bias = false; }),
                   "gpt_neox.layers.0.attention.dense.bias"));
  names("gpt-neox-20b", [](auto& c) { c.residual = model::Residual::sequential; });
  names("llama3-8b", [](auto&) {});
  EXPECT_TRUE(has(names("llama3-8b", [](auto& c) { c.kv_heads = c.heads; }), "model.layers.1.self_attn.k_proj.weight"));
  EXPECT_TRUE(
      has(names("llama3-8b", [](auto& c) { c.qkv_bias = c.out_bias = true; }), "model.layers.1.self_attn.v_proj.bias"));
  EXPECT_TRUE(has(names("llama3-8b", [](auto& c) { c.mlp_bias = true; }), "model.layers.1.mlp.gate_proj.bias"));
  EXPECT_THROW(names("llama3-8b", [](auto& c) { c.norm = model::Norm::layer; }), Error);
}

}  // namespace
}  // namespace ridgeline::train

// Manifests that earlier versions wrote (tests/data/manifests) are still read.
#include <gtest/gtest.h>

#include <filesystem>
#include <map>

#include "ridgeline/base/file.h"
#include "ridgeline/checkpoint/manifest.h"
#include "ridgeline/train/state.h"

namespace ridgeline::train {
namespace {

model::TransformerConfig small(const char* family) {
  model::TransformerConfig config = model::family_options(family);
  config.layers = 3;
  config.width = 48;
  config.heads = 4;
  config.vocab = 331;
  config.context = 32;
  return config;
}

TEST(OldCheckpoints, AreStillRead) {
  model::TransformerConfig gpt2 = small("gpt2"), llama = small("llama"), neox = small("gpt_neox");
  gpt2.dropout = neox.dropout = 0.1F;
  llama.kv_heads = 2;
  llama.ffn = 128;
  llama.rotary_base = 500000.0;
  llama.norm_epsilon = 1e-6F;
  neox.rotary_width = 4;
  const std::map<std::string, model::TransformerConfig> expected = {
      {"1_gpt2_alone.json", gpt2}, {"2_four_families.json", llama}, {"3_loss_scale.json", neox}};
  size_t read = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::filesystem::path(RIDGELINE_TEST_DATA) / "manifests")) {
    const std::string name = entry.path().filename().string();
    SCOPED_TRACE(name);
    ASSERT_TRUE(expected.contains(name)) << "a manifest without an expectation";
    const checkpoint::Manifest manifest = checkpoint::parse_manifest(read_text(entry.path()), name);
    EXPECT_EQ(manifest.step, 20);
    EXPECT_EQ(model_config_of(manifest.extra, name), model::with_usual_sizes(expected.at(name)));
    const RunState state = run_state_from_json(manifest.extra, name);
    EXPECT_EQ(state.consumed_samples, 160);
    EXPECT_EQ(state.successful_samples, name == "3_loss_scale.json" ? 152 : 160);
    EXPECT_EQ(state.best_validation_loss, 3.25);
    ++read;
  }
  EXPECT_EQ(read, expected.size());
}

}  // namespace
}  // namespace ridgeline::train

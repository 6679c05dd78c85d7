#include "ridgeline/train/generator.h"

#include <cmath>
#include <map>

#include "small_run.h"

namespace ridgeline::train {
namespace {

TEST_F(SmallRun, the_cache_gives_the_same_logits_as_one_pass) {
  for (const std::string family : {"gpt2", "gptj", "gpt_neox", "llama"}) {
    std::vector<std::string> overrides = {"model.family=" + family, "train.steps=4"};
    if (family == "llama") overrides.emplace_back("model.kv_heads=2");
    run(config(overrides), 1, family);
    const ModelSource source = ModelSource::open(folder_ / family);
    EXPECT_EQ(source.config().family, family);
    Generator one_by_one(source, DType::f32, 1), at_once(source, DType::f32, 2);
    const std::vector<int32_t> tokens = {3, 18, 32, 41, 7, 7, 60, 0, 1, 12, 5};
    std::vector<float> last;
    for (const int32_t token : tokens) {
      const std::span<const float> logits = one_by_one.feed({&token, 1});
      last.assign(logits.begin(), logits.end());
    }
    const std::span<const float> whole = at_once.feed(tokens);
    for (size_t i = 0; i < last.size(); ++i) EXPECT_NEAR(last[i], whole[i], 2e-5F) << family;
  }
}

TEST_F(SmallRun, every_family_learns_and_resumes) {
  for (const std::string family : {"gptj", "gpt_neox", "llama"}) {
    std::vector<std::string> overrides = {"model.family=" + family, "model.dropout=0.1"};
    if (family == "llama") overrides.emplace_back("model.kv_heads=1");
    run(config(overrides), 2, family + "_whole");
    const std::vector<double> whole = losses(family + "_whole");
    EXPECT_LT(whole.back(), whole.front() - 0.1) << family;
    const std::filesystem::path step = "checkpoints/step_00000004", resumed = folder_ / (family + "_resumed");
    std::filesystem::create_directories(resumed / "checkpoints");
    std::filesystem::copy(folder_ / (family + "_whole") / step, resumed / step,
                          std::filesystem::copy_options::recursive);
    run(config(overrides), 2, family + "_resumed", true);
    EXPECT_TRUE(state(family + "_whole", 8) == state(family + "_resumed", 8)) << family;
  }
}

TEST(sample_token, temperature_zero_takes_the_most_likely) {
  const std::vector<float> logits = {0.0F, 3.0F, 2.0F, 3.0F};
  EXPECT_EQ(sample_token(logits, {.temperature = 0.0}, 0), 1);
}

TEST(sample_token, draws_follow_the_distribution) {
  const std::vector<float> logits = {std::log(0.5F), std::log(0.3F), std::log(0.15F), std::log(0.05F)};
  const auto frequencies = [&](Sampling sampling) {
    std::map<int32_t, double> counts;
    for (uint64_t draw = 0; draw < 20000; ++draw) counts[sample_token(logits, sampling, draw)] += 1.0 / 20000;
    return counts;
  };
  // Four standard deviations of 20,000 draws: 0.014.
  auto all = frequencies({});
  EXPECT_NEAR(all[0], 0.5, 0.014);
  EXPECT_NEAR(all[3], 0.05, 0.014);
  auto two = frequencies({.top_k = 2});
  EXPECT_NEAR(two[0], 0.625, 0.014);
  EXPECT_EQ(two.count(2), 0U);
  auto nucleus = frequencies({.top_p = 0.79});
  EXPECT_NEAR(nucleus[1], 0.375, 0.014);
  EXPECT_EQ(nucleus.count(2), 0U);
  auto three = frequencies({.top_p = 0.81});
  EXPECT_GT(three[2], 0.1);
  EXPECT_EQ(three.count(3), 0U);
}

}  // namespace
}  // namespace ridgeline::train

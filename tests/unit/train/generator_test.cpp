#include "ridgeline/train/generator.h"

#include <cmath>
#include <limits>
#include <map>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "small_run.h"

namespace ridgeline::train {
namespace {

TEST_F(SmallRun, the_cache_gives_the_same_logits_as_one_pass) {
  for (const std::string_view name : model::family_names()) {
    const std::string family(name);
    std::vector<std::string> overrides = {"model.family=" + family, "train.steps=4"};
    if (family == "llama") overrides.emplace_back("model.kv_heads=2");
    run(config(overrides), 1, family);
    const ModelSource source = ModelSource::open(folder_ / family);
    EXPECT_EQ(source.config().family, family);
    comm::run_threads(1, {}, [&](comm::World& world) {
      Generator one_by_one(world, source, DType::f32, 1, {}, 0, true), at_once(world, source, DType::f32, 2);
      const std::vector<int32_t> tokens = {3, 18, 32, 41, 7, 7, 60, 0, 1, 12, 5};
      std::vector<float> last;
      for (const int32_t token : tokens) {
        const std::span<const float> logits = one_by_one.feed({&token, 1});
        last.assign(logits.begin(), logits.end());
      }
      const std::span<const float> whole = at_once.feed(tokens);
      for (size_t i = 0; i < last.size(); ++i) EXPECT_NEAR(last[i], whole[i], 2e-5F) << family;
    });
  }
}

// No rank holds the whole model.
TEST_F(SmallRun, a_model_that_is_cut_gives_the_same_logits_and_losses) {
  for (const std::string_view name : model::family_names()) {
    const std::string family(name);
    std::vector<std::string> overrides = {"model.family=" + family, "train.steps=4", "model.heads=4", "model.width=32",
                                          "model.layers=3"};
    if (family == "llama") overrides.emplace_back("model.kv_heads=2");
    run(config(overrides), 1, family);
    const ModelSource source = ModelSource::open(folder_ / family);
    const std::vector<int32_t> tokens = {3, 18, 32, 41, 7, 7, 60, 0, 1, 12, 5};
    const auto logits_of = [&](const ModelCut& cut) {
      std::vector<float> result;
      comm::run_threads(cut.ranks(), {}, [&](comm::World& world) {
        Generator generator(world, source, DType::f32, 1, cut, 0, true);
        std::vector<float> mine;
        for (const auto& [first, count] : {std::pair{0, 4}, {4, 1}, {5, 6}}) {
          const std::span<const float> logits = generator.feed(std::span(tokens).subspan(first, count));
          mine.assign(logits.begin(), logits.end());
        }
        if (world.rank() == 0) result = mine;
      });
      return result;
    };
    const std::vector<float> whole = logits_of({});
    for (const ModelCut& cut : {ModelCut{2, 1}, ModelCut{1, 3}, ModelCut{4, 2}}) {
      const std::vector<float> parts = logits_of(cut);
      ASSERT_EQ(parts.size(), whole.size());
      for (size_t i = 0; i < whole.size(); ++i)
        EXPECT_NEAR(parts[i], whole[i], 2e-5F) << family << ", " << cut.tensor << " x " << cut.pipeline;
    }
  }
}

// Pieces of many lengths, up to the limit and the context.
TEST_F(SmallRun, the_cache_fills_without_a_trace) {
  run(config({"model.family=llama", "model.context=1100", "train.steps=1", "optimizer.warmup_steps=0"}), 1, "long");
  const ModelSource source = ModelSource::open(folder_ / "long");
  comm::run_threads(1, {}, [&](comm::World& world) {
    Generator growing(world, source, DType::f32, 1), limited(world, source, DType::f32, 1, {}, 1000);
    std::vector<int32_t> tokens(1000);
    for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>((i * i + 7) % kVocabulary);
    std::vector<float> expected, first;
    for (size_t at = 0; at < tokens.size();) {
      // In pieces of other lengths than those of one call.
      const size_t count = std::min(tokens.size() - at, at == 0 ? size_t{255} : at == 255 ? size_t{2} : size_t{97});
      const std::span<const float> logits = growing.feed(std::span(tokens).subspan(at, count));
      expected.assign(logits.begin(), logits.end());
      at += count;
    }
    const std::span<const float> whole = limited.feed(tokens);
    for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(expected[i], whole[i], 2e-5F);
    EXPECT_THROW(limited.feed({tokens.data(), 1}), Error) << "past the limit";
    EXPECT_EQ(limited.position(), 1000);
    std::vector<int32_t> rest(100, 1);
    growing.feed(rest);
    EXPECT_THROW(growing.feed({tokens.data(), 1}), Error) << "past the context";
    growing.reset();
    EXPECT_NO_THROW(growing.feed(tokens));
  });
}

TEST_F(SmallRun, what_is_not_finite_is_named) {
  run(config({"train.steps=1", "optimizer.warmup_steps=0"}), 1, "run");
  const std::filesystem::path file = folder_ / "run/checkpoints/step_00000001/state.safetensors";
  const std::vector<int32_t> tokens = {3, 18, 32};
  // What feeding the tokens says once element 5 of these tensors has this value.
  const auto failure = [&](const std::vector<std::string>& tensors, float value, const ModelCut& cut = {}) {
    const std::filesystem::path intact = folder_ / "intact";
    std::filesystem::copy_file(file, intact, std::filesystem::copy_options::overwrite_existing);
    for (const std::string& name : tensors) {
      const int64_t begin = checkpoint::SafetensorsFile(intact).find(name)->begin;
      File(file, File::Mode::update).write_at(begin + 5 * 4, std::as_bytes(std::span(&value, 1)));
    }
    std::string message;
    try {
      comm::run_threads(cut.ranks(), {}, [&](comm::World& world) {
        Generator(world, ModelSource::open(folder_ / "run", false), DType::f32, 1, cut).feed(tokens);
      });
    } catch (const Error& error) {
      message = error.message();
    }
    std::filesystem::rename(intact, file);
    return message;
  };
  EXPECT_EQ(failure({"embedding.weight"}, 1.0F), "");
  EXPECT_NE(
      failure({"block.1.mlp.up.weight", "final_norm.weight"}, std::nanf("")).find("block.1.mlp.up.weight (element 5)"),
      std::string::npos);
  EXPECT_NE(failure({"final_norm.bias"}, std::numeric_limits<float>::infinity()).find("final_norm.bias (element 5)"),
            std::string::npos);
  // Twice the largest number in one place of the residual stream; whoever has to find it.
  for (const ModelCut& cut : {ModelCut{}, ModelCut{2, 1}, ModelCut{1, 2}}) {
    EXPECT_NE(
        failure({"block.0.mlp.down.bias", "block.1.mlp.down.bias"}, 3e38F, cut).find("first seen in output of block 1"),
        std::string::npos);
    // Later stages see it too.
    EXPECT_NE(failure({"block.0.mlp.up.bias"}, std::nanf(""), cut).find("block.0.mlp.up.bias (element 5)"),
              std::string::npos);
  }
}

TEST_F(SmallRun, every_family_learns_and_resumes) {
  for (const std::string_view name : model::family_names()) {
    const std::string family(name);
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

TEST(sample_token, refuses_settings_that_are_no_numbers) {
  const double nan = std::nan(""), infinity = std::numeric_limits<double>::infinity();
  for (const double temperature : {nan, infinity, -infinity, -0.5})
    EXPECT_THROW(check({.temperature = temperature}), Error);
  for (const double top_p : {nan, infinity, -0.1, 1.1}) EXPECT_THROW(check({.top_p = top_p}), Error);
  EXPECT_THROW(check({.top_k = -1}), Error);
  EXPECT_NO_THROW(check({}));
  EXPECT_NO_THROW(check({.temperature = 0.0, .top_k = 1, .top_p = 0.0}));
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

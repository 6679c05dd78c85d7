// What several keys, or the number of ranks, make impossible.
#include <filesystem>

#include "expect_error.h"
#include "ridgeline/train/config.h"

namespace ridgeline::train {
namespace {

constexpr const char* kGood = R"([model]
layers = 4
width = 256
heads = 8
vocab = 4096
context = 256
[train]
steps = 100
global_batch = 16
micro_batch = 4
)";

Config good(std::vector<std::string> overrides = {}) {
  return parse_config_text(kGood, "a.toml", overrides);
}

TEST(ConfigCheck, AcceptsWhatFits) {
  for (const int ranks : {1, 2, 4}) EXPECT_NO_THROW(check(good(), ranks)) << ranks;
  for (const std::string& preset : ridgeline::model::preset_names()) {
    EXPECT_NO_THROW(check(good({"model.preset=" + preset}), 2)) << preset;
  }
}

TEST(ConfigCheck, BatchThatRanksDoNotDivideGetsTheNearestValidOnes) {
  expect_error([] { check(good(), 3); },
               {"a.toml:9: train.global_batch = 16: not a multiple of 3 ranks x train.micro_batch = 4 (that is 12)",
                "train.global_batch = 12", "--ranks 2", "16 is not a multiple of 3 ranks"});
  expect_error([] { check(good(), 8); },
               {"8 ranks x train.micro_batch = 4 (that is 32)", "train.global_batch = 32", "train.micro_batch = 2."});
  expect_error([] { check(good({"train.micro_batch=3"}), 1); },
               {"1 rank x train.micro_batch = 3", "train.global_batch = 15", "train.micro_batch = 2."});
  expect_error([] { check(good({"train.global_batch=2"}), 4); },
               {"--set: train.global_batch = 2", "train.global_batch = 16"});
}

TEST(ConfigCheck, SuggestedBatchesAreValid) {
  EXPECT_NO_THROW(check(good({"train.global_batch=12"}), 3));
  EXPECT_NO_THROW(check(good(), 2));
  EXPECT_NO_THROW(check(good({"train.global_batch=32"}), 8));
  EXPECT_NO_THROW(check(good({"train.micro_batch=2"}), 8));
  EXPECT_NO_THROW(check(good({"train.global_batch=15", "train.micro_batch=3"}), 1));
}

TEST(ConfigCheck, RanksMustBePositive) {
  expect_error([] { check(good(), 0); }, {"--ranks 0", "at least 1"});
}

TEST(ConfigCheck, HeadsMustDivideTheWidth) {
  expect_error(
      [] {
        check(good({"model.heads=7", "model.kv_heads=7"}), 1);
      },
      {"--set: model.heads = 7: does not divide model.width = 256", "nearest valid value is 8"});
}

TEST(ConfigCheck, OptionsNameTheirWordsAndNeighbours) {
  expect_error([] { good({"model.norm=rsm"}); },
               {"--set: model.norm = \"rsm\": must be layer | rms", "nearest valid value is \"rms\""});
  expect_error([] { good({"model.family=lama"}); },
               {"--set: model.family = \"lama\"", "nearest valid value is \"llama\""});
  expect_error([] { good({"model.norm=3"}); }, {"--set: model.norm = \"3\": must be layer | rms"});
  expect_error([] { check(good({"model.rotary_width=4"}), 1); },
               {"--set: model.rotary_width = 4: only with model.positions = rotary"});
  EXPECT_NO_THROW(check(good({"model.positions=rotary", "model.rotary_width=4"}), 1));
  EXPECT_NO_THROW(check(good({"model.kv_heads=2", "model.mlp=swiglu", "model.residual=parallel"}), 1));
}

TEST(ConfigCheck, ModelErrorsNameFileAndLine) {
  const std::string text = std::string(kGood).replace(std::string(kGood).find("heads = 8"), 9, "heads = 6");
  expect_error([&] { check(parse_config_text(text, "a.toml"), 1); }, {"a.toml:4: model.heads = 6"});
}

TEST(ConfigCheck, SequenceMustFitTheContext) {
  expect_error([] { check(good({"train.sequence=512"}), 1); },
               {"--set: train.sequence = 512: longer than model.context = 256", "nearest valid value is 256"});
}

TEST(ConfigCheck, MinimumLearningRateMustNotExceedThePeak) {
  expect_error(
      [] {
        check(good({"optimizer.learning_rate=1e-4", "optimizer.min_learning_rate=1e-3"}), 1);
      },
      {"--set: optimizer.min_learning_rate = 0.001: above optimizer.learning_rate = 0.0001",
       "nearest valid value is 0.0001"});
}

TEST(ConfigCheck, WarmUpMustEndBeforeTheRun) {
  expect_error([] { check(good({"optimizer.warmup_steps=100"}), 1); },
               {"--set: optimizer.warmup_steps = 100: must be below train.steps = 100", "nearest valid value is 99"});
  EXPECT_NO_THROW(check(good({"optimizer.warmup_steps=99"}), 1));
}

TEST(ConfigCheck, SplitMustBeShares) {
  expect_error([] { check(good({"data.split=most"}), 1); }, {"--set: data.split", "most"});
  EXPECT_NO_THROW(check(good({"data.split=1"}), 1));
}

TEST(ConfigCheck, NoModelIsAnErrorThatSaysHowToGiveOne) {
  expect_error([] { check(parse_config({}), 1); }, {"no model is given", "--set model.preset=gpt2"});
  expect_error([] { check(parse_config_text("[model]\nwidth = 256\n", "a.toml"), 1); },
               {"model.layers, model.heads, model.vocab, model.context: not given", "model.preset"});
}

TEST(ConfigCheck, SingleValuesAreCheckedAgain) {
  Config config = good();
  config.train.steps = -5;
  expect_error([&] { check(config, 1); }, {"a.toml:8: train.steps = -5: must be at least 1"});
  config = good();
  config.parallel.context = 2;
  expect_error([&] { check(config, 2); }, {"parallel.context = 2: not in this version"});
}

TEST(ConfigCheck, TensorParallelismNeedsWhatDivides) {
  // 6 heads of a width of 36, 78 feed-forward columns, 11 tokens a sequence.
  const auto refuse = [](const std::vector<std::string>& keys, int ranks, std::initializer_list<std::string> parts) {
    std::vector<std::string> all = {"model.width=36",    "model.heads=6",       "model.ffn=78",
                                    "train.sequence=11", "train.micro_batch=2", "train.global_batch=4"};
    all.insert(all.end(), keys.begin(), keys.end());
    expect_error([&] { check(good(all), ranks); }, parts);
  };
  refuse({"parallel.tensor=4"}, 4, {"parallel.tensor = 4: model.heads = 6 is no multiple", "nearest valid value is 3"});
  refuse({"model.ffn=75", "parallel.tensor=2"}, 2, {"parallel.tensor = 2: model.ffn = 75 is no multiple", "is 1"});
  refuse({"model.kv_heads=2", "parallel.tensor=3"}, 3, {"parallel.tensor = 3", "model.kv_heads = 2", "is 2"});
  refuse({"parallel.sequence=true"}, 2, {"parallel.sequence = true: parallel.tensor = 1", "Set parallel.tensor"});
  refuse({"parallel.tensor=3", "parallel.sequence=true"}, 3, {"the 22 tokens", "parallel.tensor = 3", "= 2"});
  refuse({"parallel.tensor=2"}, 3, {"3"});
}

TEST(ConfigCheck, APipelineNeedsBlocksAndMicroBatches) {
  const auto refuse = [](const std::vector<std::string>& keys, int ranks, std::initializer_list<std::string> parts) {
    std::vector<std::string> all = {"model.layers=4", "train.micro_batch=1", "train.global_batch=4"};
    all.insert(all.end(), keys.begin(), keys.end());
    expect_error([&] { check(good(all), ranks); }, parts);
  };
  refuse({"parallel.pipeline=5"}, 5, {"parallel.pipeline = 5: more stages than model.layers = 4", "value is 4"});
  refuse({"parallel.chunks=2"}, 1, {"parallel.chunks = 2: only parallel.schedule = \"interleaved\""});
  refuse({"parallel.chunks=2", "parallel.schedule=interleaved"}, 1, {"parallel.chunks = 2: parallel.pipeline = 1"});
  refuse({"parallel.chunks=3", "parallel.pipeline=2", "parallel.schedule=interleaved"}, 2,
         {"parallel.pipeline = 2 x parallel.chunks = 3: more stages", "value is 1"});
  refuse({"parallel.pipeline=3", "parallel.schedule=interleaved"}, 3,
         {"parallel.schedule = \"interleaved\": a batch of 4 is 4 micro-batches", "train.global_batch = 3"});
  refuse({"parallel.pipeline=2", "parallel.stages=1,2"}, 2, {"parallel.stages = \"1,2\": 3 blocks in all", "= 4"});
  refuse({"parallel.pipeline=2", "parallel.stages=4"}, 2, {"parallel.stages = \"4\": 1 numbers", "= 2 numbers"});
  refuse({"parallel.pipeline=2", "parallel.stages=4,x"}, 2, {"'x' is no whole number"});
  refuse({"parallel.pipeline=2", "parallel.stages=4,0"}, 2, {"'0' is no whole number of at least 1"});
  refuse({"parallel.schedule=gpipe"}, 1, {"parallel.schedule = \"gpipe\": parallel.pipeline = 1 has no stages"});
  refuse({"parallel.stages=4"}, 1, {"parallel.stages = \"4\": parallel.pipeline = 1 has no stages"});
  EXPECT_NO_THROW(check(good({"model.layers=4", "train.micro_batch=1", "train.global_batch=4", "parallel.pipeline=2",
                              "parallel.stages=1,3"}),
                        4));
}

TEST(ConfigCheck, DataIsAskedForSeparately) {
  EXPECT_NO_THROW(check(good(), 1));
  expect_error([] { require_data(good()); }, {"data.train: not given", "--set data.train=PREFIX"});
  EXPECT_NO_THROW(require_data(good({"data.train=x"})));
}

// The most copies of the model (a power of two) that a file's batch is enough for.
int most_copies(const std::string& file) {
  if (file == "quickstart.toml" || file == "gptj_6b_fsdp_twin.toml" || file.find("_3d") != std::string::npos) return 2;
  const bool of_the_tutorial = file == "gpt2_xl_ddp.toml" || file.starts_with("gptj_");
  return of_the_tutorial && !file.ends_with("_twin.toml") ? 16 : 8;
}

TEST(ConfigFiles, ThatComeWithRidgelineAreValid) {
  int files = 0;
  const std::filesystem::path folder = std::filesystem::path(RIDGELINE_TEST_DATA) / ".." / ".." / "configs";
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string file = entry.path().filename().string();
    if (entry.path().extension() != ".toml") continue;
    ++files;
    const auto check_for = [&](int ranks) {
      Config config = parse_config(entry.path());
      if (!config.train.init_from.empty()) config = with_imported_model(config, ridgeline::model::preset("gpt2"));
      check(config, ranks);
    };
    const Config::Parallel parallel = parse_config(entry.path()).parallel;
    for (int copies = 1; copies <= most_copies(file); copies *= 2) {
      const int ranks = copies * static_cast<int>(parallel.tensor * parallel.pipeline);
      EXPECT_NO_THROW(check_for(ranks)) << file << " on " << ranks << " ranks";
    }
  }
  EXPECT_GE(files, 20);
}

TEST(ImportedModel, GivesTheSizesThatWereLeftOut) {
  const std::vector<std::string> overrides{"train.init_from=hf", "model.dropout=0.1"};
  const Config before = parse_config({}, overrides);
  EXPECT_FALSE(before.has_model());
  EXPECT_NO_THROW(check(before, 1)) << "the model is still to come";
  ridgeline::model::TransformerConfig imported = ridgeline::model::preset("gpt2");
  imported.norm_epsilon = 1e-6F;
  imported.dropout = 0.3F;
  const Config after = with_imported_model(before, imported);
  EXPECT_EQ(after.model.transformer.width, 768);
  EXPECT_EQ(after.model.transformer.norm_epsilon, 1e-6F);
  EXPECT_EQ(after.model.transformer.dropout, 0.1F) << "dropout is a setting of this run";
  EXPECT_EQ(after.train.sequence, 1024);
  EXPECT_NO_THROW(check(after, 1));
}

TEST(ImportedModel, RefusesGivenSizesThatDiffer) {
  const std::vector<std::string> overrides{"train.init_from=hf"};
  const auto import = [&](const char* text) {
    return with_imported_model(parse_config_text(text, "a.toml", overrides), ridgeline::model::preset("gpt2"));
  };
  expect_error([&] { import("[model]\nwidth = 512\n"); },
               {"a.toml:2: model.width = 512: the model in train.init_from (hf) has 768", "Leave"});
  expect_error([&] { import("[model]\npreset = \"gpt2-xl\"\n"); }, {"a.toml:2: model.layers = 48", "has 12"});
  EXPECT_NO_THROW(import("[model]\nwidth = 768\n"));
  EXPECT_NO_THROW(import("[model]\npreset = \"gpt2\"\n"));
}

TEST(ImportedModel, TakesThePlaceOfAPresetThatIsTakenBack) {
  const char* const text = "[model]\npreset = \"gptj-6b\"\nlayers = 12\ndropout = 0.1\n";
  std::vector<std::string> overrides{"train.init_from=hf"};
  expect_error(
      [&] { with_imported_model(parse_config_text(text, "a.toml", overrides), ridgeline::model::preset("gpt2")); },
      {"a.toml:2: model.", "--set model.preset= takes the preset back"});
  overrides.emplace_back("model.preset=");
  const Config open = parse_config_text(text, "a.toml", overrides);
  EXPECT_EQ(open.model.transformer.layers, 12) << "given beside the preset";
  EXPECT_EQ(open.model.transformer.width, 0);
  const Config after = with_imported_model(open, ridgeline::model::preset("gpt2"));
  EXPECT_EQ(after.model.transformer.dropout, 0.1F);
  ridgeline::model::TransformerConfig expected = ridgeline::model::preset("gpt2");
  expected.dropout = 0.1F;
  EXPECT_EQ(after.model.transformer, expected);
  EXPECT_EQ(after.model.preset, "");
}

TEST(ImportedModel, TheEffectiveConfigurationImportsAgain) {
  const std::vector<std::string> overrides{"train.init_from=hf"};
  const Config first = with_imported_model(parse_config({}, overrides), ridgeline::model::preset("gpt2"));
  const Config again = with_imported_model(parse_config_text(to_toml(first, Detail::documented), "config.toml"),
                                           ridgeline::model::preset("gpt2"));
  EXPECT_THAT(differences(first, again), testing::IsEmpty());
}

}  // namespace
}  // namespace ridgeline::train

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <set>

#include "expect_error.h"
#include "ridgeline/train/config.h"
#include "ridgeline/train/config_keys.h"

namespace ridgeline::train {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

constexpr const char* kSmall = R"(
[model]
layers = 4
width = 256
heads = 8
vocab = 4096
context = 256

[train]
steps = 300
precision = "bf16"

[optimizer]
learning_rate = 1e-3
clip = 1
)";

Config parse(std::string_view text, std::vector<std::string> overrides = {}) {
  return parse_config_text(text, "a.toml", overrides);
}

TEST(ConfigReading, TakesValuesAndLeavesTheRestAtDefault) {
  const Config config = parse(kSmall);
  EXPECT_EQ(config.train.steps, 300);
  EXPECT_EQ(config.train.precision, Precision::bf16);
  EXPECT_EQ(activation_dtype(config), DType::bf16);
  EXPECT_EQ(config.optimizer.schedule.learning_rate, 1e-3);
  EXPECT_EQ(config.optimizer.clip, 1.0) << "a whole number serves as a number";
  EXPECT_EQ(config.optimizer.beta2, Config{}.optimizer.beta2);
}

TEST(ConfigReading, AWholeNumberMayBeWrittenAsAReal) {
  const Config config = parse("[train]\nsteps = 1e3\nseed = 2.0\n", {"train.keep_last=1_0", "train.save_every=5e1"});
  EXPECT_EQ(config.train.steps, 1000);
  EXPECT_EQ(config.train.seed, 2);
  EXPECT_EQ(config.train.keep_last, 10);
  EXPECT_EQ(config.train.save_every, 50);
}

TEST(ConfigReading, CompletesSizesThatFollowFromOthers) {
  const Config config = parse(kSmall);
  EXPECT_EQ(config.model.transformer.kv_heads, 8);
  EXPECT_EQ(config.model.transformer.ffn, 1024);
  EXPECT_EQ(config.train.sequence, 256);
}

TEST(ConfigReading, RemembersWhereAKeyWasGiven) {
  const Config config = parse(kSmall, {"train.seed=7"});
  EXPECT_EQ(config.origins.at("train.steps"), "a.toml:10");
  EXPECT_EQ(config.origins.at("train.seed"), "--set");
  EXPECT_EQ(config.origins.count("train.keep_last"), 0U);
}

TEST(ConfigReading, OverridesTakeBareWordsAndToml) {
  const Config config = parse(kSmall, {"train.precision=fp32", "data.train = out/my data", "data.split=90,10,0",
                                       "data.tokenizer=\"a\\tb\"", "data.valid=3", "optimizer.clip=0.5",
                                       "train.seed=0x10", "train.steps=1_000", "parallel.sequence=false"});
  EXPECT_EQ(config.train.precision, Precision::fp32);
  EXPECT_EQ(config.data.train, "out/my data");
  EXPECT_EQ(config.data.split, "90,10,0");
  EXPECT_EQ(config.data.tokenizer, "a\tb");
  EXPECT_EQ(config.data.valid, "3") << "a text key takes any bare text";
  EXPECT_EQ(config.optimizer.clip, 0.5);
  EXPECT_EQ(config.train.seed, 16);
  EXPECT_EQ(config.train.steps, 1000);
}

TEST(ConfigReading, LastOverrideWins) {
  EXPECT_EQ(parse(kSmall, {"train.steps=5", "train.steps=6"}).train.steps, 6);
}

TEST(ConfigReading, ValuesMayContainEqualsSigns) {
  EXPECT_EQ(parse(kSmall, {"data.train=a=b"}).data.train, "a=b");
}

TEST(ConfigReading, PresetGivesSizesAndKeysBesideItReplaceThem) {
  const Config config = parse("model.width = 1024\nmodel.preset = \"gpt2-124m\"\nmodel.heads = 16\n");
  EXPECT_EQ(config.model.transformer.layers, 12);
  EXPECT_EQ(config.model.transformer.width, 1024);
  EXPECT_EQ(config.model.transformer.heads, 16);
  EXPECT_EQ(config.model.transformer.kv_heads, 16);
  EXPECT_EQ(config.model.transformer.ffn, 4096);
}

TEST(ConfigReading, PresetAsOverrideReplacesTheFilesSizesButNotOtherOverrides) {
  const Config config = parse(kSmall, {"model.layers=2", "model.preset=gpt2"});
  EXPECT_EQ(config.model.transformer.width, 768);
  EXPECT_EQ(config.model.transformer.vocab, 50257);
  EXPECT_EQ(config.model.transformer.layers, 2);
}

TEST(ConfigReading, FamilySetsOptionsAndKeysBesideItReplaceThem) {
  const auto transformer = [](const std::string& text, const std::vector<std::string>& overrides = {}) {
    return parse_config_text(text, "a.toml", overrides).model.transformer;
  };
  const std::string sizes = "layers = 2\nwidth = 64\nheads = 4\nvocab = 100\ncontext = 32\n";
  namespace m = ridgeline::model;
  const m::TransformerConfig llama = transformer("[model]\nnorm = \"layer\"\nfamily = \"llama\"\n" + sizes);
  EXPECT_EQ(llama.norm, m::Norm::layer) << "given beside the family, wherever it stands";
  EXPECT_EQ(llama.mlp, m::Mlp::swiglu);
  EXPECT_EQ(llama.positions, m::Positions::rotary);
  EXPECT_FALSE(llama.qkv_bias);
  EXPECT_EQ(llama.ffn, 256);
  EXPECT_EQ(llama.rotary_width, 16);
  const m::TransformerConfig changed =
      transformer("[model]\nfamily = \"llama\"\nnorm = \"layer\"\n" + sizes, {"model.family=gptj", "model.tied=true"});
  EXPECT_EQ(changed.residual, m::Residual::parallel_one_norm);
  EXPECT_EQ(changed.mlp, m::Mlp::gelu_tanh);
  EXPECT_EQ(changed.layers, 2) << "sizes stay";
  EXPECT_TRUE(changed.tied);
  EXPECT_TRUE(changed.head_bias);
}

TEST(ConfigReading, PresetsOfOtherFamiliesKeepTheirSizes) {
  const std::vector<std::string> llama = {"model.preset=llama3-8b"};
  EXPECT_EQ(parse_config({}, llama).model.transformer, ridgeline::model::preset("llama3-8b"));
  const std::vector<std::string> gptj = {"model.preset=gptj-6b", "model.layers=2"};
  ridgeline::model::TransformerConfig expected = ridgeline::model::preset("gptj-6b");
  expected.layers = 2;
  EXPECT_EQ(parse_config({}, gptj).model.transformer, expected);
}

TEST(ConfigReading, PresetKeepsDropout) {
  EXPECT_EQ(parse("[model]\ndropout = 0.1\npreset = \"gpt2\"\n").model.transformer.dropout, 0.1F);
}

TEST(ConfigReading, ReadsAFileAndTheDefaultsWithoutOne) {
  const std::filesystem::path file = std::filesystem::path(testing::TempDir()) / "ridgeline_config_test.toml";
  std::ofstream(file) << kSmall;
  const std::vector<std::string> overrides{"train.steps=301"};
  EXPECT_EQ(parse_config(file, overrides).train.steps, 301);
  EXPECT_THAT(parse_config(file).origins.at("train.steps"), HasSubstr("ridgeline_config_test.toml:10"));
  std::filesystem::remove(file);
  EXPECT_EQ(parse_config({}).train.steps, Config{}.train.steps);
  expect_error([&] { parse_config(file); }, {file.string(), "No such file"});
}

TEST(ConfigReading, DatasetsAreOneOrSeveralWithWeights) {
  const DatasetList one("data/web");
  EXPECT_EQ(parse("[data]\ntrain = \"data/web\"\n").data.train, one);
  EXPECT_EQ(parse("[data]\ntrain = [[3, \"data/web\"]]\n").data.train, one) << "alone it has all the weight";
  EXPECT_TRUE(parse("[data]\ntrain = \"\"\n").data.train.empty());
  DatasetList two;
  two.entries = {{0.7, "data/web"}, {2, "b [x]"}};
  const std::string list = "[[0.7, \"data/web\"], [2, 'b [x]']]";
  EXPECT_EQ(parse("[data]\ntrain = " + list + "\n").data.train, two);
  EXPECT_EQ(parse(kSmall, {"data.train=" + list}).data.train, two);
  EXPECT_EQ(parse(kSmall, {"data.train=[a"}).data.train, "[a") << "a prefix like any other";
  EXPECT_THAT(two.weights(), ElementsAre(0.7 / 2.7, 2 / 2.7));
  Config config = parse(kSmall);
  config.data.train = two;
  const Config back = parse_config_text(to_toml(config, Detail::documented), "back.toml");
  EXPECT_EQ(back.data.train, two);
  EXPECT_THAT(differences(parse(kSmall), config),
              ElementsAre("data.train: \"\" -> [[0.7, \"data/web\"], [2.0, \"b [x]\"]]"));
}

TEST(ConfigWriting, ReadsBackExactly) {
  Config config = parse(kSmall);
  config.optimizer.schedule.learning_rate = 0.1 + 0.2;
  config.optimizer.epsilon = 1e-8;
  config.optimizer.weight_decay = 1.0 / 3.0;
  config.model.transformer.dropout = 0.1F;
  config.model.transformer.norm_epsilon = 1e-5F;
  config.model.transformer.init_deviation = 1.0F / 3.0F;
  config.data.train = "a \"quoted\" \\ path\twith\nall of it, and ünïcode";
  config.train.seed = 4294967295;
  for (const Detail detail : {Detail::values, Detail::documented}) {
    const Config back = parse_config_text(to_toml(config, detail), "back.toml");
    EXPECT_THAT(differences(config, back), ElementsAre());
    EXPECT_EQ(back.optimizer.schedule.learning_rate, 0.1 + 0.2);
    EXPECT_EQ(back.model.transformer, config.model.transformer);
    EXPECT_EQ(back.data.train, config.data.train);
  }
}

TEST(ConfigWriting, AWrittenPresetReadsBackWithItsChanges) {
  const Config config = parse("[model]\npreset = \"gpt2\"\nlayers = 3\n");
  const Config back = parse_config_text(to_toml(config, Detail::values), "back.toml");
  EXPECT_EQ(back.model.transformer, config.model.transformer);
  EXPECT_EQ(back.model.preset, "gpt2");
}

TEST(ConfigWriting, EveryFamilyReadsBack) {
  for (const char* preset : {"gptj-6b", "gpt-neox-20b", "llama3-8b"}) {
    const std::vector<std::string> overrides = {std::string("model.preset=") + preset, "model.rotary_scaling=8"};
    const Config config = parse_config({}, overrides);
    const Config back = parse_config_text(to_toml(config, Detail::documented), "back.toml");
    EXPECT_EQ(back.model.transformer, config.model.transformer);
    EXPECT_EQ(back.model.transformer.rotary_scaling, 8.0);
  }
}

TEST(ConfigWriting, DefaultsReadBackToo) {
  const Config back = parse_config_text(to_toml(Config{}, Detail::documented), "back.toml");
  EXPECT_THAT(differences(Config{}, back), ElementsAre());
}

TEST(ConfigWriting, DocumentsDefaultUnitMeaningAndAllowedValues) {
  const std::string text = to_toml(parse(kSmall), Detail::documented);
  EXPECT_THAT(text, HasSubstr("[sequences; at least 1"));
  EXPECT_THAT(text, HasSubstr("fp32 | bf16"));
  EXPECT_THAT(text, HasSubstr("default \"fp32\""));
  EXPECT_THAT(text, HasSubstr("\nprecision = \"bf16\"\n"));
  EXPECT_THAT(text, HasSubstr("\nclip = 1.0\n"));
  EXPECT_THAT(to_toml(parse(kSmall), Detail::values), Not(HasSubstr("#")));
}

TEST(ConfigKeys, AreUniqueGroupedAndDocumented) {
  std::set<std::string_view> names, groups;
  std::string_view group;
  for (const Key& key : keys()) {
    EXPECT_TRUE(names.insert(key.name).second) << key.name;
    if (key.group() != group) {
      EXPECT_TRUE(groups.insert(key.group()).second) << key.name << " stands apart from its group";
    }
    group = key.group();
    EXPECT_GT(key.meaning.size(), 10U) << key.name;
    EXPECT_NO_THROW(check_value(key, Config{})) << key.name << ": its own default must be valid";
  }
}

TEST(ConfigKeys, EachSetsItsOwnMember) {
  std::set<const void*> members;
  Config config;
  for (const Key& key : keys()) {
    struct Address {
      const void* operator()(const Choice<uint8_t>& option) const { return option.value; }
      const void* operator()(const void* value) const { return value; }
    };
    const void* member = std::visit(Address{}, key.slot(config));
    EXPECT_TRUE(members.insert(member).second) << key.name;
  }
}

TEST(ConfigKeys, ThoseThatOthersCallExist) {
  for (const char* name : {"model.preset",
                           "model.family",
                           "model.layers",
                           "model.width",
                           "model.heads",
                           "model.kv_heads",
                           "model.ffn",
                           "model.vocab",
                           "model.context",
                           "data.train",
                           "data.valid",
                           "data.split",
                           "data.tokenizer",
                           "train.steps",
                           "train.global_batch",
                           "train.micro_batch",
                           "train.sequence",
                           "train.precision",
                           "train.seed",
                           "train.recompute",
                           "train.eval_every",
                           "train.save_every",
                           "train.keep_last",
                           "train.init_from",
                           "optimizer.learning_rate",
                           "optimizer.min_learning_rate",
                           "optimizer.warmup_steps",
                           "optimizer.schedule",
                           "optimizer.warmup_shape",
                           "optimizer.warmup_samples",
                           "optimizer.decay_samples",
                           "optimizer.form",
                           "optimizer.state",
                           "train.batch_ramp_start",
                           "train.batch_ramp_increment",
                           "train.batch_ramp_samples",
                           "train.loss_scale",
                           "train.loss_scale_initial",
                           "train.loss_scale_minimum",
                           "train.loss_scale_window",
                           "train.loss_scale_hysteresis",
                           "optimizer.beta1",
                           "optimizer.beta2",
                           "optimizer.epsilon",
                           "optimizer.weight_decay",
                           "optimizer.clip",
                           "parallel.shard",
                           "parallel.shard_group",
                           "parallel.tensor",
                           "parallel.sequence",
                           "parallel.pipeline",
                           "parallel.schedule",
                           "parallel.chunks",
                           "parallel.context"}) {
    EXPECT_NE(find_key(name), nullptr) << name;
  }
}

TEST(ConfigDifferences, NameKeyBeforeAndAfter) {
  EXPECT_THAT(differences(parse(kSmall), parse(kSmall, {"train.steps=400", "train.precision=fp32"})),
              ElementsAre("train.steps: 300 -> 400", "train.precision: \"bf16\" -> \"fp32\""));
}

TEST(ConfigSchedule, CarriesEverySetting) {
  const Config config =
      parse(kSmall, {"optimizer.schedule=linear", "optimizer.min_learning_rate=1e-5", "optimizer.warmup_steps=30"});
  const optim::Schedule schedule = schedule_of(config);
  EXPECT_EQ(schedule.kind, optim::LearningRateKind::linear);
  EXPECT_EQ(schedule.learning_rate, 1e-3);
  EXPECT_EQ(schedule.min_learning_rate, 1e-5);
  EXPECT_EQ(schedule.warmup_steps, 30);
  EXPECT_EQ(schedule.steps, 300);
}

}  // namespace
}  // namespace ridgeline::train

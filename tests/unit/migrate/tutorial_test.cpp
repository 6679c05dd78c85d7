// The seven launchers of the tutorial: what a person made of them (configs/) and what a migration makes of them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <regex>
#include <set>

#include "ridgeline/train/config.h"
#include "scripts.h"

namespace ridgeline::migrate {
namespace {

struct Launcher {
  const char* name;
  int64_t world;
  // Keys whose values differ from the person's. All others are equal.
  std::set<std::string> differ;
};

std::ostream& operator<<(std::ostream& out, const Launcher& launcher) {
  return out << launcher.name;
}

class Tutorial : public testing::TestWithParam<Launcher> {};

TEST_P(Tutorial, BecomesARunThatIsAcceptedAndMeansTheSame) {
  const Launcher& launcher = GetParam();
  const std::vector<Source> sources = script_with_files(std::string(launcher.name) + ".sh");
  const Migration migration = migrate(sources, {});
  EXPECT_EQ(migration.incomplete, "");
  EXPECT_EQ(migration.world, launcher.world);
  const train::Config ours = train::parse_config_text(migration.toml, "migrated");
  EXPECT_NO_THROW(train::check(ours, static_cast<int>(launcher.world)));
  const train::Config theirs = train::parse_config(std::string(RIDGELINE_CONFIGS) + "/" + launcher.name + ".toml");
  std::set<std::string> differ;
  for (const std::string& difference : train::differences(theirs, ours))
    differ.insert(difference.substr(0, difference.find(':')));
  EXPECT_EQ(differ, launcher.differ) << testing::PrintToString(train::differences(theirs, ours));
}

// The Trainer evaluates nothing and saves after 500 steps, which the runs do not reach; a person chose otherwise. All
// of them ran in fp32, while a person chose bf16, which stands beside it as a comment.
const std::set<std::string> kOfTrainer = {"data.train", "train.precision", "train.eval_every", "train.eval_samples",
                                          "train.save_every"};
// The corpus is the cluster's own.
const std::set<std::string> kOfMegatron = {"data.train"};
const std::set<std::string> kOfMegatronDeepSpeed = {"data.train", "data.split_rule"};

INSTANTIATE_TEST_SUITE_P(
    Launchers, Tutorial,
    testing::Values(Launcher{"gpt2_xl_ddp", 16, kOfTrainer}, Launcher{"gptj_6b_zero2", 16, kOfTrainer},
                    Launcher{"gptj_6b_fsdp", 16, kOfTrainer}, Launcher{"gpt_22b_3d", 32, kOfMegatronDeepSpeed},
                    Launcher{"gpt_175b_3d", 192, kOfMegatron}, Launcher{"gpt_1t_3d", 512, kOfMegatron},
                    Launcher{"gpt_1p3b_3d", 32, kOfMegatronDeepSpeed}),
    [](const auto& each) { return std::string(each.param.name); });

// Without what belongs to the launcher.
std::string arguments_of(const std::string& script) {
  return std::regex_replace(script, std::regex("#SBATCH.*|--ntasks-per-node|--gpus-per-node|--gpu-bind"), "");
}

TEST_P(Tutorial, ReportsEveryFlagAndKeyOnce) {
  const std::vector<Source> sources = script_with_files(std::string(GetParam().name) + ".sh");
  const Migration migration = migrate(sources, {});
  EXPECT_EQ(item_with(migration, Section::unknown, ""), "");
  const std::string report = report_text(migration, sources);
  EXPECT_TRUE(report.starts_with(kReportMark));
  EXPECT_TRUE(migration.toml.starts_with(kMark));
  // Every word of the command that is a flag, and every key.
  for (const Source& source : sources) {
    if (kind_of(source) == SourceKind::python_script) continue;
    const bool json = kind_of(source) == SourceKind::deepspeed_json;
    const std::regex name(json ? "\"([a-z_]+)\": *[^{ \\n]" : "--([a-z][a-z_-]+)");
    const std::string text = json ? source.text : arguments_of(source.text);
    for (std::sregex_iterator at(text.begin(), text.end(), name), end; at != end; ++at)
      EXPECT_THAT(report, testing::HasSubstr((*at)[1].str())) << source.name;
  }
  std::set<std::string> seen;
  for (const Item& item : migration.items) EXPECT_TRUE(seen.insert(item.text).second) << item.text;
}

TEST(MigratedConfiguration, SaysWhereEachValueComesFrom) {
  const std::vector<Source> sources = script_with_files("gpt_22b_3d.sh");
  const Migration migration = migrate(sources, {});
  EXPECT_THAT(migration.toml, testing::HasSubstr("layers = 48  # `--num-layers 48` (gpt_22b_3d.sh:15)\n"));
  EXPECT_THAT(migration.toml,
              testing::HasSubstr("loss_scale = \"deepspeed_zero\"  # `fp16.loss_scale: 0` (ds_config_4N_22B.json:5)"));
  EXPECT_EQ(item_with(migration, Section::translated, "optimizer.learning_rate"),
            "`--lr 6e-5` (gpt_22b_3d.sh:23) -> optimizer.learning_rate = 6e-05");
  // Keys at their default are left out.
  EXPECT_THAT(migration.toml, testing::Not(testing::HasSubstr("\nbeta2 = 0.95")));
  EXPECT_THAT(report_text(migration, sources), testing::HasSubstr("-> optimizer.beta2 = 0.95"));
}

}  // namespace
}  // namespace ridgeline::migrate

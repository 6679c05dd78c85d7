// The seven launchers of the tutorial: what a person made of them (configs/) and what a migration makes of them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>

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

// Without those that belong to the launcher.
std::set<std::string> flags_of(const std::string& script) {
  const std::set<std::string> of_launcher = {"ntasks-per-node", "gpus-per-node", "gpu-bind"};
  std::set<std::string> flags;
  std::istringstream lines(script);
  for (std::string line; std::getline(lines, line);) {
    line.erase(std::min(line.find("#SBATCH"), line.size()));
    for (size_t at = line.find("--"); at != std::string::npos; at = line.find("--", at + 2)) {
      const size_t first = at + 2, last = line.find_first_not_of("abcdefghijklmnopqrstuvwxyz_-", first);
      const std::string flag = line.substr(first, std::min(last, line.size()) - first);
      if (!flag.empty() && of_launcher.count(flag) == 0) flags.insert(flag);
    }
  }
  return flags;
}

// Of values, not of the objects that hold them.
void add_keys(const nlohmann::json& object, std::set<std::string>& keys) {
  for (const auto& [key, value] : object.items()) {
    if (value.is_object()) {
      add_keys(value, keys);
    } else {
      keys.insert(key);
    }
  }
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
    std::set<std::string> names;
    if (json) {
      add_keys(nlohmann::json::parse(source.text), names);
    } else {
      names = flags_of(source.text);
    }
    EXPECT_FALSE(names.empty()) << source.name;
    for (const std::string& name : names) EXPECT_THAT(report, testing::HasSubstr(name)) << source.name;
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

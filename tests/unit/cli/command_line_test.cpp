// The program as a shell sees it: exit codes, and what it says where.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "ridgeline/base/file.h"
#include "ridgeline/base/json.h"

namespace ridgeline {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

struct Outcome {
  int code = -1;
  std::string text;  // of the streams that the command line leaves open
};

// Runs `ridgeline ARGUMENTS` under a shell, so that arguments may redirect.
Outcome ridgeline(const std::string& arguments) {
  Outcome outcome;
  const std::string line = std::string("bash -o pipefail -c '" RIDGELINE_PROGRAM " ") + arguments + "'";
  std::FILE* pipe = ::popen(line.c_str(), "r");
  if (pipe == nullptr) return outcome;
  std::array<char, 4096> buffer{};
  while (const size_t count = std::fread(buffer.data(), 1, buffer.size(), pipe))
    outcome.text.append(buffer.data(), count);
  const int status = ::pclose(pipe);
  if (WIFEXITED(status)) outcome.code = WEXITSTATUS(status);
  return outcome;
}

TEST(CommandLine, WithoutArgumentsTeachesTheMainJob) {
  const Outcome outcome = ridgeline("");
  EXPECT_EQ(outcome.code, 0);
  for (const char* part : {"tokenizer train", "prepare", "train --config", "--resume", "generate", "export"}) {
    EXPECT_THAT(outcome.text, HasSubstr(part));
  }
}

TEST(CommandLine, HelpOfEveryCommandGoesToStandardOutput) {
  for (const char* command : {"", "fetch", "tokenizer", "prepare", "plan", "train", "eval", "generate", "export",
                              "inspect", "launch", "migrate"}) {
    const Outcome outcome = ridgeline(std::string(command) + " --help 2>/dev/null");
    EXPECT_EQ(outcome.code, 0) << command;
    EXPECT_THAT(outcome.text, HasSubstr("Usage: ")) << command;
  }
}

TEST(CommandLine, PlanListsEveryPlacementThatDiffers) {
  const std::string arguments =
      "plan --ranks 8 --set model.layers=1 --set model.width=32 --set model.heads=2 --set model.vocab=300 --set "
      "model.context=16 --set train.sequence=16 --set parallel.shard=optimizer --set parallel.shard_group=4";
  const auto json = parse_json(ridgeline(arguments + " --json").text);
  ASSERT_EQ(json.at("placements").size(), 1U);
  const auto& placement = json.at("placements").at(0);
  EXPECT_EQ(placement.at("first_rank"), 0);
  EXPECT_EQ(placement.at("ranks"), json.at("ranks"));
  EXPECT_EQ(placement.at("bytes_per_rank"), json.at("bytes_per_rank"));
  EXPECT_THAT(ridgeline(arguments).text,
              AllOf(HasSubstr("pp 1 × dp_replicate 2 × dp_shard 4 × cp 1 × tp 1\n"), HasSubstr("8 ranks as rank 0")));
}

// A pipeline small enough to plan in milliseconds.
constexpr std::string_view kPipeline =
    "plan --set model.layers=4 --set model.width=32 --set model.heads=2 --set model.vocab=300 --set model.context=16 "
    "--set train.global_batch=6 --set train.micro_batch=1 --set parallel.pipeline=2 ";

// Nothing is there, not even from a test before.
std::string fresh_file(const std::string& name) {
  const std::filesystem::path file = std::filesystem::path(testing::TempDir()) / ("command_line_" + name);
  std::filesystem::remove(file);
  return file.string();
}

TEST(CommandLine, PlanSaysWhatEachStageOfAPipelineDoes) {
  const std::string arguments = std::string(kPipeline) + "--ranks 4 --set parallel.tensor=2";
  const auto json = parse_json(ridgeline(arguments + " --json").text);
  ASSERT_EQ(json.at("placements").size(), 2U);
  const auto &first = json.at("placements").at(0), &last = json.at("placements").at(1);
  EXPECT_EQ(first.at("blocks"), std::vector<int>({0, 1}));
  EXPECT_EQ(last.at("blocks"), std::vector<int>({2, 3}));
  EXPECT_TRUE(first.at("embedding") == true && first.at("loss") == false && last.at("loss") == true);
  EXPECT_EQ(first.at("micro_batches_alive"), 2);
  EXPECT_EQ(last.at("micro_batches_alive"), 1);
  EXPECT_EQ(json.at("bytes_per_rank"), std::max(first.at("bytes_per_rank"), last.at("bytes_per_rank")));
  const auto& pipeline = json.at("pipeline");
  EXPECT_NEAR(pipeline.at("idle_share_of_equal_stages").get<double>(), 1.0 / 7, 1e-9);
  EXPECT_NEAR(pipeline.at("waiting_share").get<double>() + pipeline.at("imbalance_share").get<double>(),
              pipeline.at("idle_share").get<double>(), 1e-12);
  EXPECT_THAT(ridgeline(arguments).text, AllOf(HasSubstr("embedding, blocks 0 to 1"), HasSubstr("blocks 2 to 3, loss"),
                                               HasSubstr("of equal stages 14.3 % of a step are idle")));
}

TEST(CommandLine, PlanDrawsTheScheduleAndKeepsForeignFiles) {
  const std::string arguments = std::string(kPipeline) + "--ranks 2";
  EXPECT_THAT(ridgeline(arguments + " --schedule").text,
              AllOf(HasSubstr("1f1b: 2 stages, 6 micro-batches"), HasSubstr("\nstage 1  .")));
  const std::string svg = fresh_file("schedule.svg");
  for (int twice = 0; twice < 2; ++twice) {
    EXPECT_EQ(ridgeline(arguments + " --svg " + svg).code, 0);
    EXPECT_THAT(read_text(svg), AllOf(StartsWith("<svg "), HasSubstr("stage 1")));
  }
  write_atomically(svg, "mine");
  EXPECT_EQ(ridgeline(arguments + " --svg " + svg + " 2>&1").code, 1);
  EXPECT_EQ(read_text(svg), "mine");
}

TEST(CommandLine, PlanSearchWritesAConfigurationThatPlans) {
  const std::string best = fresh_file("best.toml"), search = std::string(kPipeline) + "--search ";
  const Outcome found = ridgeline(search + "--gpus 4 --memory 64MiB --out " + best);
  EXPECT_EQ(found.code, 0);
  EXPECT_THAT(found.text, AllOf(HasSubstr("assumed: 191.5 TFLOP/s each"), HasSubstr("TFLOP/s per rank"),
                                HasSubstr("refused: "), HasSubstr("the best: " + best)));
  EXPECT_EQ(ridgeline("plan " + best + " --ranks 4 --memory 64MiB").code, 0);
  const auto json = parse_json(ridgeline(search + "--gpus 4 --memory 64MiB --show 3 --json --out " + best).text);
  EXPECT_EQ(json.at("layouts").size(), 3U);
  write_atomically(best, "mine");
  EXPECT_EQ(ridgeline(search + "--gpus 4 --memory 64MiB --out " + best + " 2>&1").code, 1);
  EXPECT_EQ(read_text(best), "mine");
  EXPECT_EQ(ridgeline(search + "--memory 64MiB 2>&1").code, 2);
  EXPECT_EQ(ridgeline(search + "--gpus 4 2>&1").code, 2);
  EXPECT_EQ(ridgeline(std::string(kPipeline) + "--ranks 2 --gpus 4 2>&1").code, 2);
  const Outcome none = ridgeline(search + "--gpus 4 --memory 64KiB --out /dev/null 2>&1");
  EXPECT_EQ(none.code, 1);
  EXPECT_THAT(none.text, HasSubstr("no layout fits 4 ranks of 64.0 KiB"));
}

TEST(CommandLine, VersionSaysWhatABugReportNeeds) {
  const Outcome outcome = ridgeline("--version");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_THAT(outcome.text, StartsWith("ridgeline "));
  for (const char* part : {"build ", "threads", "MPI", "CPU ", "kernels: ", "fmt ", "tomlplusplus "}) {
    EXPECT_THAT(outcome.text, HasSubstr(part));
  }
}

TEST(CommandLine, UsageErrorsExitWithTwoAndNameTheNearest) {
  const auto expect = [](const char* arguments, const char* what, const char* hint) {
    const Outcome outcome = ridgeline(std::string(arguments) + " 2>&1 >/dev/null");
    EXPECT_EQ(outcome.code, 2) << arguments;
    EXPECT_THAT(outcome.text, AllOf(StartsWith("ridgeline: error: "), HasSubstr(what), HasSubstr(hint))) << arguments;
  };
  expect("trian", "no such command: trian", "Did you mean train?");
  expect("zzzzzz", "no such command: zzzzzz", "Commands: fetch, tokenizer, prepare");
  expect("train --rank 2", "--rank", "Did you mean --ranks?");
  expect("train --ranks two", "'two' is no whole number", "ridgeline train --help");
  expect("prepare", "required", "ridgeline prepare --help");
  expect("tokenizer", "say which: train | encode | decode", "ridgeline tokenizer --help");
  expect("tokenizer trian", "trian", "Did you mean train?");
  expect("--verison", "--verison", "Did you mean --version?");
}

TEST(CommandLine, EvalRefusesWhatAsksForNothing) {
  const std::string eval = "eval --checkpoint none --data none --whole ";
  for (const char* option : {"--split 1,1", "--split-rule per_share", "--bigram"}) {
    const Outcome outcome = ridgeline(eval + option + " 2>&1");
    EXPECT_EQ(outcome.code, 2) << outcome.text;
    EXPECT_THAT(outcome.text, HasSubstr("--whole"));
  }
}

// Before it works, not after it: of two mistakes it says the one that was found late once.
TEST(CommandLine, EvalComparesTheTokenizerFirst) {
  const std::string data = RIDGELINE_TEST_DATA,
                    folder = testing::TempDir() + "eval_first_" + std::to_string(::getpid());
  std::filesystem::create_directories(folder);
  write_atomically(folder + "/a.txt", "one two three four five six seven eight");
  const std::string prefix = folder + "/d";
  EXPECT_EQ(
      ridgeline("prepare --tokenizer " + data + "/gpt2_tokenizer --out " + prefix + " " + folder + "/a.txt 2>&1").code,
      0);
  const Outcome outcome = ridgeline("eval --checkpoint " + data + "/reference/gpt2 --data " + prefix +
                                    " --whole --threads 4096 --tokenizer " + data + "/data/llama3_style 2>&1");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.text, HasSubstr("was prepared with"));
  std::filesystem::remove_all(folder);
}

TEST(CommandLine, FailuresExitWithOneAndSayWhatToDo) {
  const Outcome outcome = ridgeline("train --config /nowhere/a.toml --out /tmp/x 2>&1 >/dev/null");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.text,
              AllOf(StartsWith("ridgeline: error: "), HasSubstr("/nowhere/a.toml"), HasSubstr("Check the path")));
}

TEST(CommandLine, ConfigurationErrorsReachTheUserOnce) {
  const Outcome outcome = ridgeline("train --set train.stpes=1 --out /tmp/x 2>&1");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.text,
            "ridgeline: error: --set: train.stpes: no such key\n"
            "  Did you mean train.steps?\n");
}

TEST(CommandLine, AClosedPipeIsNoFailure) {
  const Outcome outcome = ridgeline("--help 2>&1 | true");
  EXPECT_EQ(outcome.code, 0);
}

TEST(CommandLine, AFullDiskBehindStandardOutputIsOne) {
  const Outcome outcome = ridgeline("--help 2>&1 >/dev/full");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.text, HasSubstr("No space left on device"));
}

TEST(CommandLine, MigrateWritesAConfigurationThatPlanAccepts) {
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "command_line_migrate";
  std::filesystem::remove_all(folder);
  make_folder(folder);
  const std::string out = (folder / "run.toml").string(), report = (folder / "run.txt").string();
  const std::string command = "migrate " RIDGELINE_SCRIPTS "/gpt2_xl_ddp.sh --out " + out + " --report " + report;
  const Outcome migrated = ridgeline(command + " 2>&1");
  EXPECT_EQ(migrated.code, 0) << migrated.text;
  EXPECT_THAT(migrated.text, HasSubstr(out + ": the configuration; " + report + ": "));
  EXPECT_THAT(read_text(report), HasSubstr("Gradient accumulation: "));
  EXPECT_EQ(ridgeline("plan --config " + out + " --ranks 16 --memory 64GiB 2>&1").code, 0);
  // What it wrote it replaces; what others wrote, and its inputs, it does not.
  EXPECT_EQ(ridgeline(command).code, 0);
  write_atomically(out, "steps = 1\n");
  const Outcome refused = ridgeline(command + " 2>&1");
  EXPECT_EQ(refused.code, 1);
  EXPECT_THAT(refused.text, HasSubstr("exists, and Ridgeline did not write it"));
  EXPECT_EQ(read_text(out), "steps = 1\n");
}

TEST(CommandLine, MigrateReadsStandardInputAndSaysWhatIsMissing) {
  const std::string from = "migrate - --world 4 < " RIDGELINE_SCRIPTS "/ds_config_zero.json";
  const Outcome lacking = ridgeline(from + " 2>&1 >/dev/null");
  EXPECT_EQ(lacking.code, 3);
  EXPECT_THAT(lacking.text, AllOf(HasSubstr("standard input"), HasSubstr("no model is given")));
  const Outcome whole =
      ridgeline("migrate - --world 4 --model gpt2 < " RIDGELINE_SCRIPTS "/ds_config_zero.json 2>/dev/null");
  EXPECT_EQ(whole.code, 0);
  EXPECT_THAT(whole.text, StartsWith("# Written by `ridgeline migrate` from standard input, for 4 ranks."));
  EXPECT_EQ(ridgeline("migrate /nowhere/launch.sh 2>/dev/null").code, 1);
}

}  // namespace
}  // namespace ridgeline

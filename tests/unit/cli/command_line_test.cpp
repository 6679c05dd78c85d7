// The program as a shell sees it: exit codes, and what it says where.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>

#include "ridgeline/base/json.h"

namespace ridgeline {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;
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
  for (const char* command : {"", "tokenizer", "prepare", "plan", "train", "eval", "generate", "export", "inspect"}) {
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
  expect("zzzzzz", "no such command: zzzzzz", "Commands: tokenizer, prepare");
  expect("train --rank 2", "--rank", "Did you mean --ranks?");
  expect("train --ranks two", "'two' is no whole number", "ridgeline train --help");
  expect("prepare", "required", "ridgeline prepare --help");
  expect("tokenizer", "say which: train | encode | decode", "ridgeline tokenizer --help");
  expect("tokenizer trian", "trian", "Did you mean train?");
  expect("--verison", "--verison", "Did you mean --version?");
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

}  // namespace
}  // namespace ridgeline

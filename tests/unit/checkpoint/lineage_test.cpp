#include "ridgeline/checkpoint/lineage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "support.h"

namespace ridgeline::checkpoint {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

// A folder that looks like a checkpoint.
fs::path add(const fs::path& parent, int64_t step) {
  const fs::path folder = parent / folder_name(step);
  make_folder(folder);
  Manifest manifest;
  manifest.step = step;
  write_atomically(folder / kManifestName, to_text(manifest));
  return folder;
}

std::vector<int64_t> steps(const std::vector<CheckpointEntry>& entries) {
  std::vector<int64_t> steps;
  for (const CheckpointEntry& entry : entries) steps.push_back(entry.step);
  return steps;
}

TEST(Lineage, WithoutARecordTheHighestStepIsTheNewest) {
  const TemporaryFolder folder;
  EXPECT_FALSE(newest(folder.path()).has_value());
  for (const int64_t step : {20, 60, 40}) add(folder.path(), step);
  EXPECT_EQ(newest(folder.path())->step, 60);
  EXPECT_EQ(read_lineage(folder.path()), Lineage());
  EXPECT_FALSE(plan_branch(folder.path(), folder.path() / "step_00000060" / "").has_value());
}

TEST(Lineage, GoingBackMovesLaterCheckpointsAsideAndMakesTheChosenOneTheNewest) {
  const TemporaryFolder folder;
  for (const int64_t step : {20, 40, 60}) add(folder.path(), step);
  const auto branch = plan_branch(folder.path(), folder.path() / "step_00000020");
  ASSERT_TRUE(branch.has_value());
  EXPECT_EQ(branch->lineage.branch, 1);
  EXPECT_EQ(branch->aside, folder.path() / "branch_0");
  EXPECT_THAT(steps(branch->leaving), ElementsAre(40, 60));
  EXPECT_EQ(newest(folder.path())->step, 60) << "a plan changes nothing";
  begin_branch(folder.path(), *branch);
  EXPECT_EQ(newest(folder.path())->step, 20);
  EXPECT_THAT(steps(list_checkpoints(folder.path())), ElementsAre(20));
  EXPECT_THAT(steps(list_checkpoints(folder.path() / "branch_0")), ElementsAre(40, 60));
  EXPECT_EQ(read_lineage(folder.path()).from, "step_00000020");

  // The branch goes on, and its first checkpoint is pruned: a second one is numbered after it.
  add(folder.path(), 27);
  add(folder.path(), 40);
  prune(folder.path(), 2);
  EXPECT_EQ(newest(folder.path())->step, 40);
  begin_branch(folder.path(), *plan_branch(folder.path(), folder.path() / "step_00000027"));
  EXPECT_EQ(read_lineage(folder.path()).branch, 2);
  EXPECT_THAT(steps(list_checkpoints(folder.path() / "branch_1")), ElementsAre(40));
  EXPECT_THAT(steps(list_checkpoints(folder.path() / "branch_0")), ElementsAre(40, 60));
}

TEST(Lineage, AnInterruptionBringsNothingBack) {
  const TemporaryFolder folder;
  for (const int64_t step : {20, 40, 60}) add(folder.path(), step);
  const Branch branch = *plan_branch(folder.path(), folder.path() / "step_00000020");
  // Killed when the record was written and one of two was moved.
  write_atomically(folder.path() / kLineageName, to_text(branch.lineage));
  make_folder(branch.aside);
  rename_durably(folder.path() / "step_00000040", branch.aside / "step_00000040");
  EXPECT_EQ(newest(folder.path())->step, 20);
  EXPECT_THAT(steps(run_checkpoints(folder.path())), ElementsAre(20));
  EXPECT_EQ(checkpoint_of(folder.path()), folder.path() / "step_00000020");
  finish_branch(folder.path());
  finish_branch(folder.path());
  EXPECT_THAT(steps(list_checkpoints(folder.path() / "branch_0")), ElementsAre(40, 60));
  EXPECT_TRUE(read_lineage(folder.path()).moving.empty());
  add(folder.path(), 40);
  EXPECT_EQ(newest(folder.path())->step, 40);
}

TEST(Lineage, ABranchThatComesFromElsewhereBeginsThereUntilItHasACheckpoint) {
  const TemporaryFolder here, there;
  const fs::path other = add(there.path(), 100);
  begin_branch(here.path() / "run", *plan_branch(here.path() / "run", other));  // into an empty folder
  EXPECT_EQ(read_lineage(here.path() / "run").branch, 0);
  EXPECT_EQ(newest(here.path() / "run")->folder, other);
  EXPECT_EQ(newest(here.path() / "run")->step, 100);
  EXPECT_FALSE(plan_branch(here.path() / "run", other).has_value());
  add(here.path() / "run", 150);
  EXPECT_EQ(newest(here.path() / "run")->step, 150);
  // Whatever a run has is no ancestor of another run's checkpoint.
  begin_branch(here.path() / "run", *plan_branch(here.path() / "run", other));
  EXPECT_EQ(newest(here.path() / "run")->folder, other);
  EXPECT_THAT(steps(list_checkpoints(here.path() / "run" / "branch_0")), ElementsAre(150));
  // Back, and the folder may move.
  begin_branch(here.path() / "run",
               *plan_branch(here.path() / "run", here.path() / "run" / "branch_0" / "step_00000150"));
  fs::rename(here.path() / "run", here.path() / "moved");
  EXPECT_EQ(newest(here.path() / "moved")->folder, here.path() / "moved" / "branch_0" / "step_00000150");
}

TEST(Lineage, ALostRecordDoesNotMixBranches) {
  const TemporaryFolder folder;
  for (const int64_t step : {20, 40}) add(folder.path(), step);
  begin_branch(folder.path(), *plan_branch(folder.path(), folder.path() / "step_00000020"));
  fs::remove(folder.path() / kLineageName);
  add(folder.path(), 40);
  EXPECT_EQ(newest(folder.path())->step, 40);
  begin_branch(folder.path(), *plan_branch(folder.path(), folder.path() / "step_00000020"));
  EXPECT_EQ(read_lineage(folder.path()).branch, 2);
  EXPECT_THAT(steps(list_checkpoints(folder.path() / "branch_0")), ElementsAre(40));
  EXPECT_THAT(steps(list_checkpoints(folder.path() / "branch_1")), ElementsAre(40));
}

TEST(Lineage, TextsAreReadBackAndBrokenOnesRefusedByName) {
  const Lineage lineage{.branch = 3, .from = "step_00000020", .from_step = 20, .aside = "branch_2", .moving = {40, 60}};
  EXPECT_EQ(parse_lineage(to_text(lineage), "l"), lineage);
  EXPECT_EQ(parse_lineage(to_text(Lineage()), "l"), Lineage());
  const std::string text = to_text(lineage);
  for (size_t size = 0; size + 2 < text.size(); ++size)
    ASSERT_THAT(error_of([&] { parse_lineage(text.substr(0, size), "lineage.json"); }).what(),
                HasSubstr("'lineage.json'"));
  Lineage outside = lineage;
  outside.aside = "branch_0/../../elsewhere";
  EXPECT_THAT(error_of([&] { parse_lineage(to_text(outside), "l"); }).what(), HasSubstr("Remove it"));
}

TEST(Manifest, SaysWhereACheckpointStandsAndOlderOnesAreRead) {
  Manifest manifest;
  manifest.step = 27;
  manifest.descent = {.branch = 1, .parent = 20};
  EXPECT_EQ(parse_manifest(to_text(manifest), "m").descent, manifest.descent);
  // One that was written before there were branches.
  const std::string old =
      R"({"crc32c": "CRC", "manifest": {"extra": null, "files": [], "format": "ridgeline checkpoint", "step": 5, "version": 1}})";
  std::string text;
  try {
    parse_manifest(std::string(old).replace(old.find("CRC"), 3, "00000000"), "m");
  } catch (const Error& error) {
    text = error.what();
  }
  const std::string crc = text.substr(text.find("(checksum ") + 10, 8);
  EXPECT_EQ(parse_manifest(std::string(old).replace(old.find("CRC"), 3, crc), "m").descent, Descent());
}

TEST(Manifest, WhatItSaysOfTheRunCanBeReplaced) {
  const TemporaryFolder folder;
  const fs::path saved = add(folder.path(), 9);
  replace_extra(saved, {{"best_step", 4}});
  verify(saved);
  EXPECT_EQ(CheckpointReader(saved).extra().at("best_step"), 4);
  EXPECT_EQ(CheckpointReader(saved).step(), 9);
}

}  // namespace
}  // namespace ridgeline::checkpoint

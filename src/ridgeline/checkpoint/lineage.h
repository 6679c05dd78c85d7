// Which of the checkpoints under a run's `checkpoints/` are the run's, and which is its newest.
//
// A run that goes back to an earlier checkpoint begins a branch. The later checkpoints are no longer its own: they are
// kept, in a folder of the branch that they belong to (`checkpoints/branch_0/`), so that what lies in `checkpoints/` is
// one line of descent, and its highest step the newest. `checkpoints/lineage.json` says which branch the run is on and
// where that began. It is replaced in one write before anything is moved and names what is to be moved, so that no
// interruption brings an abandoned checkpoint back; a folder without it is branch 0.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ridgeline/checkpoint/manifest.h"

namespace ridgeline::checkpoint {

constexpr const char* kLineageName = "lineage.json";

struct Lineage {
  int64_t branch = 0;
  // The checkpoint that the branch began with: its name where it lies in the same folder, else its absolute path. Empty
  // for a run that began at step 0.
  std::filesystem::path from;
  std::optional<int64_t> from_step;
  // Steps of the branch before, while they are being moved to the folder `aside`: no longer the run's. Empty
  // afterwards.
  std::string aside;
  std::vector<int64_t> moving;

  bool operator==(const Lineage&) const = default;
};
std::string to_text(const Lineage& lineage);
// Error naming `file` when it is no lineage.
Lineage parse_lineage(std::string_view text, std::string_view file);
// Of the folder `parent`; the default when it has none.
Lineage read_lineage(const std::filesystem::path& parent);

// The run's own checkpoints in `parent`, by ascending step, good or not.
std::vector<CheckpointEntry> run_checkpoints(const std::filesystem::path& parent);
// What a run goes on with, and what stands for the run: the last of them; before a branch has one, what it began with
// (which may lie elsewhere). None when there is no run in `parent`.
std::optional<CheckpointEntry> newest(const std::filesystem::path& parent);

// The folders of branches that the run in `parent` has left, in their order.
std::vector<std::filesystem::path> branches_aside(const std::filesystem::path& parent);

// The checkpoint that `path` stands for: itself, the newest of a run's folder, or of its checkpoints/. None for any
// other.
std::optional<std::filesystem::path> checkpoint_of(const std::filesystem::path& path);

// A branch that is about to begin.
struct Branch {
  Lineage lineage;                       // of the run from now on
  std::filesystem::path aside;           // folder for what is no longer the run's; empty when there is nothing to move
  std::vector<CheckpointEntry> leaving;  // by ascending step
};
// What becomes of the run in `parent` when it goes on from checkpoint `from`, anywhere. None when `from` is its newest:
// then the run just goes on. Changes nothing.
std::optional<Branch> plan_branch(const std::filesystem::path& parent, const std::filesystem::path& from);
// Does it. Only when no run writes to `parent`.
void begin_branch(const std::filesystem::path& parent, const Branch& branch);
// Moves what an interrupted begin_branch() left. Only when no run writes to `parent`.
void finish_branch(const std::filesystem::path& parent);

}  // namespace ridgeline::checkpoint

// What a run finds in its folder when it starts, and what it tidies there. Only one process of a run writes these
// files.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "ridgeline/checkpoint/manifest.h"

namespace ridgeline::train {

struct JobOptions;

// Written after a failure: the first rank that failed, where and why.
constexpr const char* kFailureName = "failure.txt";
// Folder of logs of single ranks (comm::rank_log_path): after a failure, and with --logs.
constexpr const char* kLogsName = "logs";

std::filesystem::path checkpoints_of(const std::filesystem::path& run);

// The checkpoint that `options` goes on from: the one named, or the newest of the run in options.out. None when it
// begins anew; Error when there is nothing to go on from.
std::optional<checkpoint::CheckpointEntry> resumed_checkpoint(const JobOptions& options);
// Whether --resume would find one in the run's folder.
bool has_checkpoints(const std::filesystem::path& run);

// Whether that checkpoint is the end of a run of `steps`: nothing to train, and no evaluation to make up.
bool is_finished(const checkpoint::CheckpointEntry& from, int64_t steps);

// Clears what a run that died here left: temporary files, half-written and half-deleted checkpoints, the note of its
// failure. Whole checkpoints stay.
void clear_leftovers(const std::filesystem::path& run);

// The run goes on from `from`: where that is not its newest checkpoint, a new branch begins. Later checkpoints, and a
// copy of the metrics, are kept in a folder of the branch that is left. Returns what to say about it.
std::vector<std::string> enter_branch(const std::filesystem::path& run, const std::filesystem::path& from);

// Whether `from` lies in this run's own folder.
bool is_own(const std::filesystem::path& run, const std::filesystem::path& from);
bool has_checkpoint(const std::filesystem::path& run, int64_t step);

// Deletes checkpoints but the newest `keep_last` (0: none is deleted), the one of `best_step` and the one just written.
void keep_newest(const std::filesystem::path& run, int64_t keep_last, int64_t best_step, int64_t written);

// What a run that died after its last save still had to do: clears leftovers, and what its own configuration does not
// keep. A run that ended well is not changed.
void tidy_finished(const std::filesystem::path& run);

// Removes the note of a failure: the run went on well.
void clear_failure(const std::filesystem::path& run);

// For a message after a step that was not finite: the newest checkpoint before that of step `bad`, which led to it;
// before a branch has one of its own, what it began with.
std::optional<checkpoint::CheckpointEntry> last_good(const std::filesystem::path& run, int64_t bad);

}  // namespace ridgeline::train

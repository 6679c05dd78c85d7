#include "ridgeline/train/run_folder.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/checkpoint/lineage.h"
#include "ridgeline/train/sample_order.h"
#include "ridgeline/train/state.h"
#include "ridgeline/train/trainer.h"

namespace ridgeline::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMetrics = "metrics.jsonl";

// A run that goes back into another branch, or to another run, does not go on with the metrics that lie here.
void exchange_metrics(const fs::path& run, const checkpoint::Branch& branch, const fs::path& from) {
  const fs::path here = run / kMetrics, there = from.parent_path() / kMetrics;
  if (fs::exists(there)) {
    write_atomically(here, read_text(there));
  } else if (!branch.leaving.empty()) {
    fs::remove(here);
  }
}

}  // namespace

fs::path checkpoints_of(const fs::path& run) {
  return run / "checkpoints";
}

std::optional<checkpoint::CheckpointEntry> resumed_checkpoint(const JobOptions& options) {
  if (!options.resume) return std::nullopt;
  if (options.resume_from) {
    fs::path folder = checkpoint::checkpoint_of(*options.resume_from).value_or(*options.resume_from);
    if (!folder.has_filename()) folder = folder.parent_path();  // "…/step_00000100/"
    checkpoint::verify(folder, checkpoint::Check::sizes);
    const fs::path manifest = folder / checkpoint::kManifestName;
    return checkpoint::CheckpointEntry{checkpoint::parse_manifest(read_text(manifest), manifest.string()).step, folder};
  }
  const fs::path checkpoints = checkpoints_of(options.out);
  if (std::optional<checkpoint::CheckpointEntry> newest = checkpoint::newest(checkpoints)) return newest;
  throw Error(fmt::format("--resume: '{}' has no checkpoint", checkpoints.string()),
              "Start without --resume, or name the folder of an earlier run with --out.");
}

bool has_checkpoints(const fs::path& run) {
  return checkpoint::newest(checkpoints_of(run)).has_value();
}

bool is_finished(const checkpoint::CheckpointEntry& from, int64_t steps) {
  if (from.step < steps) return false;
  const checkpoint::CheckpointReader reader(from.folder);
  return !run_state_from_json(reader.extra(), from.folder.string()).evaluation_due;
}

void clear_leftovers(const fs::path& run) {
  const fs::path checkpoints = checkpoints_of(run);
  for (const fs::path& path : {run / "config.toml", run / kMetrics, checkpoints / checkpoint::kLineageName})
    remove_temporaries(path);
  checkpoint::remove_leftovers(checkpoints);
  checkpoint::finish_branch(checkpoints);
  for (const checkpoint::CheckpointEntry& entry : checkpoint::run_checkpoints(checkpoints))
    remove_temporaries(entry.folder / checkpoint::kManifestName);
  clear_failure(run);
}

void clear_failure(const fs::path& run) {
  std::error_code ignored;  // a note that cannot be removed is no reason not to train
  fs::remove(run / kFailureName, ignored);
}

void tidy_finished(const fs::path& run) {
  clear_leftovers(run);
  const std::vector<checkpoint::CheckpointEntry> entries = checkpoint::run_checkpoints(checkpoints_of(run));
  if (entries.empty()) return;
  const checkpoint::CheckpointReader reader(entries.back().folder);
  const RunState state = run_state_from_json(reader.extra(), entries.back().folder.string());
  keep_newest(run, config_of(state).train.keep_last, state.best_step, reader.step());
}

bool is_own(const fs::path& run, const fs::path& from) {
  std::error_code code;
  return fs::equivalent(checkpoints_of(run), from.parent_path(), code) && !code;
}

bool has_checkpoint(const fs::path& run, int64_t step) {
  const std::vector<checkpoint::CheckpointEntry> entries = checkpoint::run_checkpoints(checkpoints_of(run));
  return std::any_of(entries.begin(), entries.end(),
                     [step](const checkpoint::CheckpointEntry& entry) { return entry.step == step; });
}

std::vector<std::string> enter_branch(const fs::path& run, const fs::path& from) {
  const fs::path checkpoints = checkpoints_of(run);
  const std::optional<checkpoint::Branch> branch = checkpoint::plan_branch(checkpoints, from);
  if (!branch) return {};
  if (!branch->aside.empty()) {
    make_folder(branch->aside);
    if (fs::exists(run / kMetrics)) write_atomically(branch->aside / kMetrics, read_text(run / kMetrics));
  }
  checkpoint::begin_branch(checkpoints, *branch);
  if (!is_own(run, from)) exchange_metrics(run, *branch, from);
  if (branch->leaving.empty()) return {};
  std::vector<std::string> names;
  for (const checkpoint::CheckpointEntry& entry : branch->leaving) names.push_back(entry.folder.filename().string());
  return {
      fmt::format("branch {} of the run begins at step {}; {} of the branch before, and a copy of its metrics, are "
                  "kept in '{}'",
                  branch->lineage.branch, *branch->lineage.from_step, fmt::join(names, ", "), branch->aside.string())};
}

void keep_newest(const fs::path& run, int64_t keep_last, int64_t best_step, int64_t written) {
  if (keep_last == 0) return;
  const int64_t keep[] = {best_step, written};
  checkpoint::prune(checkpoints_of(run), keep_last, keep);
}

std::optional<checkpoint::CheckpointEntry> last_good(const fs::path& run, int64_t bad) {
  const fs::path checkpoints = checkpoints_of(run);
  if (std::optional<checkpoint::CheckpointEntry> good =
          checkpoint::latest_good(checkpoints, checkpoint::Check::sizes, bad))
    return good;
  // Before a branch has a checkpoint of its own: what it began with.
  std::optional<checkpoint::CheckpointEntry> first = checkpoint::newest(checkpoints);
  return first && first->step < bad ? first : std::nullopt;
}

}  // namespace ridgeline::train

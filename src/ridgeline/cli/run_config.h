// What `train` and `plan` share: from the command line to a checked configuration.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "ridgeline/cli/command.h"
#include "ridgeline/train/config.h"

namespace ridgeline::cli {

struct RunConfigOptions {
  std::filesystem::path config;
  std::vector<std::string> overrides;  // --set
  int ranks = 1;
};

// Registers --config (or what it is called), --set and --ranks.
void add_run_config(const Command& command, RunConfigOptions& options, Range ranks,
                    const std::string& config = "--config");

// Reads and completes, without asking whether it suits the ranks.
train::Config read_config_for_any_ranks(const RunConfigOptions& options, const std::filesystem::path& resumed = {});
// Reads, completes (train.init_from says the model; once there is a checkpoint to go on from, `resumed`, that does, and
// the folder is not needed any more) and checks.
train::Config read_run_config(const RunConfigOptions& options, const std::filesystem::path& resumed = {});

}  // namespace ridgeline::cli

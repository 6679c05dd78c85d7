#include "ridgeline/cli/run_config.h"

#include <fmt/format.h>

#include <filesystem>

#include "ridgeline/base/error.h"
#include "ridgeline/checkpoint/manifest.h"
#include "ridgeline/cli/command.h"
#include "ridgeline/cli/failures.h"
#include "ridgeline/train/hugging_face_folder.h"
#include "ridgeline/train/state.h"

namespace ridgeline::cli {

void add_run_config(const Command& command, RunConfigOptions& options, Range ranks, const std::string& config) {
  command.option(config, options.config, "Configuration of the run").placeholder("FILE.toml");
  command.list("--set", options.overrides, "Override a key of the configuration; may be given often")
      .placeholder("KEY=VALUE");
  command.option("--ranks", options.ranks, ranks,
                 "Ranks, as threads of this process (under mpirun or srun: the processes)");
}

train::Config read_config_for_any_ranks(const RunConfigOptions& options, const std::filesystem::path& resumed) {
  train::Config config = train::parse_config(options.config, options.overrides);
  if (!config.train.init_from.empty() && !resumed.empty()) {
    config = train::with_imported_model(
        std::move(config), train::model_config_of(checkpoint::CheckpointReader(resumed).extra(), resumed.string()),
        fmt::format("the checkpoint '{}'", resumed.string()));
  } else if (!config.train.init_from.empty()) {
    if (!std::filesystem::exists(config.train.init_from)) {
      throw Error(
          fmt::format("train.init_from = \"{}\": no such folder", config.train.init_from),
          fmt::format("It is the folder of a model on this disk; one of a hub is fetched before: ridgeline fetch "
                      "model NAME --out {}",
                      config.train.init_from));
    }
    const train::HuggingFaceFolder folder = train::open_hugging_face(config.train.init_from, false);
    print_notes(folder.notes);
    config = train::with_imported_folder(std::move(config), folder);
  }
  return config;
}

train::Config read_run_config(const RunConfigOptions& options, const std::filesystem::path& resumed) {
  train::Config config = read_config_for_any_ranks(options, resumed);
  train::check(config, options.ranks);
  return config;
}

}  // namespace ridgeline::cli

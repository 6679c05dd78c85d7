#include "ridgeline/cli/run_config.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "ridgeline/checkpoint/hugging_face.h"
#include "ridgeline/checkpoint/manifest.h"
#include "ridgeline/train/state.h"

namespace ridgeline::cli {

void add_run_config(CLI::App& command, RunConfigOptions& options) {
  command.add_option("--config", options.config, "Configuration of the run")->type_name("FILE.toml");
  command.add_option("--set", options.overrides, "Override a key of the configuration; may be given often")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(true)
      ->take_all();
  command
      .add_option("--ranks", options.ranks,
                  "Data-parallel ranks, as threads of this process (under mpirun or srun: the processes)")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
}

train::Config read_run_config(const RunConfigOptions& options, const std::filesystem::path& resumed) {
  train::Config config = train::parse_config(options.config, options.overrides);
  if (!config.train.init_from.empty() && !resumed.empty()) {
    config = train::with_imported_model(
        std::move(config), train::model_config_of(checkpoint::CheckpointReader(resumed).extra(), resumed.string()),
        fmt::format("the checkpoint '{}'", resumed.string()));
  } else if (!config.train.init_from.empty()) {
    const std::filesystem::path folder = config.train.init_from;
    config = train::with_imported_model(std::move(config), model::from_hugging_face(checkpoint::read_config(folder),
                                                                                    (folder / "config.json").string()));
  }
  train::check(config, options.ranks);
  return config;
}

}  // namespace ridgeline::cli

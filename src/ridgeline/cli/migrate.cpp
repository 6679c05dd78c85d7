#include "ridgeline/cli/migrate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <memory>
#include <vector>

#include "ridgeline/base/file.h"
#include "ridgeline/base/output.h"
#include "ridgeline/cli/incomplete.h"
#include "ridgeline/migrate/migration.h"
#include "ridgeline/train/config.h"

namespace ridgeline::cli {
namespace {

namespace fs = std::filesystem;

struct MigrateOptions {
  std::vector<fs::path> inputs;
  fs::path out, report;
  migrate::MigrationOptions migration;
};

constexpr uintmax_t kLargestInput = uintmax_t{8} << 20;

migrate::Source read_source(const fs::path& path) {
  if (path == "-") return {"standard input", {std::istreambuf_iterator<char>(std::cin), {}}};
  std::error_code code;
  if (const uintmax_t bytes = fs::file_size(path, code); !code && bytes > kLargestInput)
    throw Error(fmt::format("{}: {} bytes are no launch script or configuration", path.string(), bytes),
                "Give the launch script, the command line in a file, or DeepSpeed's JSON.");
  return {path.string(), read_text(path)};
}

// The inputs, and what they name beside themselves: the folder of the script counts, whatever it changes to.
std::vector<migrate::Source> read_sources(std::vector<fs::path>& paths) {
  std::vector<migrate::Source> sources;
  for (const fs::path& path : paths) sources.push_back(read_source(path));
  const size_t given = sources.size();
  for (size_t at = 0; at < given; ++at) {
    const fs::path folder = paths[at] == "-" ? fs::path() : paths[at].parent_path();
    for (const std::string& name : migrate::named_files(sources[at])) {
      fs::path file = folder / name;
      std::error_code code;
      if (!fs::is_regular_file(file, code)) file = folder / fs::path(name).filename();
      const bool known = std::any_of(paths.begin(), paths.end(),
                                     [&](const fs::path& path) { return path.filename() == file.filename(); });
      if (known || !fs::is_regular_file(file, code)) continue;
      sources.push_back(read_source(file));
      paths.push_back(file);
    }
  }
  return sources;
}

void run_migrate(MigrateOptions& options) {
  const std::vector<migrate::Source> sources = read_sources(options.inputs);
  const auto require = [&](const fs::path& path, const char* option, std::string_view mark) {
    if (!path.empty())
      require_writable(path, fmt::format("{} {}", option, path.string()), options.inputs,
                       [&](std::string_view start) { return start.starts_with(mark); });
  };
  require(options.out, "--out", migrate::kMark);
  require(options.report, "--report", migrate::kReportMark);
  const migrate::Migration migration = migrate::migrate(sources, options.migration);
  const std::string report = migrate::report_text(migration, sources);
  if (options.out.empty()) {
    fmt::print("{}", migration.toml);
  } else {
    write_output(options.out, migration.toml);
  }
  if (!options.report.empty()) {
    write_output(options.report, report);
    if (!options.out.empty())
      fmt::print("{}: the configuration; {}: what became of each setting\n", options.out.string(),
                 options.report.string());
  } else {
    fmt::print(options.out.empty() ? stderr : stdout, "{}", report);
  }
  if (!migration.incomplete.empty())
    throw Incomplete("the configuration lacks what only you can say: " + migration.incomplete,
                     "The end of the report lists it; fill it in, or say it with --model and --world.");
}

}  // namespace

void add_migrate(const Command& program) {
  const auto options = std::make_shared<MigrateOptions>();
  const Command command =
      program.subcommand("migrate", "Make a configuration of DeepSpeed's, Megatron's or a Trainer's settings");
  command.footer(
      "Reads launch scripts (without running them), command lines in a file, and DeepSpeed's JSON; what a script "
      "names\n"
      "and lies beside it (the JSON, the Python program) is read, too. `-` is standard input. The report says what\n"
      "became of every flag and key, what the original ignores, and where it contradicts itself (docs/migrate.md).\n"
      "Exit code 3: written, but `train` needs more, as a model that nothing names.\n\n"
      "Examples:\n"
      "  ridgeline migrate launch_gpt22b.sh --out gpt_22b.toml --report gpt_22b.txt\n"
      "  ridgeline migrate launch.sh ds_config.json --world 16 > run.toml");
  command.list("INPUT", options->inputs, "Launch script, command line, or DeepSpeed's JSON")
      .required()
      .placeholder("FILE");
  command.option("--out", options->out, "Configuration to write; default: standard output").placeholder("FILE.toml");
  command.option("--report", options->report, "Report to write; default: standard output, or error without --out")
      .placeholder("FILE");
  command.option("--world", options->migration.world, Range{1, train::kMostRanks}, "Ranks; default: as the script says")
      .placeholder("N")
      .no_default();
  command.option("--model", options->migration.model, "Preset or Hugging Face folder, where nothing names the model")
      .placeholder("NAME");
  command.action([options] { run_migrate(*options); });
}

}  // namespace ridgeline::cli

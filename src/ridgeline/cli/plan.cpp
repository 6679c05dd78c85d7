#include "ridgeline/cli/plan.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "ridgeline/cli/run_config.h"
#include "ridgeline/device/arena.h"
#include "ridgeline/observe/format.h"
#include "ridgeline/plan/memory_report.h"
#include "ridgeline/train/trainer.h"

namespace ridgeline::cli {
namespace {

struct Options {
  RunConfigOptions run;
  bool json = false, all = false;
};

// Buffers of one kind and category as one line: the list per unit and operation is --all's.
void print_summary(const parallel::Inventory& inventory, const plan::MemoryReport& report) {
  observe::Table table(
      {{"per rank", observe::Table::left}, {"bytes", observe::Table::right}, {"", observe::Table::right}});
  for (size_t c = 0; c < report.by_category.size(); ++c) {
    if (report.by_category[c] == 0) continue;
    table.row({std::string(parallel::name_of(static_cast<parallel::Category>(c))),
               observe::format_integer(report.by_category[c]),
               observe::format_bytes(static_cast<double>(report.by_category[c]))});
  }
  table.row({"holes between buffers", observe::format_integer(report.unused),
             observe::format_bytes(static_cast<double>(report.unused))});
  table.rule();
  table.row({"total", observe::format_integer(report.total), observe::format_bytes(static_cast<double>(report.total))});
  fmt::print("{}", table.text());
  fmt::print("fullest operation: {}; {} of the total can be read by other ranks of the host; {} buffers\n",
             report.fullest, observe::format_bytes(static_cast<double>(report.peer_visible)), inventory.buffers.size());
}

void print_buffers(const parallel::Inventory& inventory, const std::vector<parallel::Program>& programs) {
  observe::Table table({{"buffer", observe::Table::left},
                        {"category", observe::Table::left},
                        {"bytes", observe::Table::right},
                        {"offset", observe::Table::right},
                        {"lives", observe::Table::left}});
  for (const parallel::Buffer& buffer : inventory.buffers) {
    const std::string lives = buffer.program < 0 ? "always"
                                                 : fmt::format("{}, micro-batch {}, operations {} to {}",
                                                               programs[static_cast<size_t>(buffer.program)].name,
                                                               buffer.micro, buffer.first, buffer.last);
    table.row({buffer.name, std::string(parallel::name_of(buffer.category)), observe::format_integer(buffer.bytes),
               observe::format_integer(buffer.offset), lives});
  }
  fmt::print("\n{}", table.text());
}

void run(const Options& options) {
  const train::Config config = read_run_config(options.run);
  const parallel::RunShape shape = train::run_shape(config, options.run.ranks);
  const std::vector<parallel::Program> programs = train::run_programs(config, options.run.ranks);
  const parallel::Inventory inventory = parallel::make_inventory(shape, model::declare(shape.config), programs);
  const plan::MemoryReport report = plan::memory_report(inventory, programs);
  const int64_t outside = device::resident_memory().now;
  if (options.json) {
    nlohmann::json json = plan::to_json(inventory, report, programs, options.run.ranks);
    json["code_and_libraries_bytes"] = outside;
    json["parameters"] = config.model.transformer.parameters();
    fmt::print("{}\n", json.dump(2));
    return;
  }
  const model::TransformerConfig& model = config.model.transformer;
  const model::Flops flops = model::training_flops(model, config.train.sequence);
  const int64_t tokens = config.train.global_batch * config.train.sequence;
  fmt::print("{}: {} layers, width {}, {} heads, vocabulary {}: {} parameters\n", model.family, model.layers,
             model.width, model.heads, model.vocab, observe::format_integer(model.parameters()));
  fmt::print(
      "{} rank{}, {} thread{} each, {}: a step is {} sequences of {} tokens in micro-batches of {}; {:.3g} TFLOP\n\n",
      options.run.ranks, options.run.ranks == 1 ? "" : "s", shape.batch.team_size,
      shape.batch.team_size == 1 ? "" : "s", config.train.precision, config.train.global_batch, config.train.sequence,
      config.train.micro_batch, flops.per_token() * static_cast<double>(tokens) * 1e-12);
  print_summary(inventory, report);
  fmt::print("outside the plan: {} for code and libraries, per process\n",
             observe::format_bytes(static_cast<double>(outside)));
  if (options.all) print_buffers(inventory, programs);
  plan::require_fits(report, options.run.ranks, plan::available_memory());
}

}  // namespace

void add_plan(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("plan", "Say what a run will take, before it is queued");
  command->footer(
      "Lists the very buffers that `ridgeline train` allocates. Exits with an error when they do not fit this "
      "machine.\n\n"
      "Examples:\n"
      "  ridgeline plan --config configs/gpt2_124m.toml --ranks 2\n"
      "  ridgeline plan --config configs/gpt2_124m.toml --ranks 2 --json");
  add_run_config(*command, options->run);
  command->add_flag("--json", options->json, "Every buffer, as JSON");
  command->add_flag("--all", options->all, "Every buffer, as a table");
  command->callback([options] { run(*options); });
}

}  // namespace ridgeline::cli

#include "ridgeline/cli/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "ridgeline/base/json.h"
#include "ridgeline/base/words.h"
#include "ridgeline/cli/command.h"
#include "ridgeline/cli/run_config.h"
#include "ridgeline/device/arena.h"
#include "ridgeline/device/machine.h"
#include "ridgeline/observe/format.h"
#include "ridgeline/parallel/proof.h"
#include "ridgeline/plan/memory_report.h"
#include "ridgeline/plan/program_listing.h"
#include "ridgeline/plan/traffic.h"
#include "ridgeline/train/remedy.h"
#include "ridgeline/train/sample_order.h"
#include "ridgeline/train/trainer.h"

namespace ridgeline::cli {
namespace {

struct PlanOptions {
  RunConfigOptions run;
  bool json = false, all = false, program = false;
  int64_t memory = 0;      // of a rank's device; 0: this host's
  int ranks_per_host = 0;  // 0: all
};

// What is planned for ranks that do the same work.
struct RankPlan {
  comm::AlikeRanks ranks;
  parallel::RunShape shape;
  std::vector<parallel::Program> programs;
  parallel::Inventory inventory;
  parallel::Proof proof;
  plan::MemoryReport report;
};

// Of every placement that differs, the one that takes most memory first.
std::vector<RankPlan> plans_of(const train::Config& config, const device::Machine& machine, const comm::Mesh& mesh) {
  std::vector<RankPlan> plans;
  for (const comm::AlikeRanks& ranks : comm::alike_ranks(mesh)) {
    RankPlan plan{.ranks = ranks,
                  .shape = train::run_shape(config, machine, ranks.first),
                  .programs = train::run_programs(config, ranks.first)};
    plan.inventory = parallel::make_inventory(plan.shape, model::declare(plan.shape.config), plan.programs);
    plan.proof = parallel::prove(plan.shape, plan.programs, plan.inventory);
    plan.report = plan::memory_report(plan.inventory, plan.programs);
    plans.push_back(std::move(plan));
  }
  std::stable_sort(plans.begin(), plans.end(),
                   [](const RankPlan& a, const RankPlan& b) { return a.report.total > b.report.total; });
  return plans;
}

// Which ranks do what; nothing of a rank alone.
void print_placements(const comm::Mesh& mesh, const std::vector<RankPlan>& plans) {
  if (mesh.world_size() == 1) return;
  fmt::print("{}\n", mesh.describe());
  for (const RankPlan& plan : plans) {
    const comm::Placement& first = plan.ranks.first;
    fmt::print("  {} rank{} as rank {} (stage {}, tensor rank {}): {} each\n", plan.ranks.ranks,
               plan.ranks.ranks == 1 ? "" : "s", first.rank(), first.stage(), first.tensor_rank(),
               observe::format_bytes(static_cast<double>(plan.report.total)));
  }
  fmt::print("\n");
}

nlohmann::json placements_json(const std::vector<RankPlan>& plans) {
  nlohmann::json json = nlohmann::json::array();
  for (const RankPlan& plan : plans) {
    const comm::Placement& first = plan.ranks.first;
    json.push_back({{"first_rank", first.rank()},
                    {"ranks", plan.ranks.ranks},
                    {"stage", first.stage()},
                    {"tensor_rank", first.tensor_rank()},
                    {"bytes_per_rank", plan.report.total}});
  }
  return json;
}

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
  if (report.file > 0) {
    fmt::print("in a file of each rank: {} bytes ({}) of optimizer state; an update reads {} bytes and writes {}\n",
               observe::format_integer(report.file), observe::format_bytes(static_cast<double>(report.file)),
               observe::format_integer(report.file), observe::format_integer(report.file));
  }
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

void print_programs(const parallel::RunShape& shape, const std::vector<parallel::Program>& programs) {
  for (const parallel::Program& program : programs) {
    fmt::print("\n{}, {} micro-batch{}:\n{}", program.name, program.micro_batches,
               program.micro_batches == 1 ? "" : "es",
               plan::program_listing(program, parallel::Dataflow(shape.config, shape.sharding, program)));
  }
}

// What a layout costs beside another: memory, and what a rank sends in a step with the most micro-batches.
void print_traffic(const train::Config& config, const device::Machine& machine, const RankPlan& plan) {
  const comm::Placement& place = plan.ranks.first;
  if (place.mesh().world_size() == 1) return;
  const parallel::Sharding& given = plan.shape.sharding;
  // Below level `gradients` reducing more often saves nothing.
  const bool both = given.cuts(parallel::Shard::gradients) && given.micro_batches > 1;
  observe::Table table({{"gradients reduced", observe::Table::left},
                        {"bytes per rank", observe::Table::right},
                        {"a step sends: weights", observe::Table::right},
                        {"gradients", observe::Table::right},
                        {"", observe::Table::left}});
  for (const parallel::Reduce reduce : {parallel::Reduce::every, parallel::Reduce::last}) {
    if (!both && reduce != given.reduce) continue;
    train::Config choice = config;
    choice.parallel.reduce = reduce == parallel::Reduce::every ? train::Cadence::every : train::Cadence::last;
    const parallel::RunShape shape = train::run_shape(choice, machine, place);
    const std::vector<model::Segment> segments = model::declare(shape.config);
    const std::vector<parallel::Program> programs = train::run_programs(choice, place);
    const int64_t bytes =
        reduce == given.reduce ? plan.report.total : parallel::make_inventory(shape, segments, programs).total_bytes();
    const plan::TrafficByPurpose traffic = plan::traffic_by_purpose(programs.back(), segments, shape.sharding);
    table.row({given.micro_batches == 1            ? "once per step"
               : reduce == parallel::Reduce::every ? fmt::format("every micro-batch of {}", given.micro_batches)
                                                   : fmt::format("once, after {} micro-batches", given.micro_batches),
               observe::format_integer(bytes), observe::format_bytes(static_cast<double>(traffic.gathers)),
               observe::format_bytes(static_cast<double>(traffic.reductions)),
               both && reduce == given.reduce ? "chosen" : ""});
  }
  fmt::print("\n{}", table.text());
}

// Of the device that --memory names, else of this host.
void require_memory(const PlanOptions& options, const train::Config& config, const device::Machine& machine,
                    const comm::Mesh& mesh, const plan::MemoryReport& report, int64_t order_bytes) {
  const int ranks = mesh.world_size();
  const int together = options.ranks_per_host == 0 ? ranks : std::min(ranks, options.ranks_per_host);
  plan::Limit limit = plan::host_limit(machine, together);
  if (const plan::Limit cgroup = plan::cgroup_limit(machine, together); cgroup.bytes < limit.bytes) limit = cgroup;
  train::require_index_fits(config, order_bytes, limit.bytes, limit.of);
  limit.beside = order_bytes;
  if (options.memory != 0) limit = {options.memory, 1, "device"};
  plan::require_fits(
      report, limit, [&] { return train::nearest_remedy(config, machine, mesh, limit); },
      train::most_of_it(config, report) +
          (options.memory != 0 ? fmt::format(" (--memory {})", options.memory) : std::string()));
  const auto bytes = [](auto value) { return observe::format_bytes(static_cast<double>(value)); };
  const double of_all = static_cast<double>(report.total) * together;
  if (options.memory != 0) {
    fmt::print("fits: {} of a device's {}", bytes(report.total), bytes(limit.bytes));
    if (options.ranks_per_host != 0) fmt::print("; {} on a host of {} ranks", bytes(of_all), together);
  } else {
    fmt::print("fits: {} of {} free on this host", bytes(of_all + static_cast<double>(order_bytes)),
               bytes(limit.bytes));
  }
  fmt::print("\n");
}

void run(const PlanOptions& options) {
  const device::Machine machine = device::Machine::read();
  const train::Config config = read_run_config(options.run);
  const comm::Mesh mesh = train::mesh_of(config, options.run.ranks);
  const std::vector<RankPlan> plans = plans_of(config, machine, mesh);
  const auto& [ranks, shape, programs, inventory, proof, report] = plans.front();
  const int64_t outside = device::resident_memory().now;
  const data::SampleIndexSize order = train::planned_index(config);
  if (options.json) {
    nlohmann::json json = plan::to_json(inventory, report, programs, mesh);
    json["placements"] = placements_json(plans);
    json["code_and_libraries_bytes"] = outside;
    json["sample_order"] = {{"bytes_per_process", order.bytes}, {"samples", order.samples}, {"epochs", order.epochs}};
    json["parameters"] = config.model.transformer.parameters();
    fmt::print("{}\n", json_text(json, 2));
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
      shape.batch.team_size == 1 ? "" : "s", word_of(config.train.precision), config.train.global_batch,
      config.train.sequence, config.train.micro_batch, flops.per_token() * static_cast<double>(tokens) * 1e-12);
  print_placements(mesh, plans);
  print_summary(inventory, report);
  if (config.optimizer.offload == train::Offload::host)
    fmt::print(
        "optimizer.offload = \"host\": on CPUs the optimizer's state lies in host memory anyway; nothing moves\n");
  fmt::print("outside the plan: {} for code and libraries, per process\n",
             observe::format_bytes(static_cast<double>(outside)));
  fmt::print("beside the ranks, per process: {}{} bytes ({}) for the order of {} samples ({})\n",
             order.epochs == 0 ? "at least " : "", observe::format_integer(order.bytes),
             observe::format_bytes(static_cast<double>(order.bytes)), observe::format_integer(order.samples),
             order.epochs == 0 ? "data.train is not there yet"
                               : fmt::format("{} epoch{}", order.epochs, order.epochs == 1 ? "" : "s"));
  fmt::print("proved in {}: {} operations complete and free of deadlock, {} buffers kept apart\n",
             observe::format_duration(proof.seconds), observe::format_integer(proof.operations),
             observe::format_integer(proof.buffers));
  print_traffic(config, machine, plans.front());
  if (options.all) print_buffers(inventory, programs);
  if (options.program) print_programs(shape, programs);
  require_memory(options, config, machine, mesh, report, order.bytes);
}

}  // namespace

void add_plan(const Command& program) {
  const auto options = std::make_shared<PlanOptions>();
  const Command command = program.subcommand("plan", "Say what a run will take, before it is queued");
  command.footer(
      "Lists the very buffers that `ridgeline train` allocates. Exits with an error when they do not fit this "
      "machine, or the device that --memory names, and says what would.\n\n"
      "Examples:\n"
      "  ridgeline plan --config configs/gpt2_124m.toml --ranks 2\n"
      "  ridgeline plan --config configs/gpt2_124m.toml --ranks 2 --json\n"
      "  ridgeline plan --config configs/gptj_6b_fsdp.toml --ranks 16 --ranks-per-host 8 --memory 64GiB");
  add_run_config(command, options->run, Range{1, 1 << 20});
  command
      .size("--memory", options->memory, Range{1},
            "Memory of the device that each rank will have, elsewhere (64GiB, 80GB, …); default: what is free "
            "on this host, for all ranks together")
      .no_default();
  command
      .option("--ranks-per-host", options->ranks_per_host, Range{1, 1 << 20},
              "Ranks that share a host, where that is not all of them")
      .no_default();
  command.flag("--json", options->json, "Every buffer, as JSON");
  command.flag("--all", options->all, "Every buffer, as a table");
  command.flag("--program", options->program,
               "Every operation of a rank's programs: what it waits for, writes, adds to and reads");
  command.action([options] { run(*options); });
}

}  // namespace ridgeline::cli

#include "ridgeline/cli/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "ridgeline/base/json.h"
#include "ridgeline/base/output.h"
#include "ridgeline/base/words.h"
#include "ridgeline/cli/command.h"
#include "ridgeline/cli/plan_search.h"
#include "ridgeline/cli/run_config.h"
#include "ridgeline/device/arena.h"
#include "ridgeline/device/machine.h"
#include "ridgeline/observe/format.h"
#include "ridgeline/optim/batch_ramp.h"
#include "ridgeline/parallel/proof.h"
#include "ridgeline/plan/memory_report.h"
#include "ridgeline/plan/pipeline_use.h"
#include "ridgeline/plan/program_listing.h"
#include "ridgeline/plan/schedule_picture.h"
#include "ridgeline/plan/traffic.h"
#include "ridgeline/train/find_documents.h"
#include "ridgeline/train/remedy.h"
#include "ridgeline/train/sample_order.h"
#include "ridgeline/train/trainer.h"

namespace ridgeline::cli {
namespace {

struct PlanOptions {
  RunConfigOptions run;
  PlanSearchOptions search;
  bool json = false, all = false, program = false, schedule = false;
  std::filesystem::path svg;  // of the schedule; empty: as text
  int64_t memory = 0;         // of a rank's device; 0: this host's
  int ranks_per_host = 0;     // 0: all
};

// Three digits: "288 TFLOP", "5.57 PFLOP".
std::string flop_text(double flops) {
  constexpr std::array kUnits = {"MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP"};
  size_t unit = 0;
  for (flops *= 1e-6; flops >= 999.5 && unit + 1 < kUnits.size(); flops *= 1e-3) ++unit;
  return fmt::format("{:.3g} {}", flops, kUnits[unit]);
}

// What is planned for ranks that do the same work.
struct RankPlan {
  comm::AlikeRanks ranks;
  parallel::RunShape shape;
  std::vector<parallel::Program> programs;
  parallel::Inventory inventory;
  plan::MemoryReport report;
};
struct Plans {
  std::vector<RankPlan> all;  // of every placement that differs, by first rank
  size_t fullest = 0;         // which of them takes most memory
  parallel::Proof proof;      // of the fullest; of the others the layout is proved, too

  const RankPlan& most() const { return all[fullest]; }
};

Plans plans_of(const train::Config& config, const device::Machine& machine, const comm::Mesh& mesh) {
  Plans plans;
  for (const comm::AlikeRanks& ranks : parallel::alike_ranks(train::run_shape(config, machine, {mesh, 0}))) {
    RankPlan plan{.ranks = ranks,
                  .shape = train::run_shape(config, machine, ranks.first),
                  .programs = train::run_programs(config, ranks.first)};
    plan.inventory = parallel::make_inventory(plan.shape, plan.shape.segments(), plan.programs);
    plan.report = plan::memory_report(plan.inventory, plan.programs);
    plans.all.push_back(std::move(plan));
    if (plans.all.back().report.total > plans.most().report.total) plans.fullest = plans.all.size() - 1;
  }
  plans.proof = parallel::prove(plans.most().shape, plans.most().programs, plans.most().inventory);
  for (const RankPlan& plan : plans.all) {
    if (&plan != &plans.most()) parallel::prove_layout(plan.programs, plan.inventory);
  }
  return plans;
}

// How the pipeline's stages spend a step with `micro_batches`.
plan::PipelineUse use_of(const parallel::RunShape& shape, int micro_batches) {
  return plan::pipeline_use(shape.sharding.pipeline.shape(micro_batches), plan::stage_costs(shape));
}

// "embedding, blocks 0 to 5", of several virtual stages separated by " + ".
std::string computed_by(const parallel::RunShape& shape) {
  const int layers = static_cast<int>(shape.config.layers);
  std::string text;
  for (const parallel::Elements& elements : shape.sharding.pipeline.of_stage(shape.config, shape.place().stage())) {
    const int first = std::max(elements.first, 0), last = std::min(elements.last, layers - 1);
    if (!text.empty()) text += " + ";
    if (elements.contains(-1)) text += "embedding, ";
    text += first == last ? fmt::format("block {}", first) : fmt::format("blocks {} to {}", first, last);
    if (elements.contains(layers)) text += ", loss";
  }
  return text;
}

// A line of the table of stages: one, or neighbours that have nothing but their blocks to tell them apart.
struct StageLine {
  int first = 0, last = 0, ranks = 0, rank = 0;
  std::string computes;
  int64_t bytes = 0;
  int alive = 0;
  std::string idle;

  bool continues(const StageLine& before) const {
    return bytes == before.bytes && alive == before.alive && idle == before.idle && first == before.last + 1;
  }
};

void print_stages(const std::vector<RankPlan>& plans, const plan::PipelineUse& use) {
  std::vector<StageLine> lines;
  for (const RankPlan& plan : plans) {
    const int stage = plan.ranks.first.stage();
    StageLine line{.first = stage,
                   .last = stage,
                   .ranks = plan.ranks.ranks,
                   .rank = plan.ranks.first.rank(),
                   .computes = computed_by(plan.shape),
                   .bytes = plan.report.total,
                   .alive = use.timeline.peak_live[static_cast<size_t>(stage)],
                   .idle = fmt::format("{:.1f} %", 100 * use.idle_of(stage))};
    if (lines.empty() || !line.continues(lines.back())) {
      lines.push_back(std::move(line));
      continue;
    }
    lines.back().last = stage;
    lines.back().ranks += line.ranks;
    lines.back().computes =
        fmt::format("{} … {}", lines.back().computes.substr(0, lines.back().computes.find(" …")), line.computes);
  }
  observe::Table table({{"stage", observe::Table::left},
                        {"ranks", observe::Table::right},
                        {"from rank", observe::Table::right},
                        {"computes", observe::Table::left},
                        {"memory of each", observe::Table::right},
                        {"", observe::Table::right},
                        {"micro-batches alive", observe::Table::right},
                        {"idle", observe::Table::right}});
  for (const StageLine& line : lines) {
    table.row({line.first == line.last ? std::to_string(line.first) : fmt::format("{} to {}", line.first, line.last),
               std::to_string(line.ranks), std::to_string(line.rank), line.computes,
               observe::format_integer(line.bytes), observe::format_bytes(static_cast<double>(line.bytes)),
               std::to_string(line.alive), line.idle});
  }
  fmt::print("{}", table.text());
}

void print_bubble(const parallel::RunShape& shape, const train::Config& config, const plan::PipelineUse& use) {
  const parallel::Pipeline& pipeline = shape.sharding.pipeline;
  const auto counted = [](int micro_batches) {
    return fmt::format("{} micro-batch{}", micro_batches, micro_batches == 1 ? "" : "es");
  };
  fmt::print(
      "{}, {}: of equal stages {:.1f} % of a step are idle; with this cut {:.1f} %: {:.1f} % in "
      "which all wait, {:.1f} % because stages differ\n",
      word_of(pipeline.kind), counted(shape.sharding.micro_batches), 100 * use.idle_if_equal,
      100 * use.timeline.idle_share, 100 * use.waiting, 100 * use.imbalance);
  const int64_t first = optim::batch_sizes(train::batch_ramp_of(config)).front();
  if (first == config.train.global_batch) return;
  const auto micro_batches = static_cast<int>(shape.sharding.micro_batches * first / config.train.global_batch);
  const plan::PipelineUse ramp = use_of(shape, micro_batches);
  fmt::print("in the ramp's first steps, of {}: {:.1f} %; with this cut {:.1f} %\n", counted(micro_batches),
             100 * ramp.idle_if_equal, 100 * ramp.timeline.idle_share);
}

// Which ranks do what; nothing of a rank alone.
void print_placements(const train::Config& config, const comm::Mesh& mesh, const std::vector<RankPlan>& plans) {
  if (mesh.world_size() == 1) return;
  fmt::print("{}\n", mesh.describe());
  const parallel::RunShape& shape = plans.front().shape;
  if (shape.sharding.pipeline.stages() > 1) {
    const plan::PipelineUse use = use_of(shape, shape.sharding.micro_batches);
    print_stages(plans, use);
    print_bubble(shape, config, use);
  } else {
    for (const RankPlan& plan : plans) {
      fmt::print("  {} as rank {}: {} each\n", observe::format_counted(plan.ranks.ranks, "rank"),
                 plan.ranks.first.rank(), observe::format_bytes(static_cast<double>(plan.report.total)));
    }
  }
  fmt::print("\n");
}

// The picture of the pipeline's work, for a terminal or (`svg`) in a file.
void draw_schedule(const parallel::RunShape& shape, const std::filesystem::path& svg) {
  const parallel::PipelineShape pipeline = shape.sharding.pipeline.shape(shape.sharding.micro_batches);
  const std::vector<parallel::Cost> costs = plan::stage_costs(shape);
  if (svg.empty()) {
    constexpr int kColumns = 120;
    fmt::print("\n{}", plan::schedule_text(pipeline, costs, kColumns));
    return;
  }
  require_writable(svg, fmt::format("--svg {}", svg.string()), {},
                   [](std::string_view start) { return start.starts_with("<svg "); });
  write_output(svg, plan::schedule_svg(pipeline, costs));
  fmt::print("\nschedule drawn: {}\n", svg.string());
}

nlohmann::json placements_json(const std::vector<RankPlan>& plans) {
  nlohmann::json json = nlohmann::json::array();
  const parallel::RunShape& shape = plans.front().shape;
  const plan::PipelineUse use = use_of(shape, shape.sharding.micro_batches);
  for (const RankPlan& plan : plans) {
    const comm::Placement& first = plan.ranks.first;
    const int layers = static_cast<int>(shape.config.layers);
    nlohmann::json blocks = nlohmann::json::array();
    bool embedding = false, loss = false;
    for (const parallel::Elements& elements : shape.sharding.pipeline.of_stage(shape.config, first.stage())) {
      for (int block = std::max(elements.first, 0); block <= std::min(elements.last, layers - 1); ++block)
        blocks.push_back(block);
      embedding = embedding || elements.contains(-1);
      loss = loss || elements.contains(layers);
    }
    json.push_back({{"first_rank", first.rank()},
                    {"ranks", plan.ranks.ranks},
                    {"stage", first.stage()},
                    {"tensor_rank", first.tensor_rank()},
                    {"embedding", embedding},
                    {"blocks", blocks},
                    {"loss", loss},
                    {"micro_batches_alive", use.timeline.peak_live[static_cast<size_t>(first.stage())]},
                    {"idle_share", use.idle_of(first.stage())},
                    {"bytes_per_rank", plan.report.total}});
  }
  return json;
}

nlohmann::json pipeline_json(const parallel::RunShape& shape) {
  const parallel::Pipeline& pipeline = shape.sharding.pipeline;
  const plan::PipelineUse use = use_of(shape, shape.sharding.micro_batches);
  return {{"stages", pipeline.stages()},
          {"schedule", word_of(pipeline.kind)},
          {"chunks", pipeline.chunks},
          {"micro_batches", shape.sharding.micro_batches},
          {"idle_share_of_equal_stages", use.idle_if_equal},
          {"idle_share", use.timeline.idle_share},
          {"waiting_share", use.waiting},
          {"imbalance_share", use.imbalance}};
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
                        {"to slices", observe::Table::right},
                        {"to stages", observe::Table::right},
                        {"", observe::Table::left}});
  for (const parallel::Reduce reduce : {parallel::Reduce::every, parallel::Reduce::last}) {
    if (!both && reduce != given.reduce) continue;
    train::Config choice = config;
    choice.parallel.reduce = reduce == parallel::Reduce::every ? train::Cadence::every : train::Cadence::last;
    const parallel::RunShape shape = train::run_shape(choice, machine, place);
    const std::vector<parallel::Program> programs = train::run_programs(choice, place);
    const int64_t bytes = reduce == given.reduce
                              ? plan.report.total
                              : parallel::make_inventory(shape, shape.segments(), programs).total_bytes();
    const plan::TrafficByPurpose traffic = plan::traffic_by_purpose(programs.back(), shape);
    table.row({given.micro_batches == 1            ? "once per step"
               : reduce == parallel::Reduce::every ? fmt::format("every micro-batch of {}", given.micro_batches)
                                                   : fmt::format("once, after {} micro-batches", given.micro_batches),
               observe::format_integer(bytes), observe::format_bytes(static_cast<double>(traffic.gathers)),
               observe::format_bytes(static_cast<double>(traffic.reductions)),
               observe::format_bytes(static_cast<double>(traffic.slices)),
               observe::format_bytes(static_cast<double>(traffic.stages)),
               both && reduce == given.reduce ? "chosen" : ""});
  }
  fmt::print("\n{}", table.text());
}

// Of the device that --memory names, else of this host.
void require_memory(const PlanOptions& options, const train::Config& config, const device::Machine& machine,
                    const comm::Mesh& mesh, const plan::MemoryReport& report, int64_t order_bytes) {
  const auto bytes = [](auto value) { return observe::format_bytes(static_cast<double>(value)); };
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
          (options.memory != 0 ? fmt::format(" (--memory of {})", bytes(options.memory)) : std::string()));
  const double of_all = static_cast<double>(report.total) * together;
  if (options.memory != 0) {
    fmt::print("fits: {} of a device's {}", bytes(report.total), bytes(limit.bytes));
    if (options.ranks_per_host != 0)
      fmt::print("; {} on a host of {}", bytes(of_all), observe::format_counted(together, "rank"));
  } else {
    fmt::print("fits: {} of {} free on this host", bytes(of_all + static_cast<double>(order_bytes)),
               bytes(limit.bytes));
  }
  fmt::print("\n");
}

// "epochs" are those of the dataset that has most of them; 0: it is not there yet.
nlohmann::json order_json(const train::Config& config, const train::OrderSize& order) {
  nlohmann::json datasets = nlohmann::json::array();
  int64_t epochs = 0;
  for (size_t i = 0; i < order.datasets.size(); ++i) {
    epochs = std::max(epochs, order.datasets[i].epochs);
    const train::DatasetList::Entry& entry = config.data.train.entries[i];
    datasets.push_back({{"prefix", entry.prefix},
                        {"weight", order.weights[i]},
                        {"epochs", order.datasets[i].epochs},
                        {"samples", order.datasets[i].samples}});
  }
  return {{"bytes_per_process", order.bytes}, {"samples", order.samples}, {"epochs", epochs}, {"datasets", datasets}};
}

std::string epochs_text(const train::Config& config, const train::OrderSize& order) {
  if (order.datasets.empty()) return "data.train is not there yet";
  std::string text;
  for (size_t i = 0; i < order.datasets.size(); ++i) {
    const int64_t epochs = order.datasets[i].epochs;
    text += fmt::format("{}{}", i == 0 ? "" : ", ", observe::format_counted(epochs, "epoch"));
    if (config.data.train.is_blend())
      text += fmt::format(" of {:.1f} % '{}'", 100 * order.weights[i], config.data.train.entries[i].prefix);
  }
  return text;
}

void run(const PlanOptions& options) {
  if (options.search.search) return search_plan(options.search, options.run, options.memory, options.json);
  if (options.search.gpus != 0 || !options.search.out.empty())
    throw UsageError(fmt::format("{}: only with --search", options.search.gpus != 0 ? "--gpus" : "--out"),
                     "Ranks of the layout that the configuration has: --ranks N");
  const device::Machine machine = device::Machine::read();
  const train::Config config = read_run_config(options.run);
  train::find_documents(train::dataset_names(config), machine, stderr);
  const comm::Mesh mesh = train::mesh_of(config, options.run.ranks);
  const Plans plans = plans_of(config, machine, mesh);
  const auto& [ranks, shape, programs, inventory, report] = plans.most();
  const parallel::Proof& proof = plans.proof;
  const int64_t outside = device::resident_memory().now;
  const train::OrderSize order = train::planned_order(config);
  if (options.json) {
    nlohmann::json json = plan::to_json(inventory, report, programs, mesh);
    json["placements"] = placements_json(plans.all);
    if (shape.sharding.pipeline.stages() > 1) json["pipeline"] = pipeline_json(shape);
    json["code_and_libraries_bytes"] = outside;
    json["sample_order"] = order_json(config, order);
    json["parameters"] = config.model.transformer.parameters();
    fmt::print("{}\n", json_text(json, 2));
    return;
  }
  const model::TransformerConfig& model = config.model.transformer;
  const model::Flops flops = model::training_flops(model, config.train.sequence);
  const int64_t tokens = config.train.global_batch * config.train.sequence;
  fmt::print("{}: {}, width {}, {}, vocabulary {}: {} parameters\n", model.family,
             observe::format_counted(model.layers, "layer"), model.width, observe::format_counted(model.heads, "head"),
             model.vocab, observe::format_integer(model.parameters()));
  fmt::print("{}, {} each, {}: a step is {} of {} tokens in micro-batches of {}; {}\n\n",
             observe::format_counted(options.run.ranks, "rank"),
             observe::format_counted(shape.batch.team_size, "thread"), word_of(config.train.precision),
             observe::format_counted(config.train.global_batch, "sequence"), config.train.sequence,
             config.train.micro_batch, flop_text(flops.per_token() * static_cast<double>(tokens)));
  print_placements(config, mesh, plans.all);
  print_summary(inventory, report);
  if (config.optimizer.offload == train::Offload::host)
    fmt::print(
        "optimizer.offload = \"host\": on CPUs the optimizer's state lies in host memory anyway; nothing moves\n");
  fmt::print("outside the plan: {} for code and libraries, per process\n",
             observe::format_bytes(static_cast<double>(outside)));
  fmt::print("beside the ranks, per process: {}{} bytes ({}) for the order of {} ({})\n",
             order.datasets.empty() ? "at least " : "", observe::format_integer(order.bytes),
             observe::format_bytes(static_cast<double>(order.bytes)), observe::format_counted(order.samples, "sample"),
             epochs_text(config, order));
  fmt::print("proved in {}: {} operations complete and free of deadlock, {} buffers kept apart\n",
             observe::format_duration(proof.seconds), observe::format_integer(proof.operations),
             observe::format_integer(proof.buffers));
  print_traffic(config, machine, plans.most());
  if (options.all) print_buffers(inventory, programs);
  if (options.program) print_programs(shape, programs);
  if (options.schedule || !options.svg.empty()) draw_schedule(shape, options.svg);
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
      "  ridgeline plan --config configs/gptj_6b_fsdp.toml --ranks 16 --ranks-per-host 8 --memory 64GiB\n"
      "  ridgeline plan configs/gpt_22b_3d.toml --ranks 32 --memory 64GiB --schedule\n"
      "  ridgeline plan --search --gpus 32 --memory 64GiB configs/gpt_22b_3d.toml");
  add_run_config(command, options->run, Range{1, 1 << 20}, "--config,CONFIG");
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
  command.flag("--schedule", options->schedule,
               "The pipeline's schedule as a picture: a row per stage, time to the right");
  command.option("--svg", options->svg, "Draw it into this file instead").placeholder("FILE.svg");
  add_plan_search(command, options->search);
  command.action([options] { run(*options); });
}

}  // namespace ridgeline::cli

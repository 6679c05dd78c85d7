#include "ridgeline/cli/plan_search.h"

#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>

#include "ridgeline/base/json.h"
#include "ridgeline/base/output.h"
#include "ridgeline/base/words.h"
#include "ridgeline/device/machine.h"
#include "ridgeline/observe/format.h"
#include "ridgeline/observe/progress.h"
#include "ridgeline/train/layout_search.h"
#include "ridgeline/train/remedy.h"

namespace ridgeline::cli {
namespace {

using train::Layout;
using train::LayoutSearch;

// Shows itself once a search takes long.
class SearchProgress {
 public:
  explicit SearchProgress(int total) : total_(total) {}

  void update(int64_t listed) {
    constexpr std::chrono::seconds kPatience{2};
    if (!bar_ && std::chrono::steady_clock::now() - begin_ > kPatience)
      bar_.emplace(observe::ProgressOptions{
          .label = "search", .total = total_, .unit = "layouts", .start = listed, .output = stderr});
    if (bar_) bar_->update(listed);
  }

 private:
  const int total_;
  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  std::optional<observe::Progress> bar_;
};

std::string schedule_of(const train::Config::Parallel& p) {
  if (p.pipeline == 1) return "-";
  if (p.chunks == 1) return std::string(word_of(p.schedule));
  return fmt::format("{} x {}", word_of(p.schedule), p.chunks);
}

void print_layouts(const LayoutSearch& found) {
  using observe::Table;
  Table table({{"tensor", Table::right},
               {"pipeline", Table::right},
               {"data", Table::right},
               {"sequence", Table::left},
               {"shard", Table::left},
               {"recompute", Table::left},
               {"micro-batch", Table::right},
               {"schedule", Table::left},
               {"memory", Table::right},
               {"idle", Table::right},
               {"s/step", Table::right},
               {"TFLOP/s per rank", Table::right}});
  for (const Layout& layout : found.layouts) {
    const train::Config::Parallel& p = layout.config.parallel;
    table.row({std::to_string(p.tensor), std::to_string(p.pipeline), std::to_string(layout.data_ranks),
               p.sequence ? "yes" : "no", std::string(word_of(p.shard)),
               std::string(word_of(layout.config.train.recompute)), std::to_string(layout.config.train.micro_batch),
               schedule_of(p), observe::format_bytes(static_cast<double>(layout.bytes)),
               fmt::format("{:.1f} %", 100 * layout.time.idle_share), fmt::format("{:.4g}", layout.time.seconds),
               fmt::format("{:.1f}", layout.model_flops * 1e-12)});
  }
  fmt::print("{}", table.text());
}

void print_refused(const LayoutSearch& found) {
  using observe::Table;
  Table table({{"combinations", Table::right}, {"of", Table::left}});
  table.row({observe::format_integer(found.combinations), "all"});
  table.row({observe::format_integer(std::ssize(found.layouts)), "listed"});
  table.row({observe::format_integer(found.slower), "not faster than what is listed, or the same with other means"});
  for (const auto& [reason, count] : found.refused) table.row({observe::format_integer(count), "refused: " + reason});
  fmt::print("\n{}", table.text());
}

nlohmann::json json_of(const LayoutSearch& found, const train::SearchSpace& space) {
  nlohmann::json layouts = nlohmann::json::array();
  for (const Layout& layout : found.layouts) {
    const train::Config::Parallel& p = layout.config.parallel;
    layouts.push_back({{"tensor", p.tensor},
                       {"pipeline", p.pipeline},
                       {"data", layout.data_ranks},
                       {"sequence", p.sequence},
                       {"shard", word_of(p.shard)},
                       {"recompute", word_of(layout.config.train.recompute)},
                       {"micro_batch", layout.config.train.micro_batch},
                       {"schedule", word_of(p.schedule)},
                       {"chunks", p.chunks},
                       {"bytes_per_rank", layout.bytes},
                       {"idle_share", layout.time.idle_share},
                       {"seconds_per_step", layout.time.seconds},
                       {"model_flops_per_rank", layout.model_flops}});
  }
  return {{"ranks", space.ranks},
          {"memory", space.memory},
          {"combinations", found.combinations},
          {"slower", found.slower},
          {"refused", found.refused},
          {"layouts", layouts},
          {"node_size", space.cluster.node_size}};
}

std::filesystem::path out_of(const PlanSearchOptions& options, const RunConfigOptions& run) {
  if (!options.out.empty()) return options.out;
  return fmt::format("{}.best.toml", run.config.empty() ? "ridgeline" : run.config.stem().string());
}

train::SearchSpace space_of(const PlanSearchOptions& options, int64_t memory) {
  if (options.gpus == 0)
    throw UsageError("--search: for how many ranks?", "Give --gpus N, and --memory of each: --gpus 32 --memory 64GiB");
  if (memory == 0) throw UsageError("--search: what fits into how much memory?", "Give --memory of each rank: 64GiB");
  plan::Cluster cluster = options.cluster;
  cluster.flops = options.teraflops * 1e12;
  cluster.inside = options.inside * 1e9;
  cluster.between = options.between * 1e9;
  return {.ranks = options.gpus, .memory = memory, .cluster = cluster, .most = options.most};
}

}  // namespace

void add_plan_search(const Command& command, PlanSearchOptions& options) {
  constexpr double kMost = 1e6;
  command.flag(
      "--search", options.search,
      "List the layouts that fit --gpus ranks of --memory each, ranked by a first model of time, and write the "
      "best as a configuration");
  command.option("--gpus", options.gpus, Range{1, train::kMostRanks}, "Ranks to lay the run out for (--search)")
      .no_default();
  command.option("--node-size", options.cluster.node_size, Range{1, train::kMostRanks}, "Ranks of a node (--search)");
  command.option(
      "--rank-tflops", options.teraflops, RealRange{1e-6, kMost},
      "TFLOP/s of a rank at its peak (--search; the default and the next three: half an MI250X of Frontier)");
  command.option("--efficiency", options.cluster.efficiency, RealRange{1e-3, 1},
                 "Part of that peak which products reach (--search)");
  command.option("--node-gbps", options.inside, RealRange{1e-6, kMost},
                 "GB/s that a rank sends to ranks of its node (--search)");
  command.option("--network-gbps", options.between, RealRange{1e-6, kMost},
                 "GB/s that a rank sends to other nodes (--search)");
  command.option("--show", options.most, Range{1, 100000}, "Layouts to list (--search)");
  command
      .option("--out", options.out,
              "File for the best of them (--search); default: the configuration's name with .best.toml, here")
      .placeholder("FILE.toml")
      .no_default();
}

void search_plan(const PlanSearchOptions& options, const RunConfigOptions& run, int64_t memory, bool json) {
  const train::SearchSpace space = space_of(options, memory);
  const std::filesystem::path out = out_of(options, run);
  const std::vector<std::filesystem::path> inputs = {run.config};
  require_writable(out, fmt::format("--out {}", out.string()), inputs,
                   [](std::string_view start) { return start.starts_with(train::kLayoutMark); });
  const train::Config config = read_config_for_any_ranks(run);
  // What is wrong whatever the layout.
  const train::Config::Parallel& p = config.parallel;
  train::check(config, static_cast<int>(p.tensor * p.pipeline));
  const device::Machine machine = device::Machine::read();
  SearchProgress progress(space.most);
  const LayoutSearch found =
      train::search_layouts(config, space, machine, [&](int64_t listed) { progress.update(listed); });
  if (json) {
    fmt::print("{}\n", json_text(json_of(found, space), 2));
  } else {
    const plan::Cluster& c = space.cluster;
    fmt::print(
        "{} of {}, {} in a node; assumed: {:.4g} TFLOP/s each, {:.0f} % of it in products, {:.4g} GB/s inside "
        "a node and {:.4g} GB/s between nodes\n\n",
        observe::format_counted(space.ranks, "rank"), observe::format_bytes(static_cast<double>(memory)), c.node_size,
        c.flops * 1e-12, 100 * c.efficiency, c.inside * 1e-9, c.between * 1e-9);
    print_layouts(found);
    print_refused(found);
  }
  if (found.layouts.empty()) {
    throw Error(fmt::format("no layout fits {} of {}", observe::format_counted(space.ranks, "rank"),
                            observe::format_bytes(static_cast<double>(memory))),
                "Use more ranks, or optimizer.offload = \"file\", or fewer bits (train.precision, optimizer.state).");
  }
  const Layout& best = found.layouts.front();
  // Of every rank, not only of those that are likely to be the fullest.
  plan::require_fits(train::memory_report(best.config, machine, train::mesh_of(best.config, space.ranks)),
                     {memory, 1, "device"}, [] { return "Give a little less --memory."; });
  write_output(out, train::layout_file(best, space));
  if (!json) fmt::print("\nthe best: {}\n", out.string());
}

}  // namespace ridgeline::cli

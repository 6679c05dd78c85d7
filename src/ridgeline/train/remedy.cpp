#include "ridgeline/train/remedy.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <optional>
#include <vector>

#include "ridgeline/base/error.h"
#include "ridgeline/train/config_keys.h"
#include "ridgeline/train/trainer.h"

namespace ridgeline::train {
namespace {

// A remedy does not cut a step into more than these: the smaller its micro-batches, the slower a step.
constexpr int64_t kMicroBatches = 64;

std::string gib(int64_t bytes) {
  return fmt::format("{:.2f} GiB", static_cast<double>(bytes) / (1 << 30));
}

// Changes to a key that save memory, weakest first.
using Change = std::function<void(Config&)>;
struct Step {
  std::string_view key;
  std::vector<Change> changes;
};

// The values after `now`, in the order of the enumerators, which is the order of what they save.
template <typename E>
std::vector<Change> values_after(E now, const std::function<E&(Config&)>& member) {
  std::vector<Change> changes;
  for (size_t value = static_cast<size_t>(now) + 1; value < words_of(now).size(); ++value)
    changes.emplace_back([=](Config& config) { member(config) = static_cast<E>(value); });
  return changes;
}

std::vector<Step> steps_of(const Config& config, const comm::Mesh& mesh) {
  using parallel::Shard;
  std::vector<Step> steps;
  const int ranks = mesh.size(comm::kDataAxes);
  if (ranks > 1) {
    steps.push_back({"parallel.shard",
                     values_after<Shard>(config.parallel.shard, [](Config& c) -> Shard& { return c.parallel.shard; })});
    if (config.parallel.reduce == Cadence::last)
      steps.push_back({"parallel.reduce", {[](Config& c) { c.parallel.reduce = Cadence::every; }}});
  }
  steps.push_back({"train.recompute",
                   values_after<model::Recompute>(config.train.recompute,
                                                  [](Config& c) -> model::Recompute& { return c.train.recompute; })});
  Step micro{"train.micro_batch", {}};
  const int64_t of_rank = config.train.global_batch / ranks;
  const int64_t most = std::max(of_rank / config.train.micro_batch, kMicroBatches);
  const std::vector<int64_t> sizes = divisors(of_rank);
  for (auto size = sizes.rbegin(); size != sizes.rend(); ++size) {
    if (*size < config.train.micro_batch && of_rank / *size <= most)
      micro.changes.emplace_back([size = *size](Config& c) { c.train.micro_batch = size; });
  }
  steps.push_back(std::move(micro));
  if (config.optimizer.offload != Offload::file)
    steps.push_back({"optimizer.offload", {[](Config& c) { c.optimizer.offload = Offload::file; }}});
  if (config.train.precision == Precision::fp32)
    steps.push_back({"train.precision", {[](Config& c) { c.train.precision = Precision::bf16; }}});
  if (config.optimizer.state == Storage::fp32)
    steps.push_back({"optimizer.state", {[](Config& c) { c.optimizer.state = Storage::bf16; }}});
  return steps;
}

std::string assignment(std::string_view key, const Config& config) {
  return fmt::format("{} = {}", key, value_text(slot_of(*find_key(key), config)));
}

// Nothing where the change makes no configuration.
std::optional<plan::MemoryReport> report_of(const Config& config, const device::Machine& machine, int world) {
  try {
    check(config, world);
  } catch (const Error&) {
    return std::nullopt;
  }
  return memory_report(config, machine, mesh_of(config, world));
}

}  // namespace

plan::MemoryReport memory_report(const Config& config, const device::Machine& machine, const comm::Mesh& mesh) {
  plan::MemoryReport largest;
  for (const comm::AlikeRanks& alike : parallel::alike_ranks(run_shape(config, machine, {mesh, 0}))) {
    const std::vector<parallel::Program> programs = run_programs(config, alike.first);
    const parallel::RunShape shape = run_shape(config, machine, alike.first);
    plan::MemoryReport report =
        plan::memory_report(parallel::make_inventory(shape, shape.segments(), programs), programs);
    if (report.total > largest.total) largest = std::move(report);
  }
  return largest;
}

std::string most_of_it(const Config& config, const plan::MemoryReport& report) {
  using parallel::Category;
  const Category category = plan::largest_category(report);
  std::vector<std::string_view> keys;
  switch (category) {
    case Category::optimizer:
      if (config.optimizer.offload == Offload::file) keys.emplace_back("optimizer.offload_buffer");
      [[fallthrough]];
    case Category::parameters:
    case Category::gradients:
    case Category::communication:
      keys.insert(keys.end(), {"model.layers", "model.width", "model.ffn", "model.vocab", "model.context"});
      break;
    case Category::activations:
      keys = {"train.micro_batch", "train.sequence", "model.layers", "model.width", "model.ffn"};
      break;
    case Category::workspace:
      keys = {"train.head_chunk", "model.vocab", "train.micro_batch", "train.sequence",
              "model.width",      "model.ffn",   "train.threads"};
      break;
    case Category::data:
      keys = {"train.global_batch", "train.micro_batch", "train.sequence"};
      break;
  }
  std::string text = fmt::format("most of it, {}, is {}: ", gib(report.by_category[static_cast<size_t>(category)]),
                                 parallel::name_of(category));
  for (const std::string_view key : keys)
    text += fmt::format("{}{} = {}", key == keys.front() ? "" : ", ", key, value_text(slot_of(*find_key(key), config)));
  return text;
}

std::string nearest_remedy(const Config& config, const device::Machine& machine, const comm::Mesh& mesh,
                           const plan::Limit& limit) {
  const int world = mesh.world_size();  // another level of sharding has another mesh
  const std::vector<Step> steps = steps_of(config, mesh);
  for (const Step& step : steps) {
    for (const Change& change : step.changes) {
      Config changed = config;
      change(changed);
      const std::optional<plan::MemoryReport> report = report_of(changed, machine, world);
      if (report && plan::fits(*report, limit)) {
        return fmt::format("The nearest that fits: {}, with {} per rank.", assignment(step.key, changed),
                           gib(report->total));
      }
    }
  }
  Config changed = config;
  std::string all;
  int64_t least = memory_report(config, machine, mesh).total;
  for (const Step& step : steps) {
    if (step.changes.empty()) continue;
    Config next = changed;
    step.changes.back()(next);
    const std::optional<plan::MemoryReport> report = report_of(next, machine, world);
    if (!report || report->total >= least) continue;
    least = report->total;
    changed = next;
    all += (all.empty() ? "" : ", ") + assignment(step.key, next);
    if (plan::fits(*report, limit)) return fmt::format("What fits: {}, with {} per rank.", all, gib(least));
  }
  return fmt::format(
      "{} still takes {} per rank: use more ranks or hosts, another layout (`ridgeline plan --search`), a shorter "
      "train.sequence or a smaller model.",
      all.empty() ? "The least that keys can do" : all, gib(least));
}

}  // namespace ridgeline::train

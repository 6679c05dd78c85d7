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

// A key that saves memory, and the values to which it can still go, weakest first.
struct Step {
  std::string key;
  std::vector<std::string> values;
  std::function<void(Config&, const std::string&)> set;
};

// The words after `now`.
std::vector<std::string> words_after(const std::string& now, const std::vector<std::string>& words) {
  for (size_t i = 0; i < words.size(); ++i) {
    if (words[i] == now) return {words.begin() + static_cast<std::ptrdiff_t>(i) + 1, words.end()};
  }
  return {};
}

std::vector<Step> steps_of(const Config& config, int ranks) {
  std::vector<Step> steps;
  if (ranks > 1) {
    steps.push_back({"parallel.shard",
                     words_after(config.parallel.shard, {"none", "optimizer", "gradients", "parameters"}),
                     [](Config& c, const std::string& value) { c.parallel.shard = value; }});
    if (config.parallel.reduce == "last") {
      steps.push_back(
          {"parallel.reduce", {"every"}, [](Config& c, const std::string& value) { c.parallel.reduce = value; }});
    }
  }
  steps.push_back({"train.recompute", words_after(config.train.recompute, {"none", "selective", "full"}),
                   [](Config& c, const std::string& value) { c.train.recompute = value; }});
  Step micro{
      "train.micro_batch", {}, [](Config& c, const std::string& value) { c.train.micro_batch = std::stoll(value); }};
  const int64_t of_rank = config.train.global_batch / ranks;
  const int64_t most = std::max(of_rank / config.train.micro_batch, kMicroBatches);
  const std::vector<int64_t> sizes = divisors(of_rank);
  for (auto size = sizes.rbegin(); size != sizes.rend(); ++size) {
    if (*size < config.train.micro_batch && of_rank / *size <= most) micro.values.push_back(std::to_string(*size));
  }
  steps.push_back(std::move(micro));
  if (config.optimizer.offload != "file") {
    steps.push_back(
        {"optimizer.offload", {"file"}, [](Config& c, const std::string& value) { c.optimizer.offload = value; }});
  }
  if (config.train.precision == "fp32") {
    steps.push_back(
        {"train.precision", {"bf16"}, [](Config& c, const std::string& value) { c.train.precision = value; }});
  }
  if (config.optimizer.state == "fp32") {
    steps.push_back(
        {"optimizer.state", {"bf16"}, [](Config& c, const std::string& value) { c.optimizer.state = value; }});
  }
  return steps;
}

std::string assignment(const Step& step, const std::string& value) {
  return step.key == "train.micro_batch" ? fmt::format("{} = {}", step.key, value)
                                         : fmt::format("{} = \"{}\"", step.key, value);
}

// Nothing where the change makes no configuration.
std::optional<plan::MemoryReport> report_of(const Config& config, const device::Machine& machine, int ranks) {
  try {
    check(config, ranks);
  } catch (const Error&) {
    return std::nullopt;
  }
  return memory_report(config, machine, ranks);
}

}  // namespace

plan::MemoryReport memory_report(const Config& config, const device::Machine& machine, int ranks) {
  const std::vector<parallel::Program> programs = run_programs(config, ranks);
  const parallel::RunShape shape = run_shape(config, machine, ranks);
  return plan::memory_report(parallel::make_inventory(shape, model::declare(shape.config), programs), programs);
}

std::string most_of_it(const Config& config, const plan::MemoryReport& report) {
  using parallel::Category;
  const Category category = plan::largest_category(report);
  std::vector<std::string_view> keys;
  switch (category) {
    case Category::optimizer:
      if (config.optimizer.offload == "file") keys.emplace_back("optimizer.offload_buffer");
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

std::string nearest_remedy(const Config& config, const device::Machine& machine, int ranks, const plan::Limit& limit) {
  const std::vector<Step> steps = steps_of(config, ranks);
  for (const Step& step : steps) {
    for (const std::string& value : step.values) {
      Config changed = config;
      step.set(changed, value);
      const std::optional<plan::MemoryReport> report = report_of(changed, machine, ranks);
      if (report && plan::fits(*report, limit))
        return fmt::format("The nearest that fits: {}, with {} per rank.", assignment(step, value), gib(report->total));
    }
  }
  Config changed = config;
  std::string all;
  int64_t least = memory_report(config, machine, ranks).total;
  for (const Step& step : steps) {
    if (step.values.empty()) continue;
    Config next = changed;
    step.set(next, step.values.back());
    const std::optional<plan::MemoryReport> report = report_of(next, machine, ranks);
    if (!report || report->total >= least) continue;
    least = report->total;
    changed = next;
    all += (all.empty() ? "" : ", ") + assignment(step, step.values.back());
    if (plan::fits(*report, limit)) return fmt::format("What fits: {}, with {} per rank.", all, gib(least));
  }
  return fmt::format(
      "{} still takes {} per rank: use more ranks or hosts, a shorter train.sequence or a smaller model.",
      all.empty() ? "The least that keys can do" : all, gib(least));
}

}  // namespace ridgeline::train

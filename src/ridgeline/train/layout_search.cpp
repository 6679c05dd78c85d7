#include "ridgeline/train/layout_search.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <queue>
#include <set>
#include <tuple>

#include "ridgeline/base/error.h"
#include "ridgeline/model/block.h"
#include "ridgeline/observe/format.h"
#include "ridgeline/optim/batch_ramp.h"
#include "ridgeline/plan/memory_report.h"
#include "ridgeline/plan/traffic.h"
#include "ridgeline/train/trainer.h"

namespace ridgeline::train {
namespace {

using model::Recompute;
using parallel::ScheduleKind;
using parallel::Shard;

constexpr int64_t kMostAtOnce = 64;  // sequences in a micro-batch

// One combination of what is searched.
struct Choice {
  int tensor = 1, pipeline = 1, chunks = 1;
  ScheduleKind schedule = ScheduleKind::one_f_one_b;
  int64_t micro_batch = 1;
  bool sequence = false;
  Shard shard = Shard::none;
  Recompute recompute = Recompute::none;

  // Choices that agree in these are one line of the list.
  auto line() const { return std::tuple(tensor, pipeline, chunks, schedule, micro_batch); }
};

Config with(const Config& config, const Choice& choice) {
  Config changed = config;
  Config::Parallel& p = changed.parallel;
  p.tensor = choice.tensor;
  p.pipeline = choice.pipeline;
  p.chunks = choice.chunks;
  p.schedule = choice.schedule;
  p.sequence = choice.sequence;
  p.shard = choice.shard;
  p.shard_group = 0;
  p.stages.clear();
  changed.train.micro_batch = choice.micro_batch;
  changed.train.recompute = choice.recompute;
  changed.train.recompute_every = 1;
  return changed;
}

// What state takes of one element of the model, in bytes.
double state_bytes(const parallel::RunShape& run) {
  const parallel::Sharding& s = run.sharding;
  const auto kept = [&](bool cut, DType dtype) { return static_cast<double>(size_of(dtype)) / (cut ? s.shards() : 1); };
  const bool in_file = run.offload_window > 0;
  const bool masters_cut = s.cuts(Shard::parameters) || (s.mixed() && s.cuts(Shard::optimizer));
  double bytes = kept(s.gradient_is_part(), s.gradient_dtype());
  if (s.mixed()) bytes += kept(s.cuts(Shard::parameters), s.weights);
  if (!in_file || !s.mixed()) bytes += kept(masters_cut, s.masters);
  if (!in_file) bytes += 2 * kept(s.cuts(Shard::optimizer), s.moments);
  return bytes;
}

// No more than the (virtual stage, micro-batch) pairs that a stage keeps at once (parallel/schedule.h).
int least_alive(const parallel::PipelineShape& shape, int stage) {
  const int behind = shape.stages - stage;
  switch (shape.kind) {
    case ScheduleKind::gpipe:
      return shape.micro_batches;
    case ScheduleKind::one_f_one_b:
    case ScheduleKind::zero_bubble:
      return std::min(shape.micro_batches, behind);
    case ScheduleKind::interleaved:
      return std::min(shape.chunks * shape.micro_batches,
                      shape.chunks == 1 ? behind : 2 * (behind - 1) + (shape.chunks - 1) * shape.stages + 1);
  }
  RL_NO_CASE(shape.kind);
}

// Ranks of which one takes more memory than all others: of those with the same part of the model the one that keeps
// most micro-batches.
std::vector<comm::Placement> maybe_fullest(const parallel::RunShape& run, const std::vector<int>& alive) {
  std::map<std::tuple<std::vector<int>, bool, bool, int64_t>, comm::Placement> fullest;
  const parallel::Pipeline& pipeline = run.sharding.pipeline;
  for (const comm::AlikeRanks& ranks : parallel::alike_ranks(run)) {
    const int stage = ranks.first.stage();
    std::vector<int> blocks;
    for (int part = stage; part < static_cast<int>(pipeline.blocks.size()); part += pipeline.stages())
      blocks.push_back(pipeline.blocks[static_cast<size_t>(part)]);
    const int64_t rows = run.on_rank(ranks.first.rank()).local({.name = "step"}).slice.rows.count;
    const auto [at, is_new] =
        fullest.try_emplace({blocks, stage == 0, stage + 1 == pipeline.stages(), rows}, ranks.first);
    if (alive[static_cast<size_t>(stage)] > alive[static_cast<size_t>(at->second.stage())]) at->second = ranks.first;
  }
  std::vector<comm::Placement> all;
  for (const auto& [part, place] : fullest) all.push_back(place);
  return all;
}

class Search {
 public:
  Search(const Config& config, const SearchSpace& space, const device::Machine& machine)
      : config_(config), space_(space), machine_(machine), batches_(optim::batch_sizes(batch_ramp_of(config))) {}

  void consider_all() {
    for (const int64_t tensor : divisors(space_.ranks)) {
      for (const int64_t pipeline : divisors(space_.ranks / tensor))
        consider_degrees(static_cast<int>(tensor), static_cast<int>(pipeline));
    }
  }

  // The fastest first: a candidate's time is a lower bound until it comes to the front, and then its own.
  LayoutSearch list(const std::function<void(int64_t)>& listed) {
    std::set<decltype(Choice().line())> lines;
    while (!open_.empty() && std::ssize(result_.layouts) < space_.most) {
      Candidate candidate = open_.top();
      open_.pop();
      if (lines.contains(candidate.choice.line())) {
        ++result_.slower;
        continue;
      }
      const parallel::RunShape run = run_of(candidate.choice);
      if (!candidate.time) {
        candidate.time = plan::step_time(run, space_.cluster, parts_of(candidate.choice, run));
        candidate.seconds = candidate.time->seconds;
        open_.push(std::move(candidate));
        continue;
      }
      std::optional<Layout> layout = layout_of(candidate, run);
      if (!layout) continue;
      lines.insert(candidate.choice.line());
      result_.layouts.push_back(std::move(*layout));
      if (listed) listed(std::ssize(result_.layouts));
    }
    result_.slower += std::ssize(open_);
    return std::move(result_);
  }

 private:
  struct Candidate {
    double seconds = 0;
    int64_t number = 0;  // of equal times the first one considered: the one with the least means
    Choice choice;
    std::optional<plan::StepTime> time;

    bool operator>(const Candidate& other) const {
      return std::tie(seconds, number) > std::tie(other.seconds, other.number);
    }
  };

  void consider_degrees(int tensor, int pipeline) {
    const model::TransformerConfig& t = config_.model.transformer;
    const bool sliced = !model::unsliceable(t, tensor);
    const int data = space_.ranks / tensor / pipeline;
    for (const auto& [schedule, chunks] : schedules(pipeline)) {
      for (int64_t micro_batch = 1; micro_batch <= kMostAtOnce; ++micro_batch) {
        if (config_.train.global_batch % micro_batch != 0) continue;
        const Choice choice{
            .tensor = tensor, .pipeline = pipeline, .chunks = chunks, .schedule = schedule, .micro_batch = micro_batch};
        const std::string_view reason =
            !sliced ? "parallel.tensor does not divide heads or feed-forward columns" : refusal(choice, data);
        for_each_means(choice, data, [&](const Choice& full) { consider(full, reason); });
      }
    }
  }

  static std::vector<std::pair<ScheduleKind, int>> schedules(int pipeline) {
    if (pipeline == 1) return {{ScheduleKind::one_f_one_b, 1}};
    std::vector<std::pair<ScheduleKind, int>> all = {{ScheduleKind::one_f_one_b, 1}, {ScheduleKind::zero_bubble, 1}};
    for (const int chunks : {2, 3, 4, 6, 8}) all.emplace_back(ScheduleKind::interleaved, chunks);
    return all;
  }

  // Why no choice of the three means makes a run of it; empty where there may be one.
  std::string_view refusal(const Choice& choice, int data) const {
    if (choice.pipeline * choice.chunks > config_.model.transformer.layers)
      return "parallel.pipeline x parallel.chunks: more than there are blocks";
    for (const int64_t batch : batches_) {
      const int64_t unit = data * choice.micro_batch;
      if (batch % unit != 0) return "train.global_batch (or its ramp) does not divide into ranks x train.micro_batch";
      if (choice.schedule == ScheduleKind::interleaved && batch / unit % choice.pipeline != 0)
        return "parallel.schedule \"interleaved\": micro-batches are no multiple of the stages";
    }
    return {};
  }

  // Those that change something, the least first.
  template <typename F>
  void for_each_means(Choice choice, int data, F&& f) const {
    for (const Recompute recompute : {Recompute::none, Recompute::selective, Recompute::full}) {
      for (const bool sequence : {false, true}) {
        for (const Shard shard : {Shard::none, Shard::optimizer, Shard::gradients, Shard::parameters}) {
          if ((sequence && choice.tensor == 1) || (shard != Shard::none && data == 1)) continue;
          choice.recompute = recompute;
          choice.sequence = sequence;
          choice.shard = shard;
          f(choice);
        }
      }
    }
  }

  void consider(const Choice& choice, std::string_view reason) {
    const int64_t number = result_.combinations++;
    if (reason.empty() && choice.sequence && choice.micro_batch * config_.train.sequence % choice.tensor != 0)
      reason = "parallel.sequence: tokens of a micro-batch do not divide into parallel.tensor";
    if (!reason.empty()) return refuse(reason);
    const parallel::RunShape run = run_of(choice);
    if (least_bytes(run) > space_.memory) return refuse("memory: weights, optimizer and what blocks keep");
    open_.push({.seconds = plan::least_seconds(run, space_.cluster, parts_of(choice, run)),
                .number = number,
                .choice = choice,
                .time = {}});
  }

  std::optional<Layout> layout_of(const Candidate& candidate, const parallel::RunShape& run) {
    Layout layout{.config = with(config_, candidate.choice),
                  .data_ranks = run.sharding.mesh.size(comm::kDataAxes),
                  .time = *candidate.time};
    const int64_t sum_group = plan::best_sum_group(run.sharding, space_.cluster.node_size);
    if (sum_group != 0 && !config_.origins.contains("parallel.sum_group")) layout.config.parallel.sum_group = sum_group;
    try {
      check(layout.config, space_.ranks);
    } catch (const Error& error) {
      const std::string_view message = error.message();
      refuse(message.substr(0, message.find(" = ")));
      return std::nullopt;
    }
    for (const comm::Placement& place : maybe_fullest(run, candidate.time->alive)) {
      const parallel::RunShape shape = run.on_rank(place.rank());
      layout.bytes =
          std::max(layout.bytes,
                   parallel::make_inventory(shape, shape.segments(), run_programs(layout.config, place)).total_bytes());
    }
    if (layout.bytes > space_.memory) {
      refuse("memory: all buffers");
      return std::nullopt;
    }
    const Config::Train& t = config_.train;
    layout.model_flops = model::training_flops(config_.model.transformer, t.sequence).per_token() *
                         static_cast<double>(t.global_batch * t.sequence) / space_.ranks / layout.time.seconds;
    return layout;
  }

  void refuse(std::string_view reason) { ++result_.refused.try_emplace(std::string(reason), 0).first->second; }

  // run_shape() of a choice; the cut into stages, which takes longest, is known after the first time.
  parallel::RunShape run_of(const Choice& choice) {
    Config config = with(config_, choice);
    const auto [found, is_new] = cuts_.try_emplace({choice.pipeline, choice.chunks});
    if (is_new) found->second = fmt::format("{}", fmt::join(pipeline_of(config).blocks, ","));
    config.parallel.stages = found->second;
    return run_shape(config, machine_, {mesh_of(config, space_.ranks), 0});
  }

  const plan::PartCosts& parts_of(const Choice& choice, const parallel::RunShape& run) {
    const plan::Rates rates = plan::rates_of(space_.cluster, run.sharding.mesh);
    const auto [found, is_new] =
        parts_.try_emplace({choice.tensor, choice.sequence, choice.micro_batch, choice.recompute,
                            choice.schedule == ScheduleKind::zero_bubble, rates.stages});
    if (is_new) found->second = plan::part_costs(run, rates);
    return found->second;
  }

  const Config& config_;
  const SearchSpace& space_;
  const device::Machine& machine_;
  const std::vector<int64_t> batches_;  // of the ramp
  std::map<std::pair<int, int>, std::string> cuts_;
  std::map<std::tuple<int, bool, int64_t, Recompute, bool, double>, plan::PartCosts> parts_;
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> open_;
  LayoutSearch result_;
};

}  // namespace

int64_t least_bytes(const parallel::RunShape& run) {
  const parallel::Pipeline& pipeline = run.sharding.pipeline;
  const int layers = static_cast<int>(run.config.layers);
  const model::LocalShape shape = run.local({.name = "step"}, run.recompute);
  model::Carver carver(nullptr);
  model::carve_block_saved(carver, shape);
  // A block's input, and what it keeps itself.
  const auto of_block =
      static_cast<double>(plan::message_bytes(shape) + (run.recompute_every == 1 ? carver.used() : 0));
  const double of_element = state_bytes(run);
  double most = 0;
  for (int stage = 0; stage < pipeline.stages(); ++stage) {
    int fewest = layers;  // blocks of a virtual stage
    for (const parallel::Elements& elements : pipeline.of_stage(run.config, stage))
      fewest = std::min(fewest, std::min(elements.last, layers - 1) - std::max(elements.first, 0) + 1);
    const double alive = least_alive(pipeline.shape(run.sharding.micro_batches), stage);
    most = std::max(most, of_element * plan::matrix_elements(run, stage) + alive * fewest * of_block);
  }
  return static_cast<int64_t>(most);
}

LayoutSearch search_layouts(const Config& config, const SearchSpace& space, const device::Machine& machine,
                            const std::function<void(int64_t)>& listed) {
  Search search(config, space, machine);
  search.consider_all();
  return search.list(listed);
}

std::string layout_file(const Layout& layout, const SearchSpace& space) {
  return fmt::format(
      "{} for {} ranks of {}, {} in a node:\n# {} per rank at the most, {:.4g} s a step, {:.1f} TFLOP/s per rank by "
      "its "
      "first model of time.\n\n{}",
      kLayoutMark, space.ranks, observe::format_bytes(static_cast<double>(space.memory)), space.cluster.node_size,
      observe::format_bytes(static_cast<double>(layout.bytes)), layout.time.seconds, layout.model_flops * 1e-12,
      to_toml(layout.config, Detail::values));
}

}  // namespace ridgeline::train

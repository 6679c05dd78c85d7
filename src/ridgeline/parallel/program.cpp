#include "ridgeline/parallel/program.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "ridgeline/base/error.h"
#include "ridgeline/model/declarations.h"

namespace ridgeline::parallel {
namespace {

const char* verb(OpKind kind) {
  switch (kind) {
    case OpKind::count:
      return "count tokens";
    case OpKind::gather:
      return "gather";
    case OpKind::forward:
      return "forward";
    case OpKind::loss:
      return "loss";
    case OpKind::evaluate:
      return "evaluate loss";
    case OpKind::clear:
      return "clear gradient of";
    case OpKind::backward:
      return "backward";
    case OpKind::pack:
      return "pack gradient of";
    case OpKind::reduce:
      return "reduce";
    case OpKind::replicate:
      return "sum replicas of";
    case OpKind::accumulate:
      return "accumulate";
    case OpKind::measure:
      return "measure";
    case OpKind::agree:
      return "agree";
    case OpKind::update:
      return "update";
  }
  return "?";
}

// The time that one gather's result stays: computations `first` … `last`, started before computation `issue`.
struct Residence {
  int unit, instance, issue, first, last;
};

// Ascending by `issue`.
std::vector<Residence> residences(const model::TransformerConfig& config, const std::vector<Op>& computations,
                                  const Sharding& sharding) {
  std::vector<Residence> list;
  if (!sharding.cuts(Shard::optimizer)) return list;
  const bool drops = sharding.cuts(Shard::parameters) && sharding.gather == Gather::per_use;
  // Between two uses this near the weights would have to be gathered again at once (the last block's, around the loss).
  const int near = std::max(sharding.prefetch, 1) + 1;
  std::map<int, size_t> latest;  // unit -> its residence
  std::map<int, int> instances;
  for (int at = 0; at < static_cast<int>(computations.size()); ++at) {
    for (const int unit : units_read(config, computations[static_cast<size_t>(at)])) {
      const auto found = latest.find(unit);
      if (found != latest.end() && (!drops || at - list[found->second].last <= near)) {
        list[found->second].last = at;
        continue;
      }
      latest[unit] = list.size();
      list.push_back({unit, instances[unit]++, std::max(0, at - sharding.prefetch), at, at});
    }
  }
  return list;
}

class Lowering {
 public:
  Lowering(const model::TransformerConfig& config, const Sharding& sharding, std::vector<Op> computations)
      : config_(config),
        sharding_(sharding),
        computations_(std::move(computations)),
        residences_(residences(config, computations_, sharding)) {
    for (const Op& op : computations_) program_.micro_batches = std::max(program_.micro_batches, op.micro + 1);
  }

  Program step() {
    program_.name = "step";
    for (const Op& op : computations_) {
      if (op.micro != 0) continue;
      for (const int unit : units_written(config_, op)) ++contributions_[unit];
    }
    const int counted = emit(OpKind::count, StreamId::reduce, 0, 0);
    for (now_ = 0; now_ < static_cast<int>(computations_.size()); ++now_) {
      const Op& op = computations_[static_cast<size_t>(now_)];
      for (const int unit : units_written(config_, op)) clear_before_first(unit, op.micro);
      compute(op.kind == OpKind::loss ? std::vector<int>{counted} : std::vector<int>{});
      for (const int unit : units_written(config_, op)) contributed(unit, op.micro);
      progress(sharding_.prefetch);
    }
    while (!pending_.empty()) progress(-1);
    std::vector<int> order;
    for (const auto& [unit, position] : reduced_) {
      measured_ = sharding_.accumulates() ? emit(OpKind::measure, StreamId::compute, unit, 0)
                                          : emit(OpKind::measure, StreamId::compute, unit, 0, {position});
    }
    const int agreed = emit(OpKind::agree, StreamId::reduce, 0, 0, {measured_});
    for (const auto& [unit, unused] : contributions_) emit(OpKind::update, StreamId::compute, unit, 0, {agreed});
    return std::move(program_);
  }

  Program evaluation() {
    program_.name = "evaluate";
    for (now_ = 0; now_ < static_cast<int>(computations_.size()); ++now_) compute({});
    emit(OpKind::agree, StreamId::reduce, 0, 0, {last_compute_});
    return std::move(program_);
  }

 private:
  struct Pending {
    int unit, micro, begun, position;
    bool summed;  // over the replicas too, or there are none
  };

  int emit(OpKind kind, StreamId stream, int index, int micro, std::vector<int> after = {}) {
    const int position = static_cast<int>(program_.ops.size());
    program_.ops.push_back({kind, stream, index, micro, std::move(after)});
    if (stream == StreamId::compute) last_compute_ = position;
    return position;
  }
  // A transfer that starts now may use memory that computation has just left.
  int transfer(OpKind kind, StreamId stream, int index, int micro) {
    return emit(kind, stream, index, micro, last_compute_ < 0 ? std::vector<int>{} : std::vector<int>{last_compute_});
  }

  // Emits computation `now_` behind the gathers that start here.
  void compute(std::vector<int> after) {
    const Op& op = computations_[static_cast<size_t>(now_)];
    for (; next_residence_ < residences_.size() && residences_[next_residence_].issue == now_; ++next_residence_) {
      const Residence& residence = residences_[next_residence_];
      gathered_[residence.unit] = transfer(OpKind::gather, StreamId::gather, residence.unit, residence.instance);
    }
    for (const int unit : units_read(config_, op)) {
      const auto found = gathered_.find(unit);
      if (found != gathered_.end()) after.push_back(found->second);
    }
    emit(op.kind, StreamId::compute, op.index, op.micro, std::move(after));
  }

  // Micro-batches whose gradients are added up before they are reduced form a window.
  bool window_begins(int micro) const { return micro == 0 || sharding_.reduces_every(); }
  bool window_ends(int micro) const { return micro == program_.micro_batches - 1 || sharding_.reduces_every(); }

  void clear_before_first(int unit, int micro) {
    if (window_begins(micro) && seen_[unit] == 0) emit(OpKind::clear, StreamId::compute, unit, micro);
  }

  void contributed(int unit, int micro) {
    if (++seen_[unit] < contributions_[unit]) return;
    seen_[unit] = 0;
    if (!window_ends(micro)) return;
    if (sharding_.wire != DType::f32) emit(OpKind::pack, StreamId::compute, unit, micro);
    const int position = transfer(OpKind::reduce, StreamId::reduce, unit, micro);
    pending_.push_back({unit, micro, now_, position, sharding_.shards() == 1 || sharding_.replicas() == 1});
  }

  // Goes on with the reductions that started at least `age` computations ago, oldest first.
  void progress(int age) {
    std::vector<Pending> rest;
    for (Pending pending : pending_) {
      if (now_ - pending.begun < age) {
        rest.push_back(pending);
      } else if (!pending.summed) {
        pending.position = emit(OpKind::replicate, StreamId::reduce, pending.unit, pending.micro);
        pending.summed = true;
        pending.begun = now_;
        rest.push_back(pending);
      } else {
        if (sharding_.accumulates())
          emit(OpKind::accumulate, StreamId::compute, pending.unit, pending.micro, {pending.position});
        if (pending.micro == program_.micro_batches - 1) reduced_.emplace_back(pending.unit, pending.position);
      }
    }
    pending_ = std::move(rest);
  }

  const model::TransformerConfig& config_;
  const Sharding& sharding_;
  const std::vector<Op> computations_;
  const std::vector<Residence> residences_;
  Program program_;
  int now_ = 0, last_compute_ = -1, measured_ = -1;
  size_t next_residence_ = 0;
  std::map<int, int> gathered_;              // unit -> position of its latest gather
  std::map<int, int> contributions_, seen_;  // per unit: in a micro-batch, and of the present one so far
  std::vector<Pending> pending_;
  std::vector<std::pair<int, int>> reduced_;  // unit, position of its last reduction
};

int element_of(const model::TransformerConfig& config, const Op& op) {
  return op.kind == OpKind::loss || op.kind == OpKind::evaluate ? static_cast<int>(config.layers) : op.index;
}

void add_forward(std::vector<Op>& list, const model::TransformerConfig& config, int micro) {
  for (int element = -1; element < static_cast<int>(config.layers); ++element)
    list.push_back({OpKind::forward, StreamId::compute, element, micro, {}});
}

}  // namespace

std::string_view name_of(Shard shard) {
  switch (shard) {
    case Shard::none:
      return "none";
    case Shard::optimizer:
      return "optimizer";
    case Shard::gradients:
      return "gradients";
    case Shard::parameters:
      return "parameters";
  }
  return "?";
}

std::string Op::name() const {
  switch (kind) {
    case OpKind::count:
    case OpKind::agree:
      return verb(kind);
    case OpKind::gather:
    case OpKind::measure:
    case OpKind::update:
      return fmt::format("{} unit {}", verb(kind), index);
    case OpKind::clear:
    case OpKind::pack:
    case OpKind::reduce:
    case OpKind::replicate:
    case OpKind::accumulate:
      return fmt::format("{} unit {} micro {}", verb(kind), index, micro);
    case OpKind::loss:
    case OpKind::evaluate:
      return fmt::format("{} micro {}", verb(kind), micro);
    case OpKind::forward:
    case OpKind::backward:
      return index < 0 ? fmt::format("{} embedding micro {}", verb(kind), micro)
                       : fmt::format("{} block {} micro {}", verb(kind), index, micro);
  }
  return "?";
}

int Program::gather_of(int position, int unit) const {
  for (const int other : ops[static_cast<size_t>(position)].after) {
    const Op& op = ops[static_cast<size_t>(other)];
    if (op.kind == OpKind::gather && op.index == unit) return other;
  }
  return -1;
}

std::vector<int> units_read(const model::TransformerConfig& config, const Op& op) {
  switch (op.kind) {
    case OpKind::forward:
    case OpKind::loss:
    case OpKind::evaluate:
      return model::units_of_element(config, element_of(config, op));
    case OpKind::backward:
      // The embedding's gradient depends on tokens alone.
      return op.index < 0 ? std::vector<int>{} : model::units_of_element(config, op.index);
    default:
      return {};
  }
}

std::vector<int> units_written(const model::TransformerConfig& config, const Op& op) {
  if (op.kind != OpKind::loss && op.kind != OpKind::backward) return {};
  return model::units_of_element(config, element_of(config, op));
}

Program lower(const model::TransformerConfig& config, const std::vector<ScheduleEntry>& schedule,
              const Sharding& sharding) {
  std::vector<Op> computations;
  const int layers = static_cast<int>(config.layers);
  for (const ScheduleEntry& entry : schedule) {
    RL_REQUIRE(entry.micro < sharding.micro_batches, "micro-batch {} of {}", entry.micro, sharding.micro_batches);
    switch (entry.work) {
      case Work::forward:
        add_forward(computations, config, entry.micro);
        break;
      case Work::loss:
        computations.push_back({OpKind::loss, StreamId::compute, layers, entry.micro, {}});
        break;
      case Work::backward:
        for (int element = layers - 1; element >= -1; --element)
          computations.push_back({OpKind::backward, StreamId::compute, element, entry.micro, {}});
        break;
    }
  }
  return Lowering(config, sharding, std::move(computations)).step();
}

Program evaluation(const model::TransformerConfig& config, int micro_batches, const Sharding& sharding) {
  std::vector<Op> computations;
  for (int micro = 0; micro < micro_batches; ++micro) {
    add_forward(computations, config, micro);
    computations.push_back({OpKind::evaluate, StreamId::compute, static_cast<int>(config.layers), micro, {}});
  }
  return Lowering(config, sharding, std::move(computations)).evaluation();
}

Order::Order(const Program& program) {
  std::vector<int> last(kStreams, -1);
  for (size_t i = 0; i < program.ops.size(); ++i) {
    const Op& op = program.ops[i];
    std::vector<int> known(kStreams, -1);
    const auto learn = [&](int position) {
      if (position < 0) return;
      for (size_t s = 0; s < kStreams; ++s) known[s] = std::max(known[s], latest_[static_cast<size_t>(position)][s]);
      int& own = known[static_cast<size_t>(streams_[static_cast<size_t>(position)])];
      own = std::max(own, position);
    };
    learn(last[static_cast<size_t>(op.stream)]);
    for (const int other : op.after) learn(other);
    streams_.push_back(op.stream);
    latest_.push_back(std::move(known));
    last[static_cast<size_t>(op.stream)] = static_cast<int>(i);
  }
}

bool Order::before(int first, int second) const {
  const StreamId stream = streams_[static_cast<size_t>(first)];
  return latest_[static_cast<size_t>(second)][static_cast<size_t>(stream)] >= first;
}

}  // namespace ridgeline::parallel

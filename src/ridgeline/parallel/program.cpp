#include "ridgeline/parallel/program.h"

#include <fmt/format.h>

#include <algorithm>

#include "ridgeline/base/error.h"
#include "ridgeline/model/declarations.h"

namespace ridgeline::parallel {
namespace {

const char* verb(OpKind kind) {
  switch (kind) {
    case OpKind::count:
      return "count tokens";
    case OpKind::forward:
      return "forward";
    case OpKind::loss:
      return "loss";
    case OpKind::evaluate:
      return "evaluate loss";
    case OpKind::backward:
      return "backward";
    case OpKind::reduce:
      return "reduce";
    case OpKind::measure:
      return "measure";
    case OpKind::agree:
      return "agree";
    case OpKind::update:
      return "update";
  }
  return "?";
}

class Lowering {
 public:
  Lowering(const model::TransformerConfig& config, int micro_batches)
      : config_(config),
        layers_(static_cast<int>(config.layers)),
        unit_count_(model::unit_index(config).count),
        last_micro_(micro_batches - 1) {}

  Program run(const std::vector<ScheduleEntry>& schedule) {
    program_.name = "step";
    program_.micro_batches = last_micro_ + 1;
    const int counted = emit(OpKind::count, StreamId::reduce, 0, 0);
    for (const ScheduleEntry& entry : schedule) {
      switch (entry.work) {
        case Work::forward:
          for (int element = -1; element < layers_; ++element)
            emit(OpKind::forward, StreamId::compute, element, entry.micro);
          break;
        case Work::loss:
          emit(OpKind::loss, StreamId::compute, layers_, entry.micro, {counted});
          contributed(layers_, entry.micro);
          break;
        case Work::backward:
          for (int element = layers_ - 1; element >= -1; --element) {
            emit(OpKind::backward, StreamId::compute, element, entry.micro);
            contributed(element, entry.micro);
          }
          break;
      }
    }
    std::vector<int> measured;
    for (const auto& [unit, reduced] : reductions_)
      measured.push_back(emit(OpKind::measure, StreamId::compute, unit, 0, {reduced}));
    const int agreed = emit(OpKind::agree, StreamId::reduce, 0, 0, {measured.back()});
    for (int unit = 0; unit < unit_count_; ++unit) emit(OpKind::update, StreamId::compute, unit, 0, {agreed});
    return std::move(program_);
  }

 private:
  int emit(OpKind kind, StreamId stream, int index, int micro, std::vector<int> after = {}) {
    program_.ops.push_back({kind, stream, index, micro, std::move(after)});
    return static_cast<int>(program_.ops.size()) - 1;
  }

  // The element has added its part to the gradients of its units. The embedding is the last to add to the vocabulary,
  // so the loss's contribution to it does not finish it.
  void contributed(int element, int micro) {
    if (micro != last_micro_) return;
    const int position = static_cast<int>(program_.ops.size()) - 1;
    for (const int unit : model::units_of_element(config_, element)) {
      const bool finished = !(element == layers_ && unit == 0);
      if (finished) reductions_.emplace_back(unit, emit(OpKind::reduce, StreamId::reduce, unit, 0, {position}));
    }
  }

  const model::TransformerConfig& config_;
  const int layers_, unit_count_, last_micro_;
  Program program_;
  std::vector<std::pair<int, int>> reductions_;  // unit, position
};

}  // namespace

std::string Op::name() const {
  switch (kind) {
    case OpKind::count:
    case OpKind::agree:
      return verb(kind);
    case OpKind::reduce:
    case OpKind::measure:
    case OpKind::update:
      return fmt::format("{} unit {}", verb(kind), index);
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

Program lower(const model::TransformerConfig& config, const std::vector<ScheduleEntry>& schedule, Shard shard,
              Reduce reduce) {
  RL_REQUIRE(shard == Shard::none && reduce == Reduce::last, "no such lowering");
  int micro_batches = 0;
  for (const ScheduleEntry& entry : schedule) micro_batches = std::max(micro_batches, entry.micro + 1);
  return Lowering(config, micro_batches).run(schedule);
}

Program evaluation(const model::TransformerConfig& config, int micro_batches) {
  Program program{.name = "evaluate", .ops = {}, .micro_batches = micro_batches};
  const int layers = static_cast<int>(config.layers);
  for (int micro = 0; micro < micro_batches; ++micro) {
    for (int element = -1; element < layers; ++element)
      program.ops.push_back({OpKind::forward, StreamId::compute, element, micro, {}});
    program.ops.push_back({OpKind::evaluate, StreamId::compute, layers, micro, {}});
  }
  program.ops.push_back({OpKind::agree, StreamId::reduce, 0, 0, {static_cast<int>(program.ops.size()) - 1}});
  return program;
}

}  // namespace ridgeline::parallel

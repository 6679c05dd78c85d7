#include "ridgeline/parallel/simulator.h"

#include <fmt/format.h>

#include <map>
#include <set>

#include "ridgeline/model/declarations.h"

namespace ridgeline::parallel {
namespace {

// One rank: which values exist after the operations run so far.
class Machine {
 public:
  Machine(const model::TransformerConfig& config, const Program& program, int rank)
      : config_(config),
        program_(program),
        rank_(rank),
        layers_(static_cast<int>(config.layers)),
        units_(model::unit_index(config).count) {}

  bool finished() const { return next_ == program_.ops.size(); }
  const Op& current() const { return program_.ops[next_]; }
  bool at_collective() const { return !finished() && current().stream == StreamId::reduce; }

  void step(std::vector<std::string>& wrong) {
    const Op& op = current();
    const auto need = [&](bool there, std::string_view what) {
      if (!there) wrong.push_back(fmt::format("rank {}: '{}' needs {}", rank_, op.name(), what));
    };
    for (const int other : op.after)
      need(other >= 0 && static_cast<size_t>(other) < next_, fmt::format("operation {} before it", other));
    switch (op.kind) {
      case OpKind::count:
        counted_ = true;
        break;
      case OpKind::forward:
        need(op.index < 0 || forwarded_[op.micro].contains(op.index - 1), "the output of the element before");
        need(forwarded_[op.micro].insert(op.index).second, "to run only once");
        break;
      case OpKind::evaluate:
        need(forwarded_[op.micro].contains(layers_ - 1), "the last block's output");
        break;
      case OpKind::loss:
        need(counted_ && waits_for(op, OpKind::count, 0), "the number of valid tokens");
        need(forwarded_[op.micro].contains(layers_ - 1), "the last block's output");
        gradient_at_[op.micro] = layers_ - 1;
        contribute(layers_, op, need);
        break;
      case OpKind::backward:
        need(gradient_at_.contains(op.micro) && gradient_at_[op.micro] == op.index, "the gradient of its output");
        gradient_at_[op.micro] = op.index - 1;
        contribute(op.index, op, need);
        break;
      case OpKind::reduce:
        need(contributions_[op.index] == expected(op.index), fmt::format("every contribution to unit {}", op.index));
        need(waits_for_compute(op), "to wait for the backward that finished the gradient");
        need(reduced_.insert(op.index).second, "to run only once");
        break;
      case OpKind::measure:
        need(reduced_.contains(op.index) && waits_for(op, OpKind::reduce, op.index), "the reduced gradient");
        need(measured_.insert(op.index).second, "to run only once");
        break;
      case OpKind::agree:
        need(program_.name == "evaluate" || static_cast<int>(measured_.size()) == units_, "the measure of every unit");
        agreed_ = true;
        break;
      case OpKind::update:
        need(agreed_ && waits_for(op, OpKind::agree, 0), "the step's scalars");
        need(updated_.insert(op.index).second, "to run only once");
        break;
    }
    ++next_;
  }

  void finish(std::vector<std::string>& wrong) const {
    if (program_.name == "evaluate") return;
    if (static_cast<int>(updated_.size()) != units_) {
      wrong.push_back(fmt::format("rank {}: {} of {} units are updated", rank_, updated_.size(), units_));
    }
  }

 private:
  template <typename Need>
  void contribute(int element, const Op& op, const Need& need) {
    for (const int unit : model::units_of_element(config_, element)) {
      need(!reduced_.contains(unit), fmt::format("to add to unit {} before it is reduced", unit));
      std::vector<std::pair<int, int>>& list = contributions_[unit];
      need(list.empty() || list.back().first <= op.micro, "micro-batches in ascending order");
      list.emplace_back(op.micro, element);
    }
  }

  std::vector<std::pair<int, int>> expected(int unit) const {
    std::vector<std::pair<int, int>> list;
    for (int micro = 0; micro < program_.micro_batches; ++micro) {
      for (int element = layers_; element >= -1; --element) {
        for (const int used : model::units_of_element(config_, element)) {
          if (used == unit) list.emplace_back(micro, element);
        }
      }
    }
    return list;
  }

  bool waits_for(const Op& op, OpKind kind, int index) const {
    for (const int other : op.after) {
      if (program_.ops[static_cast<size_t>(other)].kind == kind &&
          program_.ops[static_cast<size_t>(other)].index == index)
        return true;
    }
    return false;
  }

  // The compute stream is in order: waiting for the latest compute operation so far waits for all of them.
  bool waits_for_compute(const Op& op) const {
    for (size_t i = next_; i-- > 0;) {
      const Op& other = program_.ops[i];
      if (other.stream != StreamId::compute) continue;
      for (const int unit : model::units_of_element(config_, other.kind == OpKind::loss ? layers_ : other.index)) {
        if (unit == op.index && (other.kind == OpKind::loss || other.kind == OpKind::backward)) {
          for (const int waited : op.after) {
            if (static_cast<size_t>(waited) >= i &&
                program_.ops[static_cast<size_t>(waited)].stream == StreamId::compute)
              return true;
          }
          return false;
        }
      }
    }
    return false;
  }

  const model::TransformerConfig& config_;
  const Program& program_;
  const int rank_, layers_, units_;
  size_t next_ = 0;
  bool counted_ = false, agreed_ = false;
  std::map<int, std::set<int>> forwarded_;
  std::map<int, int> gradient_at_;
  std::map<int, std::vector<std::pair<int, int>>> contributions_;  // unit -> (micro, element)
  std::set<int> reduced_, measured_, updated_;
};

}  // namespace

std::vector<std::string> simulate(const model::TransformerConfig& config, std::span<const Program> ranks) {
  std::vector<std::string> wrong;
  std::vector<Machine> machines;
  for (size_t rank = 0; rank < ranks.size(); ++rank) machines.emplace_back(config, ranks[rank], static_cast<int>(rank));
  for (;;) {
    bool all_finished = true;
    for (Machine& machine : machines) {
      while (!machine.finished() && !machine.at_collective()) machine.step(wrong);
      all_finished = all_finished && machine.finished();
    }
    if (all_finished) break;
    // Everybody stands at a collective or has finished: it completes only when all ranks stand at the same one.
    const Op* first = nullptr;
    bool same = true;
    for (const Machine& machine : machines) {
      if (machine.finished()) {
        same = false;
        continue;
      }
      const Op& op = machine.current();
      if (first == nullptr) first = &op;
      same = same && op.kind == first->kind && op.index == first->index;
    }
    if (!same) {
      for (size_t rank = 0; rank < machines.size(); ++rank) {
        wrong.push_back(fmt::format("rank {} waits for ever at '{}'", rank,
                                    machines[rank].finished() ? "the end" : machines[rank].current().name()));
      }
      return wrong;
    }
    for (Machine& machine : machines) machine.step(wrong);
  }
  for (const Machine& machine : machines) machine.finish(wrong);
  return wrong;
}

}  // namespace ridgeline::parallel

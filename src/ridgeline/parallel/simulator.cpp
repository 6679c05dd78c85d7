#include "ridgeline/parallel/simulator.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "ridgeline/model/declarations.h"

namespace ridgeline::parallel {
namespace {

// One rank: which values exist after the operations run so far.
class Machine {
 public:
  Machine(const model::TransformerConfig& config, const Sharding& sharding, const Program& program, int rank)
      : config_(config),
        sharding_(sharding),
        program_(program),
        rank_(rank),
        layers_(static_cast<int>(config.layers)),
        units_(model::unit_index(config).count) {}

  bool finished() const { return next_ == program_.ops.size(); }
  const Op& current() const { return program_.ops[next_]; }
  bool at_collective() const { return !finished() && current().stream != StreamId::compute; }

  void step(std::vector<std::string>& wrong) {
    const Op& op = current();
    const Need need = [&](bool there, std::string_view what) {
      if (!there) wrong.push_back(fmt::format("rank {}: '{}' needs {}", rank_, op.name(), what));
    };
    for (const int other : op.after)
      need(other >= 0 && static_cast<size_t>(other) < next_, fmt::format("operation {} before it", other));
    for (const int unit : units_read(config_, op)) {
      need(!sharding_.cuts(Shard::optimizer) || program_.gather_of(static_cast<int>(next_), unit) >= 0,
           fmt::format("to wait for the weights of unit {}", unit));
    }
    if (op.kind == OpKind::gather) {
      need(waits_for_compute(op, last_compute_), "to wait for the computation that may have used its memory");
    } else if (op.kind >= OpKind::forward && op.kind <= OpKind::backward && op.kind != OpKind::clear) {
      compute(op, need);
    } else if (op.kind == OpKind::clear || (op.kind >= OpKind::pack && op.kind <= OpKind::accumulate)) {
      reduction(op, need);
    } else {
      scalars(op, need);
    }
    if (op.stream == StreamId::compute) last_compute_ = static_cast<int>(next_);
    ++next_;
  }

  void finish(std::vector<std::string>& wrong) const {
    if (!program_.trains()) return;
    if (static_cast<int>(updated_.size()) != units_)
      wrong.push_back(fmt::format("rank {}: {} of {} units are updated", rank_, updated_.size(), units_));
  }

 private:
  using Need = std::function<void(bool there, std::string_view what)>;
  // A unit's gradient on its way: additions, the wire, sums, the accumulated gradient.
  struct Gradient {
    bool open = false, packed = false;
    std::vector<std::pair<int, int>> contributions;  // (micro, element) since it was cleared
    int written = -1;                                // position of the last addition to it, or of its packing
    int reduced = -1, replicated = -1;               // position of the latest sum
    int windows = 0;                                 // complete sums, accumulated where that is needed
  };

  void compute(const Op& op, const Need& need) {
    switch (op.kind) {
      case OpKind::forward:
        need(op.index < 0 || forwarded_[op.micro].contains(op.index - 1), "the output of the element before");
        need(forwarded_[op.micro].insert(op.index).second, "to run only once");
        return;
      case OpKind::evaluate:
        need(forwarded_[op.micro].contains(layers_ - 1), "the last block's output");
        return;
      case OpKind::loss:
        need(counted_ && waits_for(op, OpKind::count, 0), "the number of valid tokens");
        need(forwarded_[op.micro].contains(layers_ - 1), "the last block's output");
        gradient_at_[op.micro] = layers_ - 1;
        return contribute(layers_, op, need);
      default:  // backward
        need(gradient_at_.contains(op.micro) && gradient_at_[op.micro] == op.index, "the gradient of its output");
        gradient_at_[op.micro] = op.index - 1;
        return contribute(op.index, op, need);
    }
  }

  void reduction(const Op& op, const Need& need) {
    Gradient& gradient = gradients_[op.index];
    const int position = static_cast<int>(next_);
    switch (op.kind) {
      case OpKind::clear:
        need(!gradient.open, "the sum before it to be reduced first");
        gradient.open = true;
        gradient.packed = false;
        gradient.contributions.clear();
        return;
      case OpKind::pack:
        need(complete(op), fmt::format("every contribution to unit {}", op.index));
        gradient.packed = true;
        gradient.written = position;
        return;
      case OpKind::reduce:
        need(gradient.open && complete(op), fmt::format("every contribution to unit {}", op.index));
        need(sharding_.wire == DType::f32 || gradient.packed, "the packed gradient");
        need(waits_for_compute(op, gradient.written), "to wait for the backward that finished the gradient");
        gradient.open = false;
        gradient.reduced = position;
        gradient.replicated = -1;
        if (!sharding_.accumulates()) ++gradient.windows;
        return;
      case OpKind::replicate:
        need(gradient.reduced >= 0 && gradient.replicated < 0, "the sum over the shards, once");
        gradient.replicated = position;
        return;
      default:  // accumulate
        need(sum_of(gradient) >= 0 && waits_for(op, sum_of(gradient)), "to wait for the gradient's sum over all ranks");
        gradient.reduced = gradient.replicated = -1;
        ++gradient.windows;
    }
  }

  void scalars(const Op& op, const Need& need) {
    const int windows = sharding_.reduces_every() ? program_.micro_batches : 1;
    switch (op.kind) {
      case OpKind::count:
        counted_ = true;
        return;
      case OpKind::measure: {
        const Gradient& gradient = gradients_[op.index];
        need(gradient.windows == windows, "the sum of every micro-batch");
        need(sharding_.accumulates() || (sum_of(gradient) >= 0 && waits_for(op, sum_of(gradient))),
             "to wait for the gradient's sum over all ranks");
        need(measured_.insert(op.index).second, "to run only once");
        return;
      }
      case OpKind::agree:
        need(!program_.trains() || static_cast<int>(measured_.size()) == units_, "the measure of every unit");
        agreed_ = true;
        return;
      default:  // update
        need(agreed_ && waits_for(op, OpKind::agree, 0), "the step's scalars");
        need(updated_.insert(op.index).second, "to run only once");
    }
  }

  void contribute(int element, const Op& op, const Need& need) {
    for (const int unit : model::units_of_element(config_, element)) {
      Gradient& gradient = gradients_[unit];
      need(gradient.open, fmt::format("unit {}'s gradient to be cleared, and not yet reduced", unit));
      need(gradient.contributions.empty() || gradient.contributions.back().first <= op.micro,
           "micro-batches in ascending order");
      gradient.contributions.emplace_back(op.micro, element);
      gradient.written = static_cast<int>(next_);
    }
  }

  // Every contribution of the micro-batches that are reduced together with the operation's.
  bool complete(const Op& op) {
    std::vector<std::pair<int, int>> list;
    for (int micro = sharding_.reduces_every() ? op.micro : 0; micro <= op.micro; ++micro) {
      for (int element = layers_; element >= -1; --element) {
        for (const int used : model::units_of_element(config_, element)) {
          if (used == op.index) list.emplace_back(micro, element);
        }
      }
    }
    return gradients_[op.index].contributions == list;
  }

  // Position of the operation that completes the sum over all ranks, -1 when there was none.
  int sum_of(const Gradient& gradient) const {
    return sharding_.shards() > 1 && sharding_.replicas() > 1 ? gradient.replicated : gradient.reduced;
  }

  static bool waits_for(const Op& op, int position) {
    return std::find(op.after.begin(), op.after.end(), position) != op.after.end();
  }
  bool waits_for(const Op& op, OpKind kind, int index) const {
    return std::any_of(op.after.begin(), op.after.end(), [&](int other) {
      const Op& awaited = program_.ops[static_cast<size_t>(other)];
      return awaited.kind == kind && awaited.index == index;
    });
  }
  // The compute stream is in order: waiting for a later computation waits for the ones before it.
  bool waits_for_compute(const Op& op, int position) const {
    return position < 0 || std::any_of(op.after.begin(), op.after.end(), [&](int other) {
             return other >= position && program_.ops[static_cast<size_t>(other)].stream == StreamId::compute;
           });
  }

  const model::TransformerConfig& config_;
  const Sharding& sharding_;
  const Program& program_;
  const int rank_, layers_, units_;
  size_t next_ = 0;
  int last_compute_ = -1;
  bool counted_ = false, agreed_ = false;
  std::map<int, std::set<int>> forwarded_;
  std::map<int, int> gradient_at_;
  std::map<int, Gradient> gradients_;
  std::set<int> measured_, updated_;
};

}  // namespace

std::vector<std::string> simulate(const model::TransformerConfig& config, const Sharding& sharding,
                                  std::span<const Program> ranks) {
  std::vector<std::string> wrong;
  std::vector<Machine> machines;
  for (size_t rank = 0; rank < ranks.size(); ++rank)
    machines.emplace_back(config, sharding, ranks[rank], static_cast<int>(rank));
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

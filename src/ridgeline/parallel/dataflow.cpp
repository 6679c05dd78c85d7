#include "ridgeline/parallel/dataflow.h"

#include <fmt/format.h>

#include <array>
#include <cstdint>
#include <set>
#include <string_view>

#include "ridgeline/base/error.h"
#include "ridgeline/model/declarations.h"

namespace ridgeline::parallel {
namespace {

struct ValueTraits {
  ValueKind kind;
  std::string_view what;
  Subject subject;
  bool must_be_used;
  bool takes_memory;
};
// What it is called, what its numbers mean, must_be_used, takes_memory.
constexpr std::array kValues = {
    ValueTraits{ValueKind::tokens, "tokens", Subject::micro, true, false},
    ValueTraits{ValueKind::token_count, "the number of valid tokens", Subject::step, false, false},
    ValueTraits{ValueKind::state, "state", Subject::segment, false, false},
    ValueTraits{ValueKind::updated_state, "updated state", Subject::segment, false, false},
    ValueTraits{ValueKind::weights, "weights", Subject::segment, true, true},
    ValueTraits{ValueKind::activation, "output", Subject::element, true, true},
    ValueTraits{ValueKind::saved, "saved values", Subject::element, false, false},  // evaluation writes them too
    ValueTraits{ValueKind::output_gradient, "gradient of the output", Subject::element, true, true},
    ValueTraits{ValueKind::weight_inputs, "inputs of the weight part", Subject::element, true, false},
    ValueTraits{ValueKind::gradient, "gradient", Subject::segment_of_micro, true, false},
    ValueTraits{ValueKind::joined_gradient, "gradient of all slices", Subject::segment_of_micro, true, false},
    ValueTraits{ValueKind::packed_gradient, "packed gradient", Subject::segment_of_micro, true, false},
    ValueTraits{ValueKind::shard_sum, "gradient summed over the shards", Subject::segment_of_micro, true, false},
    ValueTraits{ValueKind::sum, "gradient summed over all ranks", Subject::segment_of_micro, true, false},
    ValueTraits{ValueKind::step_gradient, "gradient of the step", Subject::segment, true, false},
    ValueTraits{ValueKind::tied_gradient, "gradient of both ends", Subject::segment, true, false},
    ValueTraits{ValueKind::squares, "squares of the gradient", Subject::segment, true, false},
    ValueTraits{ValueKind::losses, "losses", Subject::micro, true, false},
    ValueTraits{ValueKind::cache, "kept keys and values", Subject::element, true, false},
    ValueTraits{ValueKind::updated_cache, "updated keys and values", Subject::element, false, false},
    ValueTraits{ValueKind::logits, "logits", Subject::step, false, false},
    ValueTraits{ValueKind::step_scalars, "the step's scalars", Subject::step, false, false},
};
static_assert(kValues.size() == kValueKinds);

const ValueTraits& traits_of(ValueKind kind) {
  const ValueTraits& found = kValues.at(static_cast<size_t>(kind));
  RL_REQUIRE(found.kind == kind, "the table of values is not in the order of ValueKind: {}", found.what);
  return found;
}

// Collects the uses of one operation after the other.
class Collector {
 public:
  Collector(const model::ElementSegments& elements, const Sharding& sharding, const Program& program,
            std::vector<Use>& uses)
      : elements_(elements), sharding_(sharding), program_(program), uses_(uses) {
    for (const Op& op : program.ops) {
      if (op.kind == OpKind::tie) tied_.insert(op.index);
    }
  }

  void collect(int position) {
    const Op& op = program_.ops[static_cast<size_t>(position)];
    const int window = sharding_.window(op.micro);
    switch (op.kind) {
      case OpKind::count:
        write(ValueKind::token_count);
        for (int micro = 0; micro < program_.micro_batches; ++micro) read(ValueKind::tokens, 0, micro);
        return;
      case OpKind::gather:
        write(ValueKind::weights, op.index, op.micro);
        return read(ValueKind::state, op.index);
      case OpKind::forward:
        write(ValueKind::activation, op.index, op.micro);
        if (op.index >= 0)
          write(program_.generates() ? ValueKind::updated_cache : ValueKind::saved, op.index, op.micro);
        if (op.index >= 0 && program_.generates()) read(ValueKind::cache, op.index, op.micro);
        read_computation(position);
        return;
      case OpKind::predict:
        write(ValueKind::logits);
        read_computation(position);
        return;
      case OpKind::loss:
        write(ValueKind::output_gradient, op.index - 1, op.micro);
        write(ValueKind::losses, 0, op.micro);
        add_gradients(op);
        read(ValueKind::token_count);
        read_computation(position);
        return;
      case OpKind::evaluate:
        write(ValueKind::losses, 0, op.micro);
        read_computation(position);
        return;
      case OpKind::clear:
        return write(ValueKind::gradient, op.index, window);
      case OpKind::backward:
        if (op.index >= 0) write(ValueKind::output_gradient, op.index - 1, op.micro);
        add_gradients(op);
        read_backward(op);
        read_computation(position);
        return;
      case OpKind::backward_input:
        if (op.index >= 0) write(ValueKind::output_gradient, op.index - 1, op.micro);
        write(ValueKind::weight_inputs, op.index, op.micro);
        read_backward(op);
        read_computation(position);
        return;
      case OpKind::backward_weight:
        add_gradients(op);
        read(ValueKind::weight_inputs, op.index, op.micro);
        read(ValueKind::saved, op.index, op.micro);
        return read_computation(position);
      case OpKind::join:
        write(ValueKind::joined_gradient, op.index, window);
        return read(ValueKind::gradient, op.index, window);
      case OpKind::pack:
        write(ValueKind::packed_gradient, op.index, window);
        return read(own_gradient(op.index), op.index, window);
      case OpKind::reduce:
        write(sums_twice() ? ValueKind::shard_sum : ValueKind::sum, op.index, window);
        return read(sharding_.packs() ? ValueKind::packed_gradient : own_gradient(op.index), op.index, window);
      case OpKind::replicate:
        write(ValueKind::sum, op.index, window);
        return read(ValueKind::shard_sum, op.index, window);
      case OpKind::accumulate:
        use(window == 0 ? Access::write : Access::add, ValueKind::step_gradient, op.index, 0);
        return read(ValueKind::sum, op.index, window);
      case OpKind::tie:
        write(ValueKind::tied_gradient, op.index);
        return read_summed_gradient(op.index);
      case OpKind::measure:
        write(ValueKind::squares, op.index);
        return read_step_gradient(op.index);
      case OpKind::agree:
        return agree();
      case OpKind::update:
        write(ValueKind::updated_state, op.index);
        read(ValueKind::state, op.index);
        read_step_gradient(op.index);
        return read(ValueKind::step_scalars);
      case OpKind::settle:
      case OpKind::exchange:
        for (const Message& message : op.messages) {
          const ValueKind kind = message.backward ? ValueKind::output_gradient : ValueKind::activation;
          use(message.sends ? Access::read : Access::write, kind, message.element, message.micro);
        }
        return;
    }
  }

 private:
  void use(Access access, ValueKind kind, int index, int micro) { uses_.push_back({{kind, index, micro}, access}); }
  void write(ValueKind kind, int index = 0, int micro = 0) { use(Access::write, kind, index, micro); }
  void read(ValueKind kind, int index = 0, int micro = 0) { use(Access::read, kind, index, micro); }

  // What one of the data-parallel ranks adds to a sum.
  ValueKind own_gradient(int segment) const {
    return elements_.partial(segment) ? ValueKind::joined_gradient : ValueKind::gradient;
  }
  bool sums_twice() const { return sharding_.shards() > 1 && sharding_.replicas() > 1; }

  // What forward, loss and backward of an element have in common: its input, its tokens, its weights.
  void read_computation(int position) {
    const Op& op = program_.ops[static_cast<size_t>(position)];
    if (op.index >= 0) read(ValueKind::activation, op.index - 1, op.micro);
    read(ValueKind::tokens, 0, op.micro);
    for (const int segment : segments_read(elements_, op)) {
      const int gather = program_.gather_of(position, segment);
      const int without = sharding_.cuts(Shard::optimizer) ? kNotGathered : kResident;
      read(ValueKind::weights, segment, gather < 0 ? without : program_.ops[static_cast<size_t>(gather)].micro);
    }
  }
  void read_backward(const Op& op) {
    read(ValueKind::output_gradient, op.index, op.micro);
    if (op.index >= 0) read(ValueKind::saved, op.index, op.micro);
  }
  void add_gradients(const Op& op) {
    for (const int segment : segments_added_to(elements_, op))
      use(Access::add, ValueKind::gradient, segment, sharding_.window(op.micro));
  }
  void read_step_gradient(int segment) {
    if (tied_.contains(segment)) return read(ValueKind::tied_gradient, segment);
    read_summed_gradient(segment);
  }
  void read_summed_gradient(int segment) {
    if (sharding_.accumulates()) return read(ValueKind::step_gradient, segment);
    read(ValueKind::sum, segment, 0);
  }
  void agree() {
    write(ValueKind::step_scalars);
    if (program_.computes(elements_.last())) {
      for (int micro = 0; micro < program_.micro_batches; ++micro) read(ValueKind::losses, 0, micro);
    }
    if (!program_.trains()) return;
    for (const int segment : segments_of(elements_, program_)) read(ValueKind::squares, segment);
  }

  const model::ElementSegments& elements_;
  const Sharding& sharding_;
  const Program& program_;
  std::vector<Use>& uses_;
  std::set<int> tied_;  // segments
};

}  // namespace

std::string Value::name() const {
  const ValueTraits& traits = traits_of(kind);
  switch (traits.subject) {
    case Subject::step:
      return std::string(traits.what);
    case Subject::micro:
      return fmt::format("{} of micro-batch {}", traits.what, micro);
    case Subject::segment:
      return fmt::format("{} of segment {}", traits.what, index);
    case Subject::segment_of_micro:
      return fmt::format("{} of segment {}, window {}", traits.what, index, micro);
    case Subject::element:
      return fmt::format("{} of {}, micro-batch {}", traits.what, name_of_element(index), micro);
    case Subject::messages:
      break;
  }
  return "?";
}

size_t ValueHash::operator()(const Value& value) const {
  uint64_t hash = static_cast<uint64_t>(value.kind);
  for (const int part : {value.index, value.micro})
    hash = (hash ^ static_cast<uint32_t>(part)) * 0x9e3779b97f4a7c15U + (hash >> 29U);
  return hash;
}

bool must_be_used(ValueKind kind) {
  return traits_of(kind).must_be_used;
}

bool takes_memory(ValueKind kind) {
  return traits_of(kind).takes_memory;
}

std::vector<int> segments_read(const model::ElementSegments& elements, const Op& op) {
  switch (op.kind) {
    case OpKind::forward:
    case OpKind::loss:
    case OpKind::evaluate:
    case OpKind::predict:
      return elements.of(op.index);
    case OpKind::backward:
    case OpKind::backward_input:
    case OpKind::backward_weight:  // makes norm outputs again that were not kept
      // The embedding's gradient depends on tokens alone.
      return op.index < 0 ? std::vector<int>{} : elements.of(op.index);
    case OpKind::count:
    case OpKind::gather:
    case OpKind::clear:
    case OpKind::join:
    case OpKind::pack:
    case OpKind::reduce:
    case OpKind::replicate:
    case OpKind::accumulate:
    case OpKind::tie:
    case OpKind::measure:
    case OpKind::agree:
    case OpKind::update:
    case OpKind::settle:
    case OpKind::exchange:
      return {};
  }
  RL_NO_CASE(op.kind);
}

std::vector<int> segments_added_to(const model::ElementSegments& elements, const Op& op) {
  const bool adds = op.kind == OpKind::loss || op.kind == OpKind::backward || op.kind == OpKind::backward_weight;
  return adds ? elements.of(op.index) : std::vector<int>{};
}

Dataflow::Dataflow(const model::TransformerConfig& config, const Sharding& sharding, const Program& program) {
  const model::ElementSegments elements(config, sharding.partition());
  uses_.reserve(program.ops.size() * 5);
  begin_.reserve(program.ops.size() + 1);
  Collector collector(elements, sharding, program, uses_);
  for (size_t i = 0; i < program.ops.size(); ++i) {
    begin_.push_back(uses_.size());
    collector.collect(static_cast<int>(i));
  }
  begin_.push_back(uses_.size());
  for (int micro = 0; micro < program.micro_batches; ++micro) given_.push_back({ValueKind::tokens, 0, micro});
  for (const int segment : segments_of(elements, program)) {
    given_.push_back({ValueKind::state, segment});
    if (!sharding.cuts(Shard::optimizer)) given_.push_back({ValueKind::weights, segment, kResident});
    if (program.trains()) wanted_.push_back({ValueKind::updated_state, segment});
  }
  if (!program.generates()) {
    wanted_.push_back({ValueKind::step_scalars});
    return;
  }
  if (program.computes(elements.last())) wanted_.push_back({ValueKind::logits});
  for (int layer = 0; layer < elements.last(); ++layer) {
    if (!program.computes(layer)) continue;
    given_.push_back({ValueKind::cache, layer});
    wanted_.push_back({ValueKind::updated_cache, layer});
  }
}

std::span<const Use> Dataflow::of(int position) const {
  const auto at = static_cast<size_t>(position);
  return std::span(uses_).subspan(begin_[at], begin_[at + 1] - begin_[at]);
}

}  // namespace ridgeline::parallel

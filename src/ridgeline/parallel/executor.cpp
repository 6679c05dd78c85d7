// Running programs: every operation once, in order; transfers start where they stand and are finished where they are
// waited for.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "ridgeline/base/error.h"
#include "ridgeline/base/random.h"
#include "ridgeline/ops/cross_entropy.h"
#include "ridgeline/ops/elementwise.h"
#include "ridgeline/parallel/executor_parts.h"

namespace ridgeline::parallel {
namespace {

int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

StepResult Executor::run(int program, const StepInput& input) {
  const Program& list = programs_[static_cast<size_t>(program)];
  result_ = StepResult{};
  *agreement_ = Agreement{};
  seed_scale_ = 1.0F;
  measured_ = 0;
  first_overflow_ = static_cast<int64_t>(units_.size()) - 1;
  if (guard_) guard_->begin(program);
  if (file_ && list.trains()) file_->begin_pass();
  for (size_t i = 0; i < list.ops.size(); ++i) {
    const int64_t begin = now();
    if (guard_) guard_->enter(static_cast<int>(i));
    run_op(program, static_cast<int>(i), input);
    if (guard_) guard_->leave(static_cast<int>(i));
    if (observer_ != nullptr) observer_->operation(list.ops[i], begin, now());
  }
  if (guard_) guard_->end();
  return result_;
}

void Executor::run_op(int program, int position, const StepInput& input) {
  const Program& list = programs_[static_cast<size_t>(program)];
  const Op& op = list.ops[static_cast<size_t>(position)];
  const Bound& bound = bound_[static_cast<size_t>(program)][static_cast<size_t>(position)];
  const model::BatchShape& shape = shape_of(program);
  for (const int other : op.after) finish(other);
  switch (op.kind) {
    case OpKind::count:
      return count_tokens(program, input);
    case OpKind::gather:
      return start_gather(bound, position, op, input);
    case OpKind::forward:
      return run_forward(op, bound, shape, input);
    case OpKind::loss:
    case OpKind::evaluate:
      return run_loss(op, bound, shape);
    case OpKind::clear:
      return ops::zero(stream_, bound.target.data,
                       memory_[static_cast<size_t>(op.index)].extent.whole * size_of(bound.target.dtype));
    case OpKind::backward:
      return run_backward(op, bound, input);
    case OpKind::pack:
      return ops::cast(stream_, memory_[static_cast<size_t>(op.index)].extent.whole, bound.source, bound.target);
    case OpKind::reduce:
      return start_reduce(bound, position, op, input);
    case OpKind::replicate:
      return start_replicate(bound, position, op, input);
    case OpKind::accumulate:
      return accumulate(bound, op);
    case OpKind::measure:
      return measure(op);
    case OpKind::agree:
      // The weights that gathers filled in place stay good until the next update.
      gathered_ = true;
      return agree(program, input);
    case OpKind::update:
      return update(op, input);
    case OpKind::backward_input:
    case OpKind::backward_weight:
    case OpKind::exchange:
      RL_REQUIRE(false, "no schedule of one stage has '{}'", op.name());
  }
}

// ---------------------------------------------------------------------------------------------------------- transfers

void Executor::start(int position, comm::Communicator& communicator, comm::Ticket ticket) {
  transfers_[static_cast<size_t>(position)] = {&communicator, ticket};
  if (!options_.overlap || run_.sharding.prefetch == 0) finish(position);
}

void Executor::finish(int position) {
  Transfer& transfer = transfers_[static_cast<size_t>(position)];
  if (transfer.communicator == nullptr) return;
  transfer.communicator->wait(transfer.ticket);
  transfer.communicator = nullptr;
}

void Executor::start_gather(const Bound& bound, int position, const Op& op, const StepInput& input) {
  const UnitMemory& memory = memory_[static_cast<size_t>(op.index)];
  if (memory.whole_weights && gathered_) return;
  if (!memory.whole_weights) ops::cast(stream_, memory.extent.part, bound.source, bound.target.at(memory.part.first));
  start(position, *gather_,
        gather_->all_gather(bound.target, memory.extent.part, {"weights of unit", op.index, input.step}));
}

// The sum over the shards, of which each keeps its part; where nothing is cut, over all ranks.
void Executor::start_reduce(const Bound& bound, int position, const Op& op, const StepInput& input) {
  const UnitMemory& memory = memory_[static_cast<size_t>(op.index)];
  reductions_[static_cast<size_t>(op.index)] = position;
  const comm::Label label{"gradients of unit", op.index, input.step};
  if (reduce_->size() > 1) {
    start(position, *reduce_, reduce_->reduce_scatter(bound.source, memory.extent.part, comm::ReduceOp::sum, label));
  } else if (replicas_->size() > 1) {
    start(position, *replicas_, replicas_->all_reduce(bound.source, memory.extent.whole, comm::ReduceOp::sum, label));
  }
}

void Executor::start_replicate(const Bound& bound, int position, const Op& op, const StepInput& input) {
  const UnitMemory& memory = memory_[static_cast<size_t>(op.index)];
  finish(reductions_[static_cast<size_t>(op.index)]);
  start(position, *replicas_,
        replicas_->all_reduce(bound.source.at(memory.part.first), memory.extent.part, comm::ReduceOp::sum,
                              {"gradient shard of unit", op.index, input.step}));
}

void Executor::accumulate(const Bound& bound, const Op& op) {
  const UnitMemory& memory = memory_[static_cast<size_t>(op.index)];
  const ConstRef sum = bound.source.at(memory.part.first);
  if (run_.sharding.window(op.micro) == 0) return ops::cast(stream_, memory.extent.part, sum, memory.gradient);
  ops::accumulate(stream_, memory.extent.part, sum, memory.gradient.as<float>());
}

// -------------------------------------------------------------------------------------------------------- computation

void Executor::run_forward(const Op& op, const Bound& bound, const model::BatchShape& shape, const StepInput& input) {
  if (op.index < 0) {
    model::embedding_forward(stream_, run_.config, shape, bound.batch, input.random, bound.embedding_weights,
                             bound.output);
  } else {
    model::block_forward(stream_, run_.config, shape, op.index, bound.batch, input.random, bound.weights, bound.input,
                         bound.saved, bound.output, bound.scratch, bound.recompute);
  }
}

void Executor::run_loss(const Op& op, const Bound& bound, const model::BatchShape& shape) {
  const bool trains = op.kind == OpKind::loss;
  const float scale = trains && result_.tokens > 0 ? seed_scale_ / static_cast<float>(result_.tokens) : 0.0F;
  model::loss(stream_, run_.config, shape, bound.batch, bound.head_weights, bound.input, scale,
              trains ? bound.gradient : Ref(), bound.head_gradients, bound.losses, bound.loss_scratch);
}

void Executor::run_backward(const Op& op, const Bound& bound, const StepInput& input) {
  if (op.index < 0) {
    model::embedding_backward(stream_, run_.config, run_.batch, bound.batch, input.random, bound.gradient,
                              bound.embedding_gradients, bound.embedding_scratch);
  } else {
    model::block_backward(stream_, run_.config, run_.batch, op.index, bound.batch, input.random, bound.weights,
                          bound.gradients, bound.input, bound.saved, bound.gradient, bound.scratch, bound.recompute);
  }
}

// ------------------------------------------------------------------------------------------------- scalars and update

void Executor::measure(const Op& op) {
  const UnitMemory& memory = memory_[static_cast<size_t>(op.index)];
  auto* const partials = reinterpret_cast<double*>(find(BufferKind::norm_partials, 0, 0, -1));
  const int64_t count = memory.piece.count();
  ops::sums_of_squares(stream_, count, model::kNormBlock, memory.gradient.at(memory.piece.first - memory.part.first),
                       partials);
  const int64_t finite_so_far = agreement_->squares.non_finite();
  for (int64_t block = 0; block < count / model::kNormBlock; ++block) agreement_->squares.add(partials[block]);
  if (finite_so_far == 0 && agreement_->squares.non_finite() > 0) first_overflow_ = measured_;
  measure_order_[static_cast<size_t>(measured_++)] = op.index;
}

void Executor::count_tokens(int program, const StepInput& input) {
  valid_tokens_ = 0;
  for (int micro = 0; micro < programs_[static_cast<size_t>(program)].micro_batches; ++micro) {
    const int32_t* const labels = batch(program, micro).labels;
    valid_tokens_ +=
        std::count_if(labels, labels + run_.batch.tokens(), [](int32_t label) { return label != ops::kIgnoredLabel; });
  }
  comm::Communicator& ranks = data_ ? *data_ : *ranks_;
  if (ranks.size() > 1) {
    ranks.wait(
        ranks.all_reduce(Ref(&valid_tokens_), 1, comm::ReduceOp::sum, {"number of valid tokens", -1, input.step}));
  }
  result_.tokens = valid_tokens_;
  if (run_.batch.dtype != DType::f16) return;
  // Gradients of a mean over a whole step are smaller than those of a micro-batch's mean, for which usual scales are
  // meant: by the nearest power of two this is made up for, and the update takes it away again.
  const double micro_batches_of_tokens =
      static_cast<double>(std::max<int64_t>(valid_tokens_, 1)) / static_cast<double>(run_.batch.tokens());
  seed_scale_ = input.loss_scale * static_cast<float>(std::exp2(std::round(std::log2(micro_batches_of_tokens))));
}

void Executor::agree(int program, const StepInput& input) {
  const Program& list = programs_[static_cast<size_t>(program)];
  const bool step = list.trains();
  const int64_t n = shape_of(program).tokens();
  for (int micro = 0; micro < list.micro_batches; ++micro) {
    const float* const values = losses(program, micro);
    for (int64_t i = 0; i < n; ++i) agreement_->losses.add(static_cast<double>(values[i]));
    if (!step) {
      const int32_t* const labels = batch(program, micro).labels;
      agreement_->tokens +=
          std::count_if(labels, labels + n, [](int32_t label) { return label != ops::kIgnoredLabel; });
    }
  }
  agreement_->stop = input.stop_requested ? 1 : 0;
  if (ranks_->size() > 1) {
    static_assert(sizeof(Agreement) % sizeof(int64_t) == 0);
    const Ref all(reinterpret_cast<int64_t*>(agreement_.get()));
    ranks_->wait(ranks_->all_reduce(all, sizeof(Agreement) / sizeof(int64_t), comm::ReduceOp::sum,
                                    {"agreement on the step", -1, input.step}));
  }
  if (!step) result_.tokens = agreement_->tokens;
  result_.stop = agreement_->stop > 0;
  const double tokens = static_cast<double>(std::max<int64_t>(result_.tokens, 1));
  result_.loss = agreement_->losses.value() / tokens;
  result_.finite = agreement_->losses.non_finite() == 0 && agreement_->squares.non_finite() == 0;
  if (step) judge_step(input);
}

void Executor::judge_step(const StepInput& input) {
  const double norm = std::sqrt(agreement_->squares.value()) / static_cast<double>(seed_scale_);
  result_.gradient_norm = norm;
  if (run_.batch.dtype == DType::f16 && !result_.finite && agreement_->losses.non_finite() == 0) {
    // Expected now and then: the scale was too large.
    result_.finite = true;
    result_.overflow = true;
    if (ranks_->size() > 1)
      ranks_->wait(ranks_->all_reduce(Ref(&first_overflow_), 1, comm::ReduceOp::min,
                                      {"first unit that overflowed", -1, input.step}));
    result_.overflow_unit = measure_order_[static_cast<size_t>(first_overflow_)];
  }
  const double factor = input.clip > 0.0F ? static_cast<double>(input.clip) / (norm + 1e-6) : 1.0;
  scalars_ = {.learning_rate = input.learning_rate,
              .gradient_scale = (factor < 1.0 ? static_cast<float>(factor) : 1.0F) / seed_scale_,
              .correction1 = input.correction1,
              .correction2 = input.correction2,
              .rounding_key = input.rounding_key};
}

void Executor::update(const Op& op, const StepInput& input) {
  // A step with a non-finite loss or gradient leaves everything as it is, gradients included: they tell who was first.
  if (!input.update || !result_.finite || result_.overflow) return;
  gathered_ = false;
  const UnitMemory& memory = memory_[static_cast<size_t>(op.index)];
  if (!file_) return update_range(op.index, memory.part, {memory.master, memory.moment1, memory.moment2}, input);
  for (int64_t first = 0; first < memory.part.count(); first += offload_.chunk) {
    const int64_t last = std::min(first + offload_.chunk, memory.part.count());
    std::byte* const slot = file_->take();
    const auto present = [&](BufferKind kind) {
      const Offload::State* const state = offload_.find(kind);
      return state == nullptr ? in_memory(kind, op.index).at(first) : Ref(slot + state->slot_offset, state->dtype);
    };
    update_range(op.index, {memory.part.first + first, memory.part.first + last},
                 {present(BufferKind::master), present(BufferKind::moment1), present(BufferKind::moment2)}, input);
    file_->put_back();
    result_.offload_read_bytes += (last - first) * offload_.element_bytes;
    result_.offload_written_bytes += (last - first) * offload_.element_bytes;
  }
}

// Elements `range` of the segment, of which `state` begins with the first.
void Executor::update_range(int index, Range range, const Updated& state, const StepInput& input) {
  const model::Unit& unit = units_[static_cast<size_t>(index)];
  const UnitMemory& memory = memory_[static_cast<size_t>(index)];
  const int64_t in_part = range.first - memory.part.first;
  const Ref gradient = memory.gradient.at(in_part);
  const Ref copy = run_.mixed() ? memory.own_weights.at(in_part) : Ref(nullptr, DType::bf16);
  const auto elements = [&](int64_t first, int64_t last, bool decay, ops::AdamRounding rounding) {
    const int64_t from = std::max(first, range.first) - range.first;
    const int64_t count = std::min(last, range.last) - range.first - from;
    if (count <= 0) return;
    ops::Adam settings = input.optimizer;
    settings.weight_decay = decay ? input.optimizer.weight_decay : 0.0F;
    settings.zero_gradient = false;  // the next step clears what it adds to
    settings.rounding = rounding;
    ops::adam(stream_, count, settings, &scalars_, state.master.at(from), gradient.at(from), state.moment1.at(from),
              state.moment2.at(from), copy ? copy.at(from) : copy);
  };
  if (run_.sharding.masters == DType::f32) {
    elements(0, unit.decayed, true, {});
    elements(unit.decayed, unit.count, false, {});
    return;
  }
  // Random bits are addressed inside a tensor.
  for_each_tensor_range(unit, range.first, range.last,
                        [&](const model::Tensor& tensor, int64_t at, int64_t count, int64_t offset) {
                          elements(offset, offset + count, tensor.decay, {hash_name(tensor.name), at});
                        });
}

// ------------------------------------------------------------------------------------------------------ looking for it

std::string Executor::first_non_finite(int program, const StepInput& input) {
  const Program& list = programs_[static_cast<size_t>(program)];
  // Place in the order of a step; the smallest over all ranks is the culprit.
  int64_t place = 0;
  std::string what;
  int64_t key = std::numeric_limits<int64_t>::max();
  const auto found = [&](std::string text) {
    if (!what.empty()) return;
    what = std::move(text);
    key = place * ranks_->size() + ranks_->rank();
  };
  const auto look = [&](int64_t count, ConstRef values, auto&& text) {
    ++place;
    const int64_t at = ops::first_non_finite(stream_, count, values);
    if (at >= 0) found(text(at));
  };
  const auto tensors = [&](BufferKind kind, std::string_view name, bool reverse) {
    for (size_t i = 0; i < units_.size(); ++i) {
      const int u = static_cast<int>(reverse ? units_.size() - 1 - i : i);
      const Range own = part(u);
      for (const model::Tensor& tensor : units_[static_cast<size_t>(u)].tensors) {
        const int64_t first = std::clamp(tensor.offset, own.first, own.last);
        const int64_t last = std::clamp(tensor.offset + tensor.count(), own.first, own.last);
        ++place;
        visit(kind, u, {first, last}, [&](int64_t from, int64_t count, ConstRef values) {
          const int64_t at = ops::first_non_finite(stream_, count, values);
          if (at >= 0) found(fmt::format("{} {} (element {})", name, tensor.name, from + at - tensor.offset));
        });
      }
    }
  };
  tensors(BufferKind::master, "weights of", false);
  // Every rank runs all of it: others may need its weights.
  for (size_t i = 0; i < list.ops.size(); ++i) {
    const Op& op = list.ops[i];
    const Bound& bound = bound_[static_cast<size_t>(program)][i];
    if (op.kind == OpKind::gather || op.kind == OpKind::forward) run_op(program, static_cast<int>(i), input);
    if (op.kind == OpKind::forward) {
      look(shape_of(program).tokens() * run_.config.width, bound.output, [&](int64_t at) {
        return fmt::format("output of {} (element {})",
                           op.index < 0 ? "the embedding" : fmt::format("block {}", op.index), at);
      });
    } else if (op.kind == OpKind::loss || op.kind == OpKind::evaluate) {
      look(shape_of(program).tokens(), ConstRef(bound.losses),
           [&](int64_t at) { return fmt::format("loss (element {})", at); });
    }
  }
  for (size_t i = 0; i < list.ops.size(); ++i) finish(static_cast<int>(i));
  if (list.trains()) tensors(BufferKind::gradient, "gradient of", true);

  constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  if (!what.empty()) what += fmt::format(" on rank {}", ranks_->rank());
  if (ranks_->size() == 1) return what;
  ranks_->wait(ranks_->all_reduce(Ref(&key), 1, comm::ReduceOp::min, {"first non-finite value", -1, input.step}));
  if (key == kNone) return "";
  char text[256] = {};
  const int owner = static_cast<int>(key % ranks_->size());
  if (owner == ranks_->rank()) what.copy(text, sizeof text - 1);
  ranks_->wait(ranks_->broadcast(Ref(text, DType::u8), sizeof text, owner,
                                 {"name of the first non-finite value", -1, input.step}));
  return text;
}

std::vector<float> Executor::logits(int program, int micro) {
  const Program& list = programs_[static_cast<size_t>(program)];
  const auto op = std::find_if(list.ops.begin(), list.ops.end(),
                               [&](const Op& o) { return o.kind == OpKind::evaluate && o.micro == micro; });
  RL_REQUIRE(op != list.ops.end(), "program {} does not evaluate micro-batch {}", list.name, micro);
  const Bound& bound = bound_[static_cast<size_t>(program)][static_cast<size_t>(op - list.ops.begin())];
  model::BatchShape shape = run_.evaluation_batch;
  const int64_t n = shape.tokens(), v = run_.config.vocab;
  shape.head_chunk = n;
  model::Carver counter(nullptr);
  model::carve_loss_scratch(counter, run_.config, shape, false);
  const device::Arena memory(counter.used(), nullptr);
  model::Carver carver(memory.data());
  const model::LossScratch scratch = model::carve_loss_scratch(carver, run_.config, shape, false);
  const int last = static_cast<int>(run_.config.layers) - 1;
  model::head_forward(stream_, run_.config, n, bound.head_weights,
                      ConstRef(find(BufferKind::activation, last, micro, program), shape.dtype), scratch);
  std::vector<float> result(static_cast<size_t>(n * v));
  for (int64_t i = 0; i < n; ++i) ops::cast(stream_, v, scratch.logits.at(i * scratch.ld), Ref(result.data() + i * v));
  return result;
}

}  // namespace ridgeline::parallel

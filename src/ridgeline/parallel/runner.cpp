#include "ridgeline/parallel/runner.h"

#include <algorithm>
#include <chrono>

#include "ridgeline/base/error.h"
#include "ridgeline/model/operators.h"
#include "ridgeline/ops/elementwise.h"
#include "ridgeline/optim/adam_update.h"

namespace ridgeline::parallel {
namespace {

int64_t nanoseconds() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

Runner::Runner(const RunShape& run, const std::vector<model::Segment>& segments, const std::vector<Program>& programs,
               const RankMemory& memory, RankState& state, const RankGroups& groups, StepScalars& scalars,
               device::Stream& stream, bool overlap)
    : run_(run),
      segments_(segments),
      programs_(programs),
      memory_(memory),
      state_(state),
      groups_(groups),
      scalars_(scalars),
      stream_(stream),
      slices_(groups.slices(), overlap),
      overlap_(overlap && run.sharding.prefetch > 0),
      reductions_(segments.size(), -1) {
  size_t longest = 0;
  for (size_t p = 0; p < programs.size(); ++p) {
    bound_.push_back(bind(run, segments, programs, static_cast<int>(p), memory));
    longest = std::max(longest, bound_.back().size());
  }
  transfers_.resize(longest);
}

StepResult Runner::run(int program, const StepInput& input, MemoryGuard* guard, OpObserver* observer) {
  const Program& list = programs_[static_cast<size_t>(program)];
  if (list.generates()) {
    RL_REQUIRE(
        0 < input.tokens && input.tokens <= run_.evaluation_batch.sequence && input.fed + input.tokens <= run_.cached,
        "{} tokens behind {}, room for {} at once and {} in all", input.tokens, input.fed,
        run_.evaluation_batch.sequence, run_.cached);
  }
  scalars_.begin();
  slices_.begin(input.step);
  if (guard != nullptr) guard->begin(program);
  if (list.trains()) state_.begin_updates();
  for (int i = 0; i < static_cast<int>(list.ops.size()); ++i) {
    const int64_t begin = nanoseconds();
    if (guard != nullptr) guard->enter(i);
    run_op({program, i, input});
    if (guard != nullptr) guard->leave(i);
    if (observer != nullptr) observer->operation(list.ops[static_cast<size_t>(i)], begin, nanoseconds());
  }
  if (guard != nullptr) guard->end();
  return scalars_.result();
}

void Runner::run_forward(int program, const StepInput& input, const std::function<void(const Op&)>& after) {
  const Program& list = programs_[static_cast<size_t>(program)];
  const int count = static_cast<int>(list.ops.size());
  for (int i = 0; i < count; ++i) {
    const Op& op = list.ops[static_cast<size_t>(i)];
    if (op.kind == OpKind::gather || op.kind == OpKind::forward) run_op({program, i, input});
    if (op.kind == OpKind::exchange) {
      const auto& exchange = std::get<bound::Exchange>(bound_[static_cast<size_t>(program)][static_cast<size_t>(i)]);
      comm::Communicator& stages = *groups_.stages();
      stages.wait(stages.exchange(exchange.forward_sends, exchange.forward_receives, {"outputs", -1, input.step}));
    }
    after(op);
  }
  for (int i = 0; i < count; ++i) finish(i);
}

const bound::Loss* Runner::loss(int program, int micro) const {
  const Program& list = programs_[static_cast<size_t>(program)];
  for (size_t i = 0; i < list.ops.size(); ++i) {
    const auto* const loss = std::get_if<bound::Loss>(&bound_[static_cast<size_t>(program)][i]);
    if (loss != nullptr && list.ops[i].micro == micro) return loss;
  }
  return nullptr;
}

void Runner::run_op(const Now& now) {
  const auto program = static_cast<size_t>(now.program), position = static_cast<size_t>(now.position);
  for (const int other : programs_[program].ops[position].after) finish(other);
  std::visit([&](const auto& op) { execute(op, now); }, bound_[program][position]);
}

// ---------------------------------------------------------------------------------------------------------- transfers

void Runner::start(int position, comm::Communicator& communicator, comm::Ticket ticket) {
  transfers_[static_cast<size_t>(position)] = {&communicator, ticket};
  if (!overlap_) finish(position);
}

void Runner::finish(int position) {
  InFlight& transfer = transfers_[static_cast<size_t>(position)];
  if (transfer.communicator == nullptr) return;
  transfer.communicator->wait(transfer.ticket);
  transfer.communicator = nullptr;
}

void Runner::execute(const bound::Gather& op, const Now& now) {
  const SegmentMemory& memory = memory_.segment(op.segment);
  if (memory.whole_weights && gathered_) return;
  if (!memory.whole_weights) ops::cast(stream_, memory.extent.part, op.own, op.whole.at(memory.part.first));
  start(now.position, *groups_.gather,
        groups_.gather->all_gather(op.whole, memory.extent.part, {"weights of segment", op.segment, now.input.step}));
}

// The sum over the shards, of which each keeps its part; where nothing is cut, over all ranks.
void Runner::execute(const bound::Reduce& op, const Now& now) {
  const Extent& extent = memory_.segment(op.segment).extent;
  reductions_[static_cast<size_t>(op.segment)] = now.position;
  const comm::Label label{"gradients of segment", op.segment, now.input.step};
  comm::Communicator &shards = *groups_.reduce, &replicas = *groups_.replicas;
  if (shards.size() > 1) {
    start(now.position, shards, shards.reduce_scatter(op.gradient, extent.part, comm::ReduceOp::sum, label));
  } else if (replicas.size() > 1) {
    start(now.position, replicas, replicas.all_reduce(op.gradient, extent.whole, comm::ReduceOp::sum, label));
  }
}

void Runner::execute(const bound::Replicate& op, const Now& now) {
  finish(reductions_[static_cast<size_t>(op.segment)]);
  start(now.position, *groups_.replicas,
        groups_.replicas->all_reduce(op.sum, memory_.segment(op.segment).extent.part, comm::ReduceOp::sum,
                                     {"gradient shard of segment", op.segment, now.input.step}));
}

void Runner::execute(const bound::Exchange& op, const Now& now) {
  comm::Communicator& stages = *groups_.stages();
  start(now.position, stages, stages.exchange(op.sends, op.receives, {"outputs and gradients", -1, now.input.step}));
}

// -------------------------------------------------------------------------------------------------------- computation

void Runner::execute(const bound::EmbeddingForward& op, const Now& now) {
  model::BatchShape batch = op.shape.batch;
  if (programs_[static_cast<size_t>(now.program)].generates()) batch.sequence = now.input.tokens;
  model::Operators operators(stream_, op.scratch.workspace, &slices_);
  model::embedding_forward(operators, op.shape.with(batch), op.batch, now.input.random, op.weights, op.output,
                           op.scratch);
}

void Runner::execute(const bound::EmbeddingBackward& op, const Now& now) {
  model::Operators operators(stream_, op.scratch.workspace, &slices_);
  model::embedding_backward(operators, op.shape, op.batch, now.input.random, op.gradient, op.gradients, op.scratch);
}

void Runner::execute(const bound::BlockForward& op, const Now& now) {
  model::Operators operators(stream_, op.scratch.workspace, &slices_);
  model::block_forward(operators, op.shape, {op.layer, op.batch, now.input.random}, op.weights, op.input, op.saved,
                       op.output, op.scratch);
}

void Runner::execute(const bound::BlockCached& op, const Now& now) {
  model::BatchShape batch = op.shape.batch;
  batch.sequence = now.input.tokens;
  model::Operators operators(stream_, op.scratch.workspace, &slices_);
  model::block_cached(operators, op.shape.with(batch), {op.layer, op.batch, now.input.random}, now.input.fed,
                      op.weights, op.cache, op.input, op.output, op.scratch);
}

void Runner::execute(const bound::Predict& op, const Now& now) {
  const ConstRef last = op.input.at((now.input.tokens - 1) * run_.config.width);
  model::Operators operators(stream_, op.scratch.workspace, &slices_);
  model::head_forward(operators, {run_.config, op.one, model::Recompute::none, op.slice}, op.weights, last, op.logits,
                      op.scratch);
}

void Runner::execute(const bound::BlockBackward& op, const Now& now) {
  model::Operators operators(stream_, op.scratch.workspace, &slices_);
  model::block_backward(operators, op.shape, {op.layer, op.batch, now.input.random}, op.weights, op.gradients, op.input,
                        op.saved, op.gradient, op.scratch);
}

void Runner::execute(const bound::BlockBackwardInput& op, const Now& now) {
  model::Operators operators(stream_, op.scratch.workspace, &slices_);
  model::block_backward_input(operators, op.shape, {op.layer, op.batch, now.input.random}, op.weights, op.input,
                              op.saved, op.output_gradient, op.input_gradient, op.left, op.scratch);
}

void Runner::execute(const bound::BlockBackwardWeight& op, const Now& now) {
  model::Operators operators(stream_, op.scratch.workspace, &slices_);
  model::block_backward_weight(operators, op.shape, {op.layer, op.batch, now.input.random}, op.weights, op.gradients,
                               op.input, op.saved, op.left, op.scratch);
}

void Runner::execute(const bound::Loss& op, const Now& /*now*/) {
  model::Operators operators(stream_, op.scratch.workspace, &slices_);
  model::loss(operators, op.shape, op.batch, op.weights, op.input, op.trains ? scalars_.loss_seed() : 0.0F, op.gradient,
              op.gradients, op.losses, op.scratch);
}

// --------------------------------------------------------------------------------------------- gradients and update

void Runner::execute(const bound::Clear& op, const Now& /*now*/) {
  ops::zero(stream_, op.gradient.data, op.bytes);
}

void Runner::execute(const bound::Join& op, const Now& now) {
  const comm::Label label{"gradients of copies of segment", op.segment, now.input.step};
  comm::Communicator& copies = groups_.copies(segments_[static_cast<size_t>(op.segment)].copies);
  copies.wait(copies.all_reduce(op.gradient, memory_.segment(op.segment).extent.whole, comm::ReduceOp::sum, label));
}

void Runner::execute(const bound::Pack& op, const Now& /*now*/) {
  ops::cast(stream_, op.count, op.gradient, op.packed);
}

void Runner::execute(const bound::Accumulate& op, const Now& /*now*/) {
  const SegmentMemory& memory = memory_.segment(op.segment);
  if (op.first) return ops::cast(stream_, memory.extent.part, op.sum, memory.gradient);
  ops::accumulate(stream_, memory.extent.part, op.sum, memory.gradient.as<float>());
}

void Runner::execute(const bound::Count& /*op*/, const Now& now) {
  scalars_.count_tokens(now.program, now.input);
}

void Runner::execute(const bound::Tie& op, const Now& now) {
  const SegmentMemory& memory = memory_.segment(op.segment);
  comm::Communicator& ends = *groups_.ends();
  ends.wait(ends.all_reduce(memory.gradient, memory.extent.part, comm::ReduceOp::sum,
                            {"gradient of both ends of segment", op.segment, now.input.step}));
}

void Runner::execute(const bound::Measure& op, const Now& /*now*/) {
  scalars_.measure(op.segment);
}

void Runner::execute(const bound::Agree& /*op*/, const Now& now) {
  // The weights that gathers filled in place stay good until the next update.
  gathered_ = true;
  scalars_.agree(now.program, now.input);
}

void Runner::execute(const bound::Update& op, const Now& now) {
  StepResult& result = scalars_.result();
  // A step with a non-finite loss or gradient leaves everything as it is, gradients included: they tell who was first.
  if (!now.input.update || !result.finite || result.overflow) return;
  weights_changed();
  const SegmentMemory& memory = memory_.segment(op.segment);
  const int64_t passed = state_.update(op.segment, [&](const ElementRange& range, const RankState::Present& present) {
    const int64_t at = range.first - memory.part.first;
    const optim::ShardState shard{present.master, memory.gradient.at(at), present.moment1, present.moment2,
                                  run_.mixed() ? memory.own_weights.at(at) : Ref(nullptr, DType::bf16)};
    optim::adam_update(stream_, segments_[static_cast<size_t>(op.segment)], range.first, range.last, shard,
                       now.input.optimizer, scalars_.adam());
  });
  result.offload_read_bytes += passed;
  result.offload_written_bytes += passed;
}

}  // namespace ridgeline::parallel

#include "ridgeline/parallel/bound_op.h"

#include "ridgeline/base/error.h"

namespace ridgeline::parallel {
namespace {

class Binder {
 public:
  Binder(const RunShape& run, const std::vector<model::Segment>& segments, const std::vector<Program>& programs,
         int program, const RankMemory& memory)
      : run_(run),
        config_(run.config),
        segments_(segments),
        program_(programs[static_cast<size_t>(program)]),
        number_(program),
        memory_(memory),
        dataflow_(run.config, run.sharding, program_) {}

  BoundOp bind(int position) {
    position_ = position;
    const Op& op = program_.ops[static_cast<size_t>(position)];
    switch (op.kind) {
      case OpKind::count:
        return bound::Count{};
      case OpKind::agree:
        return bound::Agree{};
      case OpKind::gather:
        return bound::Gather{op.index, value(Access::read), value(Access::write)};
      case OpKind::clear: {
        const Ref gradient = value(Access::write);
        return bound::Clear{gradient, whole(op.index) * size_of(gradient.dtype)};
      }
      case OpKind::join:
        return bound::Join{op.index, value(Access::read)};
      case OpKind::pack:
        return bound::Pack{whole(op.index), value(Access::read), value(Access::write)};
      case OpKind::reduce:
        return bound::Reduce{op.index, value(Access::read)};
      case OpKind::replicate:
        return bound::Replicate{op.index, part_of(op.index, value(Access::read))};
      case OpKind::accumulate:
        return bound::Accumulate{op.index, run_.sharding.window(op.micro) == 0, part_of(op.index, value(Access::read))};
      case OpKind::tie:
        return bound::Tie{op.index};
      case OpKind::measure:
        return bound::Measure{op.index};
      case OpKind::update:
        return bound::Update{op.index};
      case OpKind::forward:
        if (op.index < 0) return embedding_forward(op);
        if (program_.generates()) return block_cached(op);
        return block_forward(op);
      case OpKind::backward:
        if (op.index < 0) return embedding_backward(op);
        return block_backward(op);
      case OpKind::loss:
      case OpKind::evaluate:
        return loss(op);
      case OpKind::predict:
        return predict(op);
      case OpKind::backward_input:
        return block_backward_input(op);
      case OpKind::backward_weight:
        return block_backward_weight(op);
      case OpKind::settle:
        return bound::Settle{};
      case OpKind::exchange:
        return exchange(op);
    }
    RL_NO_CASE(op.kind);
  }

 private:
  int64_t whole(int segment) const { return memory_.segment(segment).extent.whole; }
  Ref part_of(int segment, Ref whole) const { return whole.at(memory_.segment(segment).part.first); }

  // Where the first value lies that the operation reads, or the first that it writes or adds to.
  Ref value(Access access) const {
    for (const Use& use : dataflow_.of(position_)) {
      if ((use.access == Access::read) == (access == Access::read)) return memory_.locate(number_, use.value);
    }
    return {};
  }
  // The whole weights of what the operation reads, and the gradients of what it adds to.
  model::PlacedSegments<ConstRef> weights() const {
    model::PlacedSegments<ConstRef> placed;
    for (const Use& use : dataflow_.of(position_)) {
      if (use.value.kind == ValueKind::weights)
        placed.push_back({&segments_[static_cast<size_t>(use.value.index)], memory_.locate(number_, use.value)});
    }
    return placed;
  }
  model::PlacedSegments<float*> gradients() const {
    model::PlacedSegments<float*> placed;
    for (const Use& use : dataflow_.of(position_)) {
      if (use.value.kind == ValueKind::gradient && use.access == Access::add)
        placed.push_back(
            {&segments_[static_cast<size_t>(use.value.index)], memory_.locate(number_, use.value).as<float>()});
    }
    return placed;
  }

  model::Batch batch(int micro) const {
    const BatchBuffers tokens = memory_.batch(number_, micro);
    return {tokens.inputs,        tokens.labels,     tokens.positions,          tokens.samples,
            tokens.sample_of_row, tokens.first_keys, tokens.document_positions, memory_.rotary_table()};
  }
  model::Carver scratch(int micro) const {
    return model::Carver(memory_.find(BufferKind::scratch, position_, micro, number_));
  }
  model::LocalShape shape() const { return run_.local(program_); }
  model::LocalShape block_shape(const Op& op) const {
    return run_.local(program_, program_.trains() ? run_.recompute_of(op.index) : model::Recompute::none);
  }
  model::BlockSaved saved(const Op& op) const {
    model::Carver carver(memory_.find(BufferKind::saved, op.index, op.micro, number_));
    return model::carve_block_saved(carver, block_shape(op));
  }
  model::BlockScratch block_scratch(const Op& op, model::Pass pass) const {
    model::Carver carver = scratch(op.micro);
    return model::carve_block_scratch(carver, block_shape(op), pass);
  }

  BoundOp embedding_forward(const Op& op) const {
    model::Carver carver = scratch(op.micro);
    return bound::EmbeddingForward{shape(), batch(op.micro), model::embedding_weights(weights()),
                                   memory_.output(number_, op.index, op.micro),
                                   model::carve_embedding_scratch(carver, shape(), false)};
  }
  BoundOp embedding_backward(const Op& op) const {
    model::Carver carver = scratch(op.micro);
    return bound::EmbeddingBackward{shape(), batch(op.micro), memory_.gradient(number_, op.index, op.micro),
                                    model::embedding_gradients(gradients()),
                                    model::carve_embedding_scratch(carver, shape(), true)};
  }
  BoundOp block_forward(const Op& op) const {
    return bound::BlockForward{block_shape(op),
                               batch(op.micro),
                               op.index,
                               model::block_weights(weights()),
                               memory_.output(number_, op.index - 1, op.micro),
                               saved(op),
                               memory_.output(number_, op.index, op.micro),
                               block_scratch(op, model::Pass::forward)};
  }
  BoundOp block_cached(const Op& op) const {
    model::Carver carver = scratch(op.micro);
    return bound::BlockCached{shape(),
                              batch(op.micro),
                              op.index,
                              model::block_weights(weights()),
                              memory_.cache(op.index),
                              memory_.output(number_, op.index - 1, op.micro),
                              memory_.output(number_, op.index, op.micro),
                              model::carve_cached_scratch(carver, shape(), run_.cached)};
  }
  BoundOp predict(const Op& op) const {
    model::Carver carver = scratch(op.micro);
    const model::LocalShape all = shape();
    const model::BatchShape one = model::one_token(all.batch);
    return bound::Predict{one,
                          all.slice,
                          model::head_weights(config_, weights()),
                          memory_.output(number_, op.index - 1, op.micro),
                          model::carve_loss_scratch(carver, {config_, one, all.recompute, all.slice}, false),
                          memory_.logits(number_)};
  }
  BoundOp block_backward(const Op& op) const {
    return bound::BlockBackward{block_shape(op),
                                batch(op.micro),
                                op.index,
                                model::block_weights(weights()),
                                model::block_gradients(gradients()),
                                memory_.output(number_, op.index - 1, op.micro),
                                saved(op),
                                memory_.gradient(number_, op.index, op.micro),
                                block_scratch(op, model::Pass::backward)};
  }
  model::BlockWeightInputs weight_inputs(const Op& op) const {
    model::Carver carver(memory_.find(BufferKind::weight_inputs, op.index, op.micro, number_));
    return model::carve_block_weight_inputs(carver, block_shape(op));
  }
  BoundOp block_backward_input(const Op& op) const {
    return bound::BlockBackwardInput{block_shape(op),
                                     batch(op.micro),
                                     op.index,
                                     model::block_weights(weights()),
                                     memory_.output(number_, op.index - 1, op.micro),
                                     saved(op),
                                     memory_.gradient(number_, op.index, op.micro),
                                     memory_.gradient(number_, op.index - 1, op.micro),
                                     weight_inputs(op),
                                     block_scratch(op, model::Pass::backward_input)};
  }
  BoundOp block_backward_weight(const Op& op) const {
    return bound::BlockBackwardWeight{block_shape(op),
                                      batch(op.micro),
                                      op.index,
                                      model::block_weights(weights()),
                                      model::block_gradients(gradients()),
                                      memory_.output(number_, op.index - 1, op.micro),
                                      saved(op),
                                      weight_inputs(op),
                                      block_scratch(op, model::Pass::backward_weight)};
  }
  BoundOp exchange(const Op& op) const {
    const model::LocalShape of = shape();
    bound::Exchange exchange;
    for (const Message& message : op.messages) {
      const Ref values = message.backward ? memory_.gradient(number_, message.element, message.micro)
                                          : memory_.output(number_, message.element, message.micro);
      // Of a generation as many as are fed; all are sent.
      const int64_t count = of.tokens().count * config_.width;
      if (message.sends) {
        exchange.sends.push_back({message.stage, values, count});
        if (!message.backward) exchange.forward_sends.push_back(exchange.sends.back());
      } else {
        exchange.receives.push_back({message.stage, values, count});
        if (!message.backward) exchange.forward_receives.push_back(exchange.receives.back());
      }
    }
    return exchange;
  }
  BoundOp loss(const Op& op) const {
    const bool trains = op.kind == OpKind::loss;
    model::Carver carver = scratch(op.micro);
    return bound::Loss{shape(),
                       batch(op.micro),
                       trains,
                       model::head_weights(config_, weights()),
                       trains ? model::head_gradients(config_, gradients()) : model::HeadGradients{},
                       memory_.output(number_, op.index - 1, op.micro),
                       trains ? memory_.gradient(number_, op.index - 1, op.micro) : Ref(),
                       memory_.losses(number_, op.micro),
                       model::carve_loss_scratch(carver, shape(), trains)};
  }

  const RunShape& run_;
  const model::TransformerConfig& config_;
  const std::vector<model::Segment>& segments_;
  const Program& program_;
  const int number_;
  const RankMemory& memory_;
  const Dataflow dataflow_;
  int position_ = 0;
};

}  // namespace

std::vector<BoundOp> bind(const RunShape& run, const std::vector<model::Segment>& segments,
                          const std::vector<Program>& programs, int program, const RankMemory& memory) {
  Binder binder(run, segments, programs, program, memory);
  const size_t count = programs[static_cast<size_t>(program)].ops.size();
  std::vector<BoundOp> all;
  all.reserve(count);
  for (size_t i = 0; i < count; ++i) all.push_back(binder.bind(static_cast<int>(i)));
  return all;
}

}  // namespace ridgeline::parallel

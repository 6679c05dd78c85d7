#include "ridgeline/parallel/step_scalars.h"

#include <algorithm>
#include <cmath>

#include "ridgeline/ops/cross_entropy.h"
#include "ridgeline/ops/elementwise.h"

namespace ridgeline::parallel {
namespace {

int64_t valid_tokens(const int32_t* labels, int64_t count) {
  return std::count_if(labels, labels + count, [](int32_t label) { return label != ops::kIgnoredLabel; });
}

}  // namespace

StepScalars::StepScalars(const RunShape& run, const std::vector<Program>& programs, int segments,
                         const RankMemory& memory, const RankGroups& groups, device::Stream& stream,
                         SharedScalars& shared)
    : run_(run),
      programs_(programs),
      memory_(memory),
      groups_(groups),
      stream_(stream),
      shared_(shared),
      segments_(segments) {}

void StepScalars::begin() {
  result_ = StepResult{};
  shared_ = SharedScalars{};
  shared_.first_overflow = segments_;
  seed_scale_ = 1.0F;
}

void StepScalars::count_tokens(int program, const StepInput& input) {
  for (int micro = 0; micro < programs_[static_cast<size_t>(program)].micro_batches; ++micro)
    shared_.valid_tokens += valid_tokens(memory_.batch(program, micro).labels, run_.batch.tokens());
  comm::Communicator& ranks = groups_.data();
  if (ranks.size() > 1) {
    ranks.wait(ranks.all_reduce(Ref(&shared_.valid_tokens), 1, comm::ReduceOp::sum,
                                {"number of valid tokens", -1, input.step}));
  }
  result_.tokens = shared_.valid_tokens;
  if (run_.batch.dtype != DType::f16) return;
  // Gradients of a mean over a whole step are smaller than those of a micro-batch's mean, for which usual scales are
  // meant: by the nearest power of two this is made up for, and the update takes it away again.
  const double micro_batches_of_tokens =
      static_cast<double>(std::max<int64_t>(result_.tokens, 1)) / static_cast<double>(run_.batch.tokens());
  seed_scale_ = input.loss_scale * static_cast<float>(std::exp2(std::round(std::log2(micro_batches_of_tokens))));
}

float StepScalars::loss_seed() const {
  return result_.tokens > 0 ? seed_scale_ / static_cast<float>(result_.tokens) : 0.0F;
}

void StepScalars::measure(int segment) {
  const SegmentMemory& memory = memory_.segment(segment);
  ExactSum& squares = shared_.sums.squares;
  const int64_t finite_so_far = squares.non_finite();
  const Ref piece = memory.gradient.at(memory.piece.first - memory.part.first);
  if (memory.counts) ops::add_squares(stream_, memory.piece.count(), piece, squares);
  // A step's backward comes to the last segments first.
  if (finite_so_far == 0 && squares.non_finite() > 0)
    shared_.first_overflow = std::min<int64_t>(shared_.first_overflow, segments_ - 1 - segment);
}

void StepScalars::agree(int program, const StepInput& input) {
  const Program& list = programs_[static_cast<size_t>(program)];
  const int64_t n = memory_.shape_of(program).tokens();
  SharedScalars::Sums& sums = shared_.sums;
  // All slices know the same losses.
  const bool knows = run_.place().tensor_rank() == 0 && memory_.losses(program, 0) != nullptr;
  for (int micro = 0; micro < (knows ? list.micro_batches : 0); ++micro) {
    const float* const values = memory_.losses(program, micro);
    for (int64_t i = 0; i < n; ++i) sums.losses.add(static_cast<double>(values[i]));
    if (!list.trains()) sums.tokens += valid_tokens(memory_.batch(program, micro).labels, n);
  }
  sums.stop = input.stop_requested ? 1 : 0;
  comm::Communicator& ranks = *groups_.ranks;
  if (ranks.size() > 1) {
    static_assert(sizeof(SharedScalars::Sums) % sizeof(int64_t) == 0);
    ranks.wait(ranks.all_reduce(Ref(reinterpret_cast<int64_t*>(&sums)), sizeof sums / sizeof(int64_t),
                                comm::ReduceOp::sum, {"agreement on the step", -1, input.step}));
  }
  if (!list.trains()) result_.tokens = sums.tokens;
  result_.stop = sums.stop > 0;
  result_.loss = sums.losses.value() / static_cast<double>(std::max<int64_t>(result_.tokens, 1));
  result_.finite = sums.losses.non_finite() == 0 && sums.squares.non_finite() == 0;
  if (list.trains()) judge(input);
}

void StepScalars::judge(const StepInput& input) {
  const double norm = std::sqrt(shared_.sums.squares.value()) / static_cast<double>(seed_scale_);
  result_.gradient_norm = norm;
  if (run_.batch.dtype == DType::f16 && !result_.finite && shared_.sums.losses.non_finite() == 0) {
    // Expected now and then: the scale was too large.
    result_.finite = true;
    result_.overflow = true;
    comm::Communicator& ranks = *groups_.ranks;
    if (ranks.size() > 1) {
      ranks.wait(ranks.all_reduce(Ref(&shared_.first_overflow), 1, comm::ReduceOp::min,
                                  {"first segment that overflowed", -1, input.step}));
    }
    result_.overflow_segment = static_cast<int>(segments_ - 1 - shared_.first_overflow);
  }
  const double factor = input.clip > 0.0F ? static_cast<double>(input.clip) / (norm + 1e-6) : 1.0;
  adam_ = {.learning_rate = input.learning_rate,
           .gradient_scale = (factor < 1.0 ? static_cast<float>(factor) : 1.0F) / seed_scale_,
           .correction1 = input.correction1,
           .correction2 = input.correction2,
           .rounding_key = input.rounding_key};
}

}  // namespace ridgeline::parallel

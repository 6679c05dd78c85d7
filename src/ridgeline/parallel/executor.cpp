#include "ridgeline/parallel/executor.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <exception>
#include <limits>
#include <mutex>

#include "ridgeline/base/error.h"
#include "ridgeline/base/random.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/ops/cross_entropy.h"
#include "ridgeline/ops/elementwise.h"

namespace ridgeline::parallel {
namespace {

constexpr int64_t kPage = 4096;
constexpr int kPoison = 0xFF;  // NaN in every float format

int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

bool guarded(const Buffer& buffer, int program) {
  // Tokens are written before a program runs and losses are read after it.
  return buffer.program == program && buffer.kind != BufferKind::batch && buffer.kind != BufferKind::losses;
}

}  // namespace

struct Executor::Bound {
  model::Batch batch;
  ConstRef input;
  Ref output, gradient;
  model::EmbeddingWeights embedding_weights;
  model::EmbeddingGradients embedding_gradients;
  model::BlockWeights weights;
  model::BlockGradients gradients;
  model::HeadWeights head_weights;
  model::HeadGradients head_gradients;
  model::BlockSaved saved;
  model::BlockScratch scratch;
  model::LossScratch loss_scratch;
  void* embedding_scratch = nullptr;
  float* losses = nullptr;
};

// All i64, so that one exact all-reduce sums it.
struct Executor::Agreement {
  ExactSum squares, losses;
  int64_t tokens = 0, stop = 0;
};

Executor::Executor(RunShape run, std::vector<Program> programs, comm::World& world, device::Stream& stream)
    : Executor(std::move(run), std::move(programs), world, stream, Options{}) {}

Executor::Executor(RunShape run, std::vector<Program> programs, comm::World& world, device::Stream& stream,
                   Options options)
    : run_(std::move(run)),
      programs_(std::move(programs)),
      units_(model::declare(run_.config)),
      options_(options),
      inventory_(make_inventory(run_, units_, programs_, options.packing)),
      world_(world),
      stream_(stream),
      agreement_(std::make_unique<Agreement>()),
      reduce_(world.communicator("data parallel, reduce")),
      ranks_(world.communicator("all ranks")),
      host_(inventory_.host_bytes, &stream.team()) {
  if (inventory_.peer_visible_bytes > 0) peer_visible_ = world.peer_visible(inventory_.peer_visible_bytes);
  bind();
  if (auto* const table = reinterpret_cast<float*>(find(BufferKind::rotary_table, 0, 0, -1))) {
    model::fill_rotary_table(run_.config, std::max(run_.batch.sequence, run_.evaluation_batch.sequence), table);
  }
}

Executor::~Executor() = default;

std::byte* Executor::address(const Buffer& buffer) const {
  return (buffer.space == Space::host ? host_.data() : peer_visible_.data()) + buffer.offset;
}

std::byte* Executor::find(BufferKind kind, int index, int micro, int program) const {
  const Buffer* buffer = inventory_.find(kind, index, micro, program);
  return buffer == nullptr ? nullptr : address(*buffer);
}

float* Executor::master(int unit) const {
  return reinterpret_cast<float*>(find(BufferKind::master, unit, 0, -1));
}
float* Executor::gradient(int unit) const {
  return reinterpret_cast<float*>(find(BufferKind::gradient, unit, 0, -1));
}
float* Executor::moment1(int unit) const {
  return reinterpret_cast<float*>(find(BufferKind::moment1, unit, 0, -1));
}
float* Executor::moment2(int unit) const {
  return reinterpret_cast<float*>(find(BufferKind::moment2, unit, 0, -1));
}

ConstRef Executor::weights(int unit) const {
  if (!run_.mixed()) return master(unit);
  return {find(BufferKind::working, unit, 0, -1), DType::bf16};
}

std::pair<int64_t, int64_t> Executor::part(int unit) const {
  const int64_t size = units_[static_cast<size_t>(unit)].padded(run_.data_parallel) / run_.data_parallel;
  return {reduce_->rank() * size, (reduce_->rank() + 1) * size};
}

void Executor::fill(BufferKind kind, const Source& source) {
  constexpr int64_t kGrain = 1 << 16;
  for (size_t u = 0; u < units_.size(); ++u) {
    const int unit = static_cast<int>(u);
    auto* const values = reinterpret_cast<float*>(find(kind, unit, 0, -1));
    const auto [first, last] = part(unit);
    std::mutex mutex;
    std::exception_ptr failure;
    stream_.team().parallel_for(last - first, kGrain, [&, begin = first](int64_t from, int64_t to) {
      try {
        for_each_tensor_range(units_[u], begin + from, begin + to,
                              [&](const model::Tensor& tensor, int64_t at, int64_t count, int64_t offset) {
                                source(tensor, at, count, values + offset);
                              });
      } catch (...) {
        const std::lock_guard lock(mutex);
        failure = std::current_exception();
      }
    });
    if (failure) std::rethrow_exception(failure);
    if (reduce_->size() > 1) {
      reduce_->wait(reduce_->all_gather(Ref(values), last - first, {"initial state of unit", unit, -1}));
    }
    if (kind == BufferKind::master) refresh_working_copy(unit);
  }
}

void Executor::refresh_working_copy(int unit) {
  if (!run_.mixed()) return;
  ops::cast(stream_, units_[static_cast<size_t>(unit)].padded(run_.data_parallel), master(unit),
            Ref(find(BufferKind::working, unit, 0, -1), DType::bf16));
}

BatchBuffers Executor::batch(int program, int micro) {
  const model::BatchShape& shape =
      programs_[static_cast<size_t>(program)].name == "step" ? run_.batch : run_.evaluation_batch;
  const int64_t n = shape.tokens();
  auto* const words = reinterpret_cast<int32_t*>(find(BufferKind::batch, 0, micro, program));
  auto* const samples = reinterpret_cast<uint32_t*>(words + 3 * n);
  return {words, words + n, words + 2 * n, samples, samples + n};
}

const float* Executor::losses(int program, int micro) const {
  return reinterpret_cast<const float*>(find(BufferKind::losses, 0, micro, program));
}

void Executor::bind() {
  bound_.resize(programs_.size());
  for (size_t p = 0; p < programs_.size(); ++p) {
    for (size_t i = 0; i < programs_[p].ops.size(); ++i)
      bound_[p].push_back(bind_op(static_cast<int>(p), static_cast<int>(i)));
  }
}

Executor::Bound Executor::bind_op(int program, int position) {
  const Program& list = programs_[static_cast<size_t>(program)];
  const Op& op = list.ops[static_cast<size_t>(position)];
  const bool step = list.name == "step";
  const model::BatchShape& shape = step ? run_.batch : run_.evaluation_batch;
  const model::TransformerConfig& config = run_.config;
  Bound bound{};
  const bool computes = op.kind == OpKind::forward || op.kind == OpKind::loss || op.kind == OpKind::evaluate ||
                        op.kind == OpKind::backward;
  if (!computes) return bound;

  const BatchBuffers tokens = batch(program, op.micro);
  bound.batch = {tokens.inputs,        tokens.labels,
                 tokens.positions,     tokens.samples,
                 tokens.sample_of_row, reinterpret_cast<const float*>(find(BufferKind::rotary_table, 0, 0, -1))};
  bound.losses = reinterpret_cast<float*>(find(BufferKind::losses, 0, op.micro, program));
  bound.input = ConstRef(find(BufferKind::activation, op.index - 1, op.micro, program), shape.dtype);
  bound.output = Ref(find(BufferKind::activation, op.index, op.micro, program), shape.dtype);
  bound.gradient = Ref(find(BufferKind::stream_gradient, 0, op.micro, program), shape.dtype);
  model::Carver scratch(find(BufferKind::scratch, position, op.micro, program));
  if (op.kind == OpKind::loss || op.kind == OpKind::evaluate) {
    bound.loss_scratch = model::carve_loss_scratch(scratch, config, shape, op.kind == OpKind::loss);
    bound.head_weights = model::head_weights(config, units_, [&](int unit) { return weights(unit); });
    if (step) bound.head_gradients = model::head_gradients(config, units_, [&](int unit) { return gradient(unit); });
  } else if (op.index >= 0) {
    const int unit = model::unit_index(config).first_block + op.index;
    bound.weights = model::block_weights(units_[static_cast<size_t>(unit)], weights(unit));
    if (step) bound.gradients = model::block_gradients(units_[static_cast<size_t>(unit)], gradient(unit));
    model::Carver saved(find(BufferKind::saved, op.index, op.micro, program));
    bound.saved = model::carve_block_saved(saved, config, shape, model::Recompute::none);
    bound.scratch = model::carve_block_scratch(
        scratch, config, shape, op.kind == OpKind::forward ? model::Pass::forward : model::Pass::backward,
        model::Recompute::none);
  } else {
    bound.embedding_weights = model::embedding_weights(config, units_, [&](int unit) { return weights(unit); });
    if (op.kind == OpKind::backward) {
      bound.embedding_gradients = model::embedding_gradients(config, units_, [&](int unit) { return gradient(unit); });
      bound.embedding_scratch = model::carve_embedding_scratch(scratch, config, shape);
    }
  }
  return bound;
}

StepResult Executor::run(int program, const StepInput& input) {
  const Program& list = programs_[static_cast<size_t>(program)];
  result_ = StepResult{};
  *agreement_ = Agreement{};
  if (options_.guard) {
    for (const Buffer& buffer : inventory_.buffers) {
      if (guarded(buffer, program))
        ::mprotect(address(buffer), static_cast<size_t>((buffer.bytes + kPage - 1) / kPage * kPage), PROT_NONE);
    }
  }
  for (size_t i = 0; i < list.ops.size(); ++i) {
    const int64_t begin = now();
    if (options_.guard) enter(program, static_cast<int>(i));
    run_op(program, static_cast<int>(i), input);
    if (options_.guard) leave(program, static_cast<int>(i));
    if (observer_ != nullptr) observer_->operation(list.ops[i], begin, now());
  }
  if (options_.guard) {
    for (const Buffer& buffer : inventory_.buffers) {
      if (guarded(buffer, program)) {
        ::mprotect(address(buffer), static_cast<size_t>((buffer.bytes + kPage - 1) / kPage * kPage),
                   PROT_READ | PROT_WRITE);
      }
    }
  }
  return result_;
}

void Executor::run_op(int program, int position, const StepInput& input) {
  const Program& list = programs_[static_cast<size_t>(program)];
  const Op& op = list.ops[static_cast<size_t>(position)];
  const Bound& bound = bound_[static_cast<size_t>(program)][static_cast<size_t>(position)];
  const bool step = list.name == "step";
  const model::BatchShape& shape = step ? run_.batch : run_.evaluation_batch;
  for (const int other : op.after) {
    const Op& awaited = list.ops[static_cast<size_t>(other)];
    if (awaited.kind == OpKind::reduce) finish_reduction();
  }
  switch (op.kind) {
    case OpKind::count:
      return count_tokens(program, input);
    case OpKind::forward:
      return run_forward(op, bound, shape, input);
    case OpKind::loss:
      model::loss(stream_, run_.config, shape, bound.batch, bound.head_weights, bound.input,
                  result_.tokens > 0 ? 1.0F / static_cast<float>(result_.tokens) : 0.0F, bound.gradient,
                  bound.head_gradients, bound.losses, bound.loss_scratch);
      return;
    case OpKind::evaluate:
      model::loss(stream_, run_.config, shape, bound.batch, bound.head_weights, bound.input, 0.0F, {}, {}, bound.losses,
                  bound.loss_scratch);
      return;
    case OpKind::backward:
      return run_backward(op, bound, input);
    case OpKind::reduce:
      return start_reduce(op, input);
    case OpKind::measure:
      return measure(op);
    case OpKind::agree:
      return agree(program, input);
    case OpKind::update:
      return update(op, input);
  }
}

void Executor::run_forward(const Op& op, const Bound& bound, const model::BatchShape& shape, const StepInput& input) {
  if (op.index < 0) {
    model::embedding_forward(stream_, run_.config, shape, bound.batch, input.random, bound.embedding_weights,
                             bound.output);
  } else {
    model::block_forward(stream_, run_.config, shape, op.index, bound.batch, input.random, bound.weights, bound.input,
                         bound.saved, bound.output, bound.scratch, model::Recompute::none);
  }
}

void Executor::run_backward(const Op& op, const Bound& bound, const StepInput& input) {
  if (op.index < 0) {
    model::embedding_backward(stream_, run_.config, run_.batch, bound.batch, input.random, bound.gradient,
                              bound.embedding_gradients, bound.embedding_scratch);
  } else {
    model::block_backward(stream_, run_.config, run_.batch, op.index, bound.batch, input.random, bound.weights,
                          bound.gradients, bound.input, bound.saved, bound.gradient, bound.scratch,
                          model::Recompute::none);
  }
}

void Executor::finish_reduction() {
  if (!pending_) return;
  reduce_->wait(*pending_);
  pending_.reset();
}

void Executor::start_reduce(const Op& op, const StepInput& input) {
  if (reduce_->size() == 1) return;
  // The reduction before this one had a whole backward to arrive on all ranks: finish it now, start the next.
  finish_reduction();
  const int64_t count = units_[static_cast<size_t>(op.index)].padded(run_.data_parallel);
  pending_ = reduce_->all_reduce(Ref(gradient(op.index)), count, comm::ReduceOp::sum,
                                 {"gradients of unit", op.index, input.step});
}

void Executor::measure(const Op& op) {
  const int64_t part = units_[static_cast<size_t>(op.index)].padded(run_.data_parallel) / run_.data_parallel;
  auto* const partials = reinterpret_cast<double*>(find(BufferKind::norm_partials, 0, 0, -1));
  ops::sums_of_squares(stream_, part, model::kNormBlock, ConstRef(gradient(op.index) + reduce_->rank() * part),
                       partials);
  for (int64_t block = 0; block < part / model::kNormBlock; ++block) agreement_->squares.add(partials[block]);
}

void Executor::count_tokens(int program, const StepInput& input) {
  valid_tokens_ = 0;
  for (int micro = 0; micro < programs_[static_cast<size_t>(program)].micro_batches; ++micro) {
    const int32_t* const labels = batch(program, micro).labels;
    valid_tokens_ +=
        std::count_if(labels, labels + run_.batch.tokens(), [](int32_t label) { return label != ops::kIgnoredLabel; });
  }
  if (reduce_->size() > 1) {
    reduce_->wait(
        reduce_->all_reduce(Ref(&valid_tokens_), 1, comm::ReduceOp::sum, {"number of valid tokens", -1, input.step}));
  }
  result_.tokens = valid_tokens_;
}

void Executor::agree(int program, const StepInput& input) {
  const Program& list = programs_[static_cast<size_t>(program)];
  const bool step = list.name == "step";
  const int64_t n = (step ? run_.batch : run_.evaluation_batch).tokens();
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
  if (reduce_->size() > 1) {
    static_assert(sizeof(Agreement) % sizeof(int64_t) == 0);
    const Ref all(reinterpret_cast<int64_t*>(agreement_.get()));
    reduce_->wait(reduce_->all_reduce(all, sizeof(Agreement) / sizeof(int64_t), comm::ReduceOp::sum,
                                      {"agreement on the step", -1, input.step}));
  }
  if (!step) result_.tokens = agreement_->tokens;
  result_.stop = agreement_->stop > 0;
  const double tokens = static_cast<double>(std::max<int64_t>(result_.tokens, 1));
  result_.loss = agreement_->losses.value() / tokens;
  result_.gradient_norm = std::sqrt(agreement_->squares.value());
  result_.finite = agreement_->losses.non_finite() == 0 && agreement_->squares.non_finite() == 0;
  if (!step) return;
  const double norm = result_.gradient_norm;
  const double factor = input.clip > 0.0F ? static_cast<double>(input.clip) / (norm + 1e-6) : 1.0;
  scalars_ = {input.learning_rate, factor < 1.0 ? static_cast<float>(factor) : 1.0F, input.correction1,
              input.correction2, result_.finite ? 0 : 1};
}

void Executor::update(const Op& op, const StepInput& input) {
  // A step with a non-finite loss or gradient leaves everything as it is, gradients included: they tell who was first.
  if (!input.update || !result_.finite) return;
  const model::Unit& unit = units_[static_cast<size_t>(op.index)];
  float* const p = master(op.index);
  float* const g = gradient(op.index);
  const Ref copy =
      run_.mixed() ? Ref(find(BufferKind::working, op.index, 0, -1), DType::bf16) : Ref(nullptr, DType::bf16);
  const auto range = [&](int64_t first, int64_t last, float weight_decay) {
    if (first == last) return;
    ops::Adam settings = input.optimizer;
    settings.weight_decay = weight_decay;
    ops::adam(stream_, last - first, settings, &scalars_, p + first, g + first, moment1(op.index) + first,
              moment2(op.index) + first, copy ? copy.at(first) : copy);
  };
  range(0, unit.decayed, input.optimizer.weight_decay);
  range(unit.decayed, unit.count, 0.0F);
}

std::string Executor::first_non_finite(int program, const StepInput& input) {
  const Program& list = programs_[static_cast<size_t>(program)];
  // Place in the order of a step; the smallest over all ranks is the culprit.
  int64_t place = 0;
  std::string what;
  const auto look = [&](int64_t count, ConstRef values, const std::string& text) {
    ++place;
    if (!what.empty()) return;
    const int64_t at = ops::first_non_finite(stream_, count, values);
    if (at >= 0) what = fmt::format("{} (element {})", text, at);
  };
  const auto tensors = [&](auto&& segment, std::string_view kind, bool reverse) {
    for (size_t i = 0; i < units_.size(); ++i) {
      const size_t u = reverse ? units_.size() - 1 - i : i;
      for (const model::Tensor& tensor : units_[u].tensors) {
        look(tensor.count(), ConstRef(segment(static_cast<int>(u)) + tensor.offset),
             fmt::format("{} {}", kind, tensor.name));
      }
    }
  };
  tensors([&](int u) { return master(u); }, "weights of", false);
  const model::BatchShape& shape = list.name == "step" ? run_.batch : run_.evaluation_batch;
  for (size_t i = 0; i < list.ops.size() && what.empty(); ++i) {
    const Op& op = list.ops[i];
    const Bound& bound = bound_[static_cast<size_t>(program)][i];
    if (op.kind == OpKind::forward) {
      run_forward(op, bound, shape, input);
      look(shape.tokens() * run_.config.width, bound.output,
           op.index < 0 ? "output of the embedding" : fmt::format("output of block {}", op.index));
    } else if (op.kind == OpKind::loss || op.kind == OpKind::evaluate) {
      look(shape.tokens(), ConstRef(bound.losses), "loss");
    }
  }
  if (what.empty() && list.name == "step") tensors([&](int u) { return gradient(u); }, "gradient of", true);

  constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  int64_t key = what.empty() ? kNone : place * reduce_->size() + reduce_->rank();
  if (!what.empty()) what += fmt::format(" on rank {}", reduce_->rank());
  if (reduce_->size() == 1) return what;
  reduce_->wait(reduce_->all_reduce(Ref(&key), 1, comm::ReduceOp::min, {"first non-finite value", -1, input.step}));
  if (key == kNone) return "";
  char text[256] = {};
  const int owner = static_cast<int>(key % reduce_->size());
  if (owner == reduce_->rank()) what.copy(text, sizeof text - 1);
  reduce_->wait(reduce_->broadcast(Ref(text, DType::u8), sizeof text, owner,
                                   {"name of the first non-finite value", -1, input.step}));
  return text;
}

std::vector<float> Executor::logits(int program, int micro) {
  model::BatchShape shape = run_.evaluation_batch;
  const int64_t n = shape.tokens(), v = run_.config.vocab;
  shape.head_chunk = n;
  model::Carver counter(nullptr);
  model::carve_loss_scratch(counter, run_.config, shape, false);
  const device::Arena memory(counter.used(), nullptr);
  model::Carver carver(memory.data());
  const model::LossScratch scratch = model::carve_loss_scratch(carver, run_.config, shape, false);
  const int last = static_cast<int>(run_.config.layers) - 1;
  model::head_forward(stream_, run_.config, n,
                      model::head_weights(run_.config, units_, [&](int unit) { return weights(unit); }),
                      ConstRef(find(BufferKind::activation, last, micro, program), shape.dtype), scratch);
  std::vector<float> result(static_cast<size_t>(n * v));
  for (int64_t i = 0; i < n; ++i) ops::cast(stream_, v, scratch.logits.at(i * scratch.ld), Ref(result.data() + i * v));
  return result;
}

void Executor::enter(int program, int position) {
  for (const Buffer& buffer : inventory_.buffers) {
    if (!guarded(buffer, program) || buffer.first != position) continue;
    ::mprotect(address(buffer), static_cast<size_t>((buffer.bytes + kPage - 1) / kPage * kPage),
               PROT_READ | PROT_WRITE);
    std::memset(address(buffer), kPoison, static_cast<size_t>(buffer.bytes));
  }
}

void Executor::leave(int program, int position) {
  for (const Buffer& buffer : inventory_.buffers) {
    if (!guarded(buffer, program) || buffer.last != position) continue;
    const auto* const begin = reinterpret_cast<const unsigned char*>(address(buffer));
    const auto* const end = begin + buffer.bytes;
    // Scratch ends in packing buffers, whose last bytes are alignment and the edge tiles of sizes that do not divide.
    const int64_t window = buffer.kind == BufferKind::scratch ? 24 * kPage : kPage;
    const bool unused =
        std::all_of(end - std::min(buffer.bytes, window), end, [](unsigned char byte) { return byte == kPoison; });
    if (unused && std::find(unused_.begin(), unused_.end(), buffer.name) == unused_.end())
      unused_.push_back(buffer.name);
    ::mprotect(address(buffer), static_cast<size_t>((buffer.bytes + kPage - 1) / kPage * kPage), PROT_NONE);
  }
}

}  // namespace ridgeline::parallel

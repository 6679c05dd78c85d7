// The executor's memory: what lies where, what each operation is bound to, and filling and reading the state.
#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <mutex>

#include "ridgeline/base/error.h"
#include "ridgeline/comm/mesh.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/ops/elementwise.h"
#include "ridgeline/parallel/executor_parts.h"

namespace ridgeline::parallel {
namespace {

constexpr int64_t kPage = 4096;
constexpr int kPoison = 0xFF;  // NaN in every float format

bool guarded(const Buffer& buffer, int program) {
  // Tokens are written before a program runs and losses are read after it.
  return buffer.program == program && buffer.kind != BufferKind::batch && buffer.kind != BufferKind::losses;
}

}  // namespace

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
      ranks_(world.communicator("all ranks")),
      host_(inventory_.host_bytes, &stream.team()) {
  RL_CHECK(run_.sharding.ranks, ==, world.size());
  RL_CHECK(name_of(run_.sharding.weights), ==, name_of(run_.batch.dtype));
  const comm::Mesh mesh = comm::Mesh::of_world(world.size(), 1, 1, 1, run_.sharding.shards());
  const std::vector<int> shards = mesh.group(world.rank(), {comm::Axis::dp_shard});
  gather_ = world.communicator(shards, "shards, gather");
  reduce_ = world.communicator(shards, "shards, reduce");
  replicas_ = world.communicator(mesh.group(world.rank(), {comm::Axis::dp_replicate}), "replicas, reduce");
  if (inventory_.peer_visible_bytes > 0) peer_visible_ = world.peer_visible(inventory_.peer_visible_bytes);
  size_t longest = 0;
  for (const Program& program : programs_) longest = std::max(longest, program.ops.size());
  transfers_.resize(longest);
  reductions_.resize(units_.size(), -1);
  locate_units();
  bind();
}

Executor::~Executor() = default;

std::byte* Executor::address(const Buffer& buffer) const {
  return (buffer.space == Space::host ? host_.data() : peer_visible_.data()) + buffer.offset;
}

std::byte* Executor::find(BufferKind kind, int index, int micro, int program) const {
  const Buffer* buffer = inventory_.find(kind, index, micro, program);
  return buffer == nullptr ? nullptr : address(*buffer);
}

Executor::Range Executor::part(int unit) const {
  return memory_[static_cast<size_t>(unit)].part;
}
Executor::Range Executor::piece(int unit) const {
  return memory_[static_cast<size_t>(unit)].piece;
}

void Executor::locate_units() {
  const Sharding& sharding = run_.sharding;
  for (size_t u = 0; u < units_.size(); ++u) {
    const int unit = static_cast<int>(u);
    UnitMemory memory;
    memory.extent = extent_of(units_[u], sharding);
    const int64_t first = reduce_->rank() * memory.extent.part;
    memory.part = {first, first + memory.extent.part};
    memory.piece.first = first + replicas_->rank() * memory.extent.piece;
    memory.piece.last = memory.piece.first + memory.extent.piece;
    const Buffer* const master = inventory_.find(BufferKind::master, unit, 0, -1);
    const bool whole_master = master->bytes >= memory.extent.whole * size_of(DType::f32);
    auto* const values = reinterpret_cast<float*>(address(*master));
    memory.master = whole_master ? values + first : values;
    const bool whole = !sharding.cuts(Shard::parameters);
    const Ref weights = sharding.mixed() ? Ref(find(BufferKind::working, unit, 0, -1), sharding.weights) : Ref(values);
    if (whole) memory.whole_weights = weights;
    memory.own_weights = whole ? weights.at(first) : weights;
    if (run_.training) {
      const Ref gradient(find(BufferKind::gradient, unit, 0, -1), sharding.gradient_dtype());
      if (!sharding.gradient_is_part()) memory.whole_gradient = gradient;
      memory.gradient = sharding.gradient_is_part() ? gradient : gradient.at(first);
      memory.moment1 = reinterpret_cast<float*>(find(BufferKind::moment1, unit, 0, -1));
      memory.moment2 = reinterpret_cast<float*>(find(BufferKind::moment2, unit, 0, -1));
    }
    memory_.push_back(memory);
  }
}

Ref Executor::state(BufferKind kind, int unit) const {
  const UnitMemory& memory = memory_[static_cast<size_t>(unit)];
  switch (kind) {
    case BufferKind::master:
      return Ref(memory.master);
    case BufferKind::gradient:
      return memory.gradient;
    case BufferKind::moment1:
      return Ref(memory.moment1);
    case BufferKind::moment2:
      return Ref(memory.moment2);
    default:
      RL_REQUIRE(false, "buffer kind {} is no state of a unit", static_cast<int>(kind));
      return {};
  }
}

std::vector<float> Executor::collect(BufferKind kind, int unit) const {
  const UnitMemory& memory = memory_[static_cast<size_t>(unit)];
  std::vector<float> values(static_cast<size_t>(memory.extent.whole));
  ops::cast(stream_, memory.part.count(), state(kind, unit), Ref(values.data() + memory.part.first));
  if (reduce_->size() > 1)
    reduce_->wait(reduce_->all_gather(Ref(values.data()), memory.part.count(), {"state of unit", unit, -1}));
  return values;
}

void Executor::fill(BufferKind kind, const Source& source) {
  constexpr int64_t kGrain = 1 << 16;
  for (size_t u = 0; u < units_.size(); ++u) {
    const int unit = static_cast<int>(u);
    const UnitMemory& memory = memory_[u];
    auto* const own = state(kind, unit).as<float>() - memory.part.first;
    std::mutex mutex;
    std::exception_ptr failure;
    stream_.team().parallel_for(memory.piece.count(), kGrain, [&](int64_t from, int64_t to) {
      try {
        for_each_tensor_range(units_[u], memory.piece.first + from, memory.piece.first + to,
                              [&](const model::Tensor& tensor, int64_t at, int64_t count, int64_t offset) {
                                source(tensor, at, count, own + offset);
                              });
      } catch (...) {
        const std::lock_guard lock(mutex);
        failure = std::current_exception();
      }
    });
    if (failure) std::rethrow_exception(failure);
    if (replicas_->size() > 1) {
      replicas_->wait(replicas_->all_gather(Ref(own + memory.part.first), memory.piece.count(),
                                            {"initial state of unit", unit, -1}));
    }
    if (kind == BufferKind::master) refresh_working_copy(unit);
  }
}

void Executor::refresh_working_copy(int unit) {
  gathered_ = false;
  if (!run_.mixed()) return;
  const UnitMemory& memory = memory_[static_cast<size_t>(unit)];
  ops::cast(stream_, memory.part.count(), Ref(memory.master), memory.own_weights);
}

const model::BatchShape& Executor::shape_of(int program) const {
  return programs_[static_cast<size_t>(program)].trains() ? run_.batch : run_.evaluation_batch;
}

BatchBuffers Executor::batch(int program, int micro) {
  const int64_t n = shape_of(program).tokens();
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

// Segments of the units that operation `position` reads and adds to, or, of an operation on a whole unit, from where to
// where it works.
void Executor::bind_units(Bound& bound, int program, int position) {
  const Program& list = programs_[static_cast<size_t>(program)];
  const Op& op = list.ops[static_cast<size_t>(position)];
  const Sharding& sharding = run_.sharding;
  const auto gathered = [&](int at) {
    const Op& gather = list.ops[static_cast<size_t>(at)];
    return Ref(find(BufferKind::gathered, gather.index, gather.micro, program), sharding.weights);
  };
  const auto written = [&](int unit, int micro) {
    const UnitMemory& memory = memory_[static_cast<size_t>(unit)];
    return sharding.separate_gradient() ? Ref(find(BufferKind::unit_gradient, unit, micro, program), DType::f32)
                                        : memory.whole_gradient;
  };
  for (const int unit : units_read(run_.config, op)) {
    const UnitMemory& memory = memory_[static_cast<size_t>(unit)];
    const int gather = memory.whole_weights ? -1 : list.gather_of(position, unit);
    bound.unit_weights.emplace_back(unit, gather < 0 ? memory.whole_weights : gathered(gather));
  }
  for (const int unit : units_written(run_.config, op))
    bound.unit_gradients.emplace_back(unit, written(unit, op.micro).as<float>());
  const auto on_wire = [&] {
    const UnitMemory& memory = memory_[static_cast<size_t>(op.index)];
    if (sharding.separate_wire())
      return Ref(find(BufferKind::wire_gradient, op.index, op.micro, program), sharding.wire);
    return sharding.wire_is_gradient() ? memory.whole_gradient : written(op.index, op.micro);
  };
  switch (op.kind) {
    case OpKind::gather: {
      const UnitMemory& memory = memory_[static_cast<size_t>(op.index)];
      bound.source = memory.own_weights;
      bound.target = memory.whole_weights ? memory.whole_weights : gathered(position);
      return;
    }
    case OpKind::clear:
      bound.target = written(op.index, op.micro);
      return;
    case OpKind::pack:
      bound.source = written(op.index, op.micro);
      bound.target = on_wire();
      return;
    case OpKind::reduce:
    case OpKind::replicate:
    case OpKind::accumulate:
      bound.source = on_wire();
      return;
    default:
      return;
  }
}

Executor::Bound Executor::bind_op(int program, int position) {
  const Program& list = programs_[static_cast<size_t>(program)];
  const Op& op = list.ops[static_cast<size_t>(position)];
  const model::BatchShape& shape = shape_of(program);
  const model::TransformerConfig& config = run_.config;
  Bound bound{};
  bind_units(bound, program, position);
  const bool computes = op.kind == OpKind::forward || op.kind == OpKind::loss || op.kind == OpKind::evaluate ||
                        op.kind == OpKind::backward;
  if (!computes) return bound;

  const BatchBuffers tokens = batch(program, op.micro);
  bound.batch = {tokens.inputs, tokens.labels, tokens.positions, tokens.samples, tokens.sample_of_row};
  bound.losses = reinterpret_cast<float*>(find(BufferKind::losses, 0, op.micro, program));
  bound.input = ConstRef(find(BufferKind::activation, op.index - 1, op.micro, program), shape.dtype);
  bound.output = Ref(find(BufferKind::activation, op.index, op.micro, program), shape.dtype);
  bound.gradient = Ref(find(BufferKind::stream_gradient, 0, op.micro, program), shape.dtype);
  if (op.kind == OpKind::loss || op.kind == OpKind::evaluate) {
    model::Carver scratch(find(BufferKind::scratch, position, op.micro, program));
    bound.loss_scratch = model::carve_loss_scratch(scratch, config, shape, op.kind == OpKind::loss);
  } else if (op.index >= 0) {
    bind_block(bound, program, position, shape);
  } else if (op.kind == OpKind::backward) {
    model::Carver scratch(find(BufferKind::scratch, position, op.micro, program));
    bound.embedding_scratch = model::carve_embedding_scratch(scratch, config, shape);
  }
  return bound;
}

void Executor::bind_block(Bound& bound, int program, int position, const model::BatchShape& shape) {
  const Op& op = programs_[static_cast<size_t>(program)].ops[static_cast<size_t>(position)];
  const auto& [unit, weights] = bound.unit_weights.front();
  const model::Unit& declared = units_[static_cast<size_t>(unit)];
  bound.weights = model::block_weights(declared, weights);
  if (!bound.unit_gradients.empty())
    bound.gradients = model::block_gradients(declared, bound.unit_gradients.front().second);
  model::Carver saved(find(BufferKind::saved, op.index, op.micro, program));
  bound.saved = model::carve_block_saved(saved, run_.config, shape);
  model::Carver scratch(find(BufferKind::scratch, position, op.micro, program));
  bound.scratch = model::carve_block_scratch(scratch, run_.config, shape,
                                             op.kind == OpKind::forward ? model::Pass::forward : model::Pass::backward);
}

void Executor::guard(int program, bool readable) {
  for (const Buffer& buffer : inventory_.buffers) {
    if (guarded(buffer, program)) {
      ::mprotect(address(buffer), static_cast<size_t>((buffer.bytes + kPage - 1) / kPage * kPage),
                 readable ? PROT_READ | PROT_WRITE : PROT_NONE);
    }
  }
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

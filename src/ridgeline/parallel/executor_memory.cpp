// The executor's memory: what lies where, and what each operation is bound to.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "ridgeline/base/error.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/parallel/dataflow.h"
#include "ridgeline/parallel/executor_parts.h"

namespace ridgeline::parallel {
namespace {

// Memory is planned for a team: another one would write over its neighbours. Aborts before anything is taken.
RunShape for_team(RunShape run, const device::Stream& stream) {
  const int team = stream.team().size();
  for (const model::BatchShape* shape : {&run.batch, &run.evaluation_batch}) {
    RL_REQUIRE(shape->team_size == team, "memory is planned for a team of {}, but a team of {} runs on it",
               shape->team_size, team);
  }
  return run;
}

}  // namespace

Executor::Executor(RunShape run, std::vector<Program> programs, comm::World& world, device::Stream& stream)
    : Executor(std::move(run), std::move(programs), world, stream, Options{}) {}

Executor::Executor(RunShape run, std::vector<Program> programs, comm::World& world, device::Stream& stream,
                   Options options)
    : run_(for_team(std::move(run), stream)),
      programs_(std::move(programs)),
      units_(model::declare(run_.config)),
      options_(std::move(options)),
      inventory_(make_inventory(run_, units_, programs_, options_.packing)),
      proof_(options_.prove ? prove(run_, programs_, inventory_) : Proof{}),
      world_(world),
      stream_(stream),
      agreement_(std::make_unique<Agreement>()),
      ranks_(world.communicator("all ranks")),
      host_(inventory_.host_bytes, &stream.team()),
      offload_(offload_of(run_, units_)) {
  RL_CHECK(run_.sharding.mesh.world_size(), ==, world.size());
  RL_CHECK(run_.rank, ==, world.rank());
  RL_CHECK(name_of(run_.sharding.weights), ==, name_of(run_.batch.dtype));
  RL_REQUIRE(!options_.guard || options_.packing == Packing::separate,
             "only buffers on pages of their own are guarded");
  const comm::Placement place = run_.place();
  const auto members = [&](Group group) { return place.group(axes_of(group, run_.sharding)); };
  gather_ = world.communicator(members(Group::shards), "shards, gather");
  reduce_ = world.communicator(members(Group::shards), "shards, reduce");
  replicas_ = world.communicator(members(Group::replicas), "replicas, reduce");
  if (place.size(comm::kGradientAxes) != world.size()) data_ = world.communicator(members(Group::data), "data, reduce");
  if (inventory_.peer_visible_bytes > 0) peer_visible_ = world.peer_visible(inventory_.peer_visible_bytes);
  size_t longest = 0;
  for (const Program& program : programs_) longest = std::max(longest, program.ops.size());
  transfers_.resize(longest);
  reductions_.resize(units_.size(), -1);
  measure_order_.resize(units_.size());
  locate_units();
  bind();
  if (inventory_.file_bytes > 0) open_file();
  if (auto* const table = reinterpret_cast<float*>(find(BufferKind::rotary_table, 0, 0, -1)))
    model::fill_rotary_table(run_.config, std::max(run_.batch.sequence, run_.evaluation_batch.sequence), table);
  if (options_.guard) {
    guard_ = std::make_unique<MemoryGuard>(
        inventory_, programs_, [this](const Buffer& buffer) { return address(buffer); }, world_.rank());
  }
}

Executor::~Executor() = default;

std::byte* Executor::address(const Buffer& buffer) const {
  return (buffer.space == Space::host ? host_.data() : peer_visible_.data()) + buffer.offset;
}

std::byte* Executor::find(BufferKind kind, int index, int micro, int program) const {
  const Buffer* buffer = inventory_.find(kind, index, micro, program);
  return buffer == nullptr || buffer->space == Space::file ? nullptr : address(*buffer);
}

Executor::Range Executor::part(int unit) const {
  return memory_[static_cast<size_t>(unit)].part;
}
Executor::Range Executor::piece(int unit) const {
  return memory_[static_cast<size_t>(unit)].piece;
}

void Executor::open_file() {
  std::vector<OffloadChunk> chunks;
  for (const Program& program : programs_) {
    if (!program.trains()) continue;
    std::vector<OffloadChunk> these = chunks_of(offload_, program, units_, run_.sharding);
    RL_REQUIRE(chunks.empty() || chunks == these, "the programs of a run update in different orders");
    chunks = std::move(these);
  }
  const Buffer& window = *inventory_.find(BufferKind::offload_window, 0, 0, -1);
  file_ = std::make_unique<device::FileStream>(
      device::StateFile(options_.offload_folder, inventory_.file_bytes, fmt::format("rank {}", world_.rank())),
      std::span(address(window), static_cast<size_t>(window.bytes)), offload_.slot_bytes,
      ranges_of(offload_, chunks, inventory_), options_.processors);
}

void Executor::locate_units() {
  const Sharding& sharding = run_.sharding;
  for (size_t u = 0; u < units_.size(); ++u) {
    const int unit = static_cast<int>(u);
    UnitMemory memory;
    memory.extent = extent_of(units_[u], sharding);
    const comm::Placement place = run_.place();
    const int64_t first = place.index(sharding.shard_axes()) * memory.extent.part;
    memory.part = {first, first + memory.extent.part};
    memory.piece.first = first + place.index(sharding.replica_axes()) * memory.extent.piece;
    memory.piece.last = memory.piece.first + memory.extent.piece;
    const Buffer* const master = inventory_.find(BufferKind::master, unit, 0, -1);
    const bool whole_master = master->bytes >= memory.extent.whole * size_of(sharding.masters);
    const Ref values(find(BufferKind::master, unit, 0, -1), sharding.masters);
    memory.master = whole_master && values ? values.at(first) : values;
    const bool whole = !sharding.cuts(Shard::parameters);
    const Ref weights = sharding.mixed() ? Ref(find(BufferKind::working, unit, 0, -1), sharding.weights) : values;
    if (whole) memory.whole_weights = weights;
    memory.own_weights = whole ? weights.at(first) : weights;
    if (run_.training) {
      const Ref gradient(find(BufferKind::gradient, unit, 0, -1), sharding.gradient_dtype());
      if (!sharding.gradient_is_part()) memory.whole_gradient = gradient;
      memory.gradient = sharding.gradient_is_part() ? gradient : gradient.at(first);
      memory.moment1 = Ref(find(BufferKind::moment1, unit, 0, -1), sharding.moments);
      memory.moment2 = Ref(find(BufferKind::moment2, unit, 0, -1), sharding.moments);
    }
    memory_.push_back(memory);
  }
}

const model::BatchShape& Executor::shape_of(int program) const {
  return programs_[static_cast<size_t>(program)].trains() ? run_.batch : run_.evaluation_batch;
}

// One micro-batch of a buffer that holds all of a program's.
std::byte* Executor::find_micro(BufferKind kind, int program, int micro) const {
  const Buffer* const all = inventory_.find(kind, 0, 0, program);
  return address(*all) + micro * (all->bytes / programs_[static_cast<size_t>(program)].micro_batches);
}

BatchBuffers Executor::batch(int program, int micro) {
  const int64_t n = shape_of(program).tokens();
  auto* const words = reinterpret_cast<int32_t*>(find_micro(BufferKind::batch, program, micro));
  auto* const samples = reinterpret_cast<uint32_t*>(words + 3 * n);
  return {words, words + n, words + 2 * n, samples, samples + n};
}

const float* Executor::losses(int program, int micro) const {
  return reinterpret_cast<const float*>(find_micro(BufferKind::losses, program, micro));
}

void Executor::bind() {
  bound_.resize(programs_.size());
  for (size_t p = 0; p < programs_.size(); ++p) {
    const Dataflow dataflow(run_.config, run_.sharding, programs_[p]);
    for (size_t i = 0; i < programs_[p].ops.size(); ++i)
      bound_[p].push_back(bind_op(dataflow, static_cast<int>(p), static_cast<int>(i)));
  }
}

ConstRef Executor::weights(const Dataflow& dataflow, int program, int position, int unit) const {
  for (const Use& use : dataflow.of(position)) {
    if (use.value.kind == ValueKind::weights && use.value.index == unit) return locate(program, use.value);
  }
  RL_REQUIRE(false, "operation {} of program {} does not read the weights of unit {}", position, program, unit);
  return {};
}

// Of a whole unit; of its state this rank's part.
Ref Executor::locate(int program, const Value& value) const {
  const Sharding& sharding = run_.sharding;
  const UnitMemory& memory = memory_[static_cast<size_t>(value.index)];
  const std::optional<Place> place = place_of(value, sharding);
  const auto there = [&](DType dtype) { return Ref(find(place->kind, place->index, place->micro, program), dtype); };
  switch (value.kind) {
    case ValueKind::state:
    case ValueKind::updated_state:
      return memory.own_weights;
    case ValueKind::weights:
      return place ? there(sharding.weights) : memory.whole_weights;
    case ValueKind::gradient:
      return place ? there(DType::f32) : memory.whole_gradient;
    case ValueKind::packed_gradient:
    case ValueKind::shard_sum:
    case ValueKind::sum:
      return place ? there(sharding.wire) : memory.whole_gradient;
    case ValueKind::step_gradient:
      return memory.gradient;
    default:
      return {};
  }
}

Executor::Bound Executor::bind_op(const Dataflow& dataflow, int program, int position) {
  const Op& op = programs_[static_cast<size_t>(program)].ops[static_cast<size_t>(position)];
  Bound bound{};
  const Subject subject = traits_of(op.kind).subject;
  if (subject == Subject::element || subject == Subject::micro) {
    bind_computation(bound, dataflow, program, position);
  } else if (subject == Subject::unit || subject == Subject::unit_of_micro) {
    for (const Use& use : dataflow.of(position)) {
      Ref& ref = use.access == Access::read ? bound.source : bound.target;
      if (!ref) ref = locate(program, use.value);
    }
  }
  return bound;
}

void Executor::bind_computation(Bound& bound, const Dataflow& dataflow, int program, int position) {
  const Op& op = programs_[static_cast<size_t>(program)].ops[static_cast<size_t>(position)];
  const model::BatchShape& shape = shape_of(program);
  const model::TransformerConfig& config = run_.config;
  const bool writes = op.kind == OpKind::loss || op.kind == OpKind::backward;
  const auto weights_of = [&](int unit) { return weights(dataflow, program, position, unit); };
  const auto gradient_of = [&](int unit) {
    return locate(program, {ValueKind::gradient, unit, run_.sharding.window(op.micro)}).as<float>();
  };
  const BatchBuffers tokens = batch(program, op.micro);
  bound.batch = {tokens.inputs,        tokens.labels,
                 tokens.positions,     tokens.samples,
                 tokens.sample_of_row, reinterpret_cast<const float*>(find(BufferKind::rotary_table, 0, 0, -1))};
  bound.losses = reinterpret_cast<float*>(find_micro(BufferKind::losses, program, op.micro));
  bound.input = ConstRef(find(BufferKind::activation, op.index - 1, op.micro, program), shape.dtype);
  bound.output = Ref(find(BufferKind::activation, op.index, op.micro, program), shape.dtype);
  bound.gradient = Ref(find(BufferKind::stream_gradient, 0, op.micro, program), shape.dtype);
  model::Carver scratch(find(BufferKind::scratch, position, op.micro, program));
  if (op.kind == OpKind::loss || op.kind == OpKind::evaluate) {
    bound.head_weights = model::head_weights(config, units_, weights_of);
    if (writes) bound.head_gradients = model::head_gradients(config, units_, gradient_of);
    bound.loss_scratch = model::carve_loss_scratch(scratch, config, shape, writes);
  } else if (op.index >= 0) {
    const int unit = model::unit_index(config).first_block + op.index;
    const model::Unit& declared = units_[static_cast<size_t>(unit)];
    bound.recompute =
        programs_[static_cast<size_t>(program)].trains() ? run_.recompute_of(op.index) : model::Recompute::none;
    bound.weights = model::block_weights(declared, weights_of(unit));
    if (writes) bound.gradients = model::block_gradients(declared, gradient_of(unit));
    model::Carver saved(find(BufferKind::saved, op.index, op.micro, program));
    bound.saved = model::carve_block_saved(saved, config, shape, bound.recompute);
    bound.scratch = model::carve_block_scratch(
        scratch, config, shape, op.kind == OpKind::forward ? model::Pass::forward : model::Pass::backward,
        bound.recompute);
  } else if (op.kind == OpKind::forward) {
    bound.embedding_weights = model::embedding_weights(config, units_, weights_of);
  } else {
    bound.embedding_gradients = model::embedding_gradients(config, units_, gradient_of);
    bound.embedding_scratch = model::carve_embedding_scratch(scratch, config, shape);
  }
}

}  // namespace ridgeline::parallel

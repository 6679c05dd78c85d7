#include "ridgeline/parallel/rank_memory.h"

#include <algorithm>
#include <optional>

#include "ridgeline/base/error.h"
#include "ridgeline/model/transformer.h"

namespace ridgeline::parallel {

Ref SegmentMemory::state(BufferKind kind) const {
  switch (kind) {
    case BufferKind::master:
      return master;
    case BufferKind::gradient:
      return gradient;
    case BufferKind::moment1:
      return moment1;
    case BufferKind::moment2:
      return moment2;
    default:
      RL_REQUIRE(false, "buffer kind {} is no state of a segment", static_cast<int>(kind));
      return {};
  }
}

RankMemory::RankMemory(const RunShape& run, const std::vector<model::Segment>& segments,
                       const std::vector<Program>& programs, const Inventory& inventory, comm::World& world,
                       const device::Stream& stream)
    : run_(run),
      programs_(programs),
      inventory_(inventory),
      host_(inventory.host_bytes, &stream.team()),
      reserved_(device::Arena::reserved(inventory.reserved_bytes)) {
  if (inventory_.peer_visible_bytes > 0) peer_visible_ = world.peer_visible(inventory_.peer_visible_bytes);
  locate_segments(segments);
  if (auto* const table = reinterpret_cast<float*>(find(BufferKind::rotary_table, 0, 0, -1)))
    model::fill_rotary_table(run_.config, run_.positions(), table);
}

std::byte* RankMemory::address(const Buffer& buffer) const {
  switch (buffer.space) {
    case Space::host:
      return host_.data() + buffer.offset;
    case Space::peer_visible:
      return peer_visible_.data() + buffer.offset;
    case Space::reserved:
      return reserved_.data() + buffer.offset;
    case Space::file:
      break;
  }
  RL_REQUIRE(false, "buffer '{}' has no address: it lies in space {}", buffer.name, name_of(buffer.space));
  return nullptr;
}

std::byte* RankMemory::find(BufferKind kind, int index, int micro, int program) const {
  const Buffer* buffer = inventory_.find(kind, index, micro, program);
  return buffer == nullptr || buffer->space == Space::file ? nullptr : address(*buffer);
}

void RankMemory::locate_segments(const std::vector<model::Segment>& segments) {
  const Sharding& sharding = run_.sharding;
  for (size_t u = 0; u < segments.size(); ++u) {
    const int segment = static_cast<int>(u);
    SegmentMemory memory;
    memory.extent = extent_of(segments[u], sharding);
    const comm::Placement place = run_.place();
    const int64_t first = place.index(sharding.shard_axes()) * memory.extent.part;
    memory.part = {first, first + memory.extent.part};
    memory.piece.first = first + place.index(sharding.replica_axes()) * memory.extent.piece;
    memory.piece.last = memory.piece.first + memory.extent.piece;
    memory.here = segments[u].here;
    memory.counts = segments[u].counts;
    if (!memory.here) {
      segments_.push_back(memory);
      continue;
    }
    const Buffer* const master = inventory_.find(BufferKind::master, segment, 0, -1);
    const bool whole_master = master->bytes >= memory.extent.whole * size_of(sharding.masters);
    const Ref values(find(BufferKind::master, segment, 0, -1), sharding.masters);
    memory.master = whole_master && values ? values.at(first) : values;
    const bool whole = !sharding.cuts(Shard::parameters);
    const Ref weights = sharding.mixed() ? Ref(find(BufferKind::working, segment, 0, -1), sharding.weights) : values;
    if (whole) memory.whole_weights = weights;
    memory.own_weights = whole ? weights.at(first) : weights;
    if (run_.training) {
      const Ref gradient(find(BufferKind::gradient, segment, 0, -1), sharding.gradient_dtype());
      if (!sharding.gradient_is_part()) memory.whole_gradient = gradient;
      memory.gradient = sharding.gradient_is_part() ? gradient : gradient.at(first);
      memory.moment1 = Ref(find(BufferKind::moment1, segment, 0, -1), sharding.moments);
      memory.moment2 = Ref(find(BufferKind::moment2, segment, 0, -1), sharding.moments);
    }
    segments_.push_back(memory);
  }
}

Ref RankMemory::locate(int program, const Value& value) const {
  const Sharding& sharding = run_.sharding;
  const SegmentMemory& memory = segment(value.index);
  const std::optional<BufferId> place = buffer_of(value, sharding, programs_[static_cast<size_t>(program)]);
  const auto there = [&](DType dtype) { return Ref(find(place->kind, place->index, place->micro, program), dtype); };
  switch (value.kind) {
    case ValueKind::state:
    case ValueKind::updated_state:
      return memory.own_weights;
    case ValueKind::weights:
      return place ? there(sharding.weights) : memory.whole_weights;
    case ValueKind::gradient:
    case ValueKind::joined_gradient:
      return place ? there(DType::f32) : memory.whole_gradient;
    case ValueKind::packed_gradient:
    case ValueKind::shard_sum:
    case ValueKind::sum:
      return place ? there(sharding.wire) : memory.whole_gradient;
    case ValueKind::step_gradient:
    case ValueKind::tied_gradient:
      return memory.gradient;
    case ValueKind::tokens:
    case ValueKind::token_count:
    case ValueKind::activation:
    case ValueKind::saved:
    case ValueKind::output_gradient:
    case ValueKind::weight_inputs:
    case ValueKind::squares:
    case ValueKind::losses:
    case ValueKind::cache:
    case ValueKind::updated_cache:
    case ValueKind::logits:
    case ValueKind::step_scalars:
      break;
  }
  RL_REQUIRE(false, "{} is no value of a segment", value.name());
  return {};
}

const model::BatchShape& RankMemory::shape_of(int program) const {
  return programs_[static_cast<size_t>(program)].trains() ? run_.batch : run_.evaluation_batch;
}

// One micro-batch of a buffer that holds all of a program's.
std::byte* RankMemory::find_micro(BufferKind kind, int program, int micro) const {
  const Buffer* const all = inventory_.find(kind, 0, 0, program);
  return address(*all) + micro * (all->bytes / programs_[static_cast<size_t>(program)].micro_batches);
}

BatchBuffers RankMemory::batch(int program, int micro) const {
  const model::BatchShape& shape = shape_of(program);
  const int64_t n = shape.tokens();
  auto* const words = reinterpret_cast<int32_t*>(find_micro(BufferKind::batch, program, micro));
  auto* const samples = reinterpret_cast<uint32_t*>(words + 3 * n);
  int32_t* const documents = shape.documents ? words + 4 * n + shape.batch : nullptr;
  return {
      words, words + n, words + 2 * n, samples, samples + n, documents, documents == nullptr ? nullptr : documents + n};
}

float* RankMemory::losses(int program, int micro) const {
  if (inventory_.find(BufferKind::losses, 0, 0, program) == nullptr) return nullptr;
  return reinterpret_cast<float*>(find_micro(BufferKind::losses, program, micro));
}

Ref RankMemory::output(int program, int element, int micro) const {
  return {find(BufferKind::activation, element, micro, program), shape_of(program).dtype};
}

Ref RankMemory::gradient(int program, int element, int micro) const {
  const int home = programs_[static_cast<size_t>(program)].gradient_home(element);
  return {find(BufferKind::stream_gradient, home, micro, program), shape_of(program).dtype};
}

Ref RankMemory::cache(int layer) const {
  return {find(BufferKind::cache, layer, 0, -1), run_.evaluation_batch.dtype};
}

float* RankMemory::logits(int program) const {
  return reinterpret_cast<float*>(find(BufferKind::logits, 0, 0, program));
}

const float* RankMemory::rotary_table() const {
  return reinterpret_cast<const float*>(find(BufferKind::rotary_table, 0, 0, -1));
}

}  // namespace ridgeline::parallel

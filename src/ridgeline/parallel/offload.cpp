#include "ridgeline/parallel/offload.h"

#include <algorithm>

namespace ridgeline::parallel {
namespace {

// One is updated while others are read and written; more of them only make transfers smaller.
constexpr int64_t kSlots = 8;

}  // namespace

const Offload::State* Offload::find(BufferKind kind) const {
  const auto found = std::find_if(states.begin(), states.end(), [&](const State& state) { return state.kind == kind; });
  return found == states.end() ? nullptr : &*found;
}

Offload offload_of(const RunShape& run, const std::vector<model::Segment>& segments) {
  Offload offload;
  if (run.offload_window == 0 || !run.training) return offload;
  const Sharding& sharding = run.sharding;
  if (run.mixed()) offload.states.push_back({BufferKind::master, sharding.masters});
  offload.states.push_back({BufferKind::moment1, sharding.moments});
  offload.states.push_back({BufferKind::moment2, sharding.moments});
  for (const Offload::State& state : offload.states) offload.element_bytes += size_of(state.dtype);
  int64_t largest = 0, all = 0;
  for (const model::Segment& segment : segments) {
    if (!segment.here) continue;
    const int64_t part = extent_of(segment, sharding).part;
    largest = std::max(largest, part);
    all += part;
  }
  const int64_t window = std::min(run.offload_window, all * offload.element_bytes);
  const int64_t blocks = window / kSlots / (offload.element_bytes * model::kShardBlock);
  offload.chunk = std::min(std::max<int64_t>(blocks, 1) * model::kShardBlock, largest);
  for (Offload::State& state : offload.states) {
    state.slot_offset = offload.slot_bytes;
    offload.slot_bytes += offload.chunk * size_of(state.dtype);
  }
  int64_t chunks = 0;
  for (const model::Segment& segment : segments)
    chunks += segment.here ? (extent_of(segment, sharding).part + offload.chunk - 1) / offload.chunk : 0;
  offload.window_bytes = std::max(std::min(kSlots, chunks) * offload.slot_bytes,
                                  sharding.replicas() * model::kShardBlock * size_of(DType::f32));
  return offload;
}

std::vector<OffloadChunk> chunks_of(const Offload& offload, const Program& program,
                                    const std::vector<model::Segment>& segments, const Sharding& sharding) {
  std::vector<OffloadChunk> chunks;
  for (const Op& op : program.ops) {
    if (op.kind != OpKind::update) continue;
    const int64_t part = extent_of(segments[static_cast<size_t>(op.index)], sharding).part;
    for (int64_t first = 0; first < part; first += offload.chunk)
      chunks.push_back({op.index, first, std::min(first + offload.chunk, part)});
  }
  return chunks;
}

std::vector<device::FileStream::Chunk> ranges_of(const Offload& offload, const std::vector<OffloadChunk>& chunks,
                                                 const Inventory& inventory) {
  std::vector<device::FileStream::Chunk> all;
  for (const OffloadChunk& chunk : chunks) {
    device::FileStream::Chunk& ranges = all.emplace_back();
    for (const Offload::State& state : offload.states) {
      const int64_t size = size_of(state.dtype);
      ranges.push_back({.file = inventory.find(state.kind, chunk.segment, 0, -1)->offset + chunk.first * size,
                        .slot = state.slot_offset,
                        .bytes = (chunk.last - chunk.first) * size});
    }
  }
  return all;
}

}  // namespace ridgeline::parallel

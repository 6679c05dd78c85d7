// Offload of optimizer state to a file: what of a rank's state lies there, and how it is cut to pass through a window
// of bounded size at each update. Pure; the inventory lays both out, the executor streams.
#pragma once

#include <cstdint>
#include <vector>

#include "ridgeline/device/file_stream.h"
#include "ridgeline/parallel/inventory.h"

namespace ridgeline::parallel {

// The moments, and the masters where products read a copy of them. What products, gathers and reductions touch stays.
struct Offload {
  struct State {
    BufferKind kind;
    DType dtype;
    int64_t slot_offset = 0;  // of a chunk's elements of this kind, in a slot of the window
  };
  std::vector<State> states;  // empty: nothing is offloaded
  int64_t element_bytes = 0;  // of all kinds
  int64_t chunk = 0;          // elements of a segment that pass together: whole blocks
  int64_t slot_bytes = 0;     // a chunk of every kind
  int64_t window_bytes = 0;   // whole slots, or what the replicas need to exchange initial state

  const State* find(BufferKind kind) const;  // null when it lies in memory
};
Offload offload_of(const RunShape& run, const std::vector<model::Segment>& segments);

// Elements [first, last) of this rank's part of a segment.
struct OffloadChunk {
  int segment = 0;
  int64_t first = 0, last = 0;

  bool operator==(const OffloadChunk&) const = default;
};
// In the order in which `program` updates segments.
std::vector<OffloadChunk> chunks_of(const Offload& offload, const Program& program,
                                    const std::vector<model::Segment>& segments, const Sharding& sharding);
// Where they lie in the file of `inventory` and in a slot.
std::vector<device::FileStream::Chunk> ranges_of(const Offload& offload, const std::vector<OffloadChunk>& chunks,
                                                 const Inventory& inventory);

}  // namespace ridgeline::parallel

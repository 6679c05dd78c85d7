// A rank's memory: the arenas of its inventory, and where in them everything lies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ridgeline/comm/communicator.h"
#include "ridgeline/device/arena.h"
#include "ridgeline/device/stream.h"
#include "ridgeline/parallel/dataflow.h"
#include "ridgeline/parallel/inventory.h"

namespace ridgeline::parallel {

// Writable view of a micro-batch's tokens; what model::Batch reads.
struct BatchBuffers {
  int32_t *inputs, *labels, *positions;      // [N]
  uint32_t* samples;                         // [N]
  uint32_t* sample_of_row;                   // [B]
  int32_t *first_keys, *document_positions;  // [N]; null without BatchShape::documents
};

// Elements [first, last) of a segment.
struct ElementRange {
  int64_t first = 0, last = 0;
  int64_t count() const { return last - first; }
};

// Where a segment's state lies. `part` of a buffer is this rank's shard of it.
struct SegmentMemory {
  Extent extent;
  bool here = true;      // false: another stage's; nothing below is there
  bool counts = true;    // Segment::counts
  ElementRange part;     // what this rank keeps of what is cut
  ElementRange piece;    // of that, what it reads and writes for all ranks
  Ref master;            // part; as the moments null where it lies in the file
  Ref whole_weights;     // what products read, where all of it always lies there; else null
  Ref own_weights;       // part of what products read
  Ref whole_gradient;    // accumulated gradient, where all of it lies there; else null
  Ref gradient;          // part of it
  Ref moment1, moment2;  // part

  Ref state(BufferKind kind) const;  // master, gradient, moment1 or moment2
};

class RankMemory {
 public:
  // Takes and touches all of it; Error when it cannot be had. The arguments must outlive it. Collective over the world.
  RankMemory(const RunShape& run, const std::vector<model::Segment>& segments, const std::vector<Program>& programs,
             const Inventory& inventory, comm::World& world, const device::Stream& stream);

  const SegmentMemory& segment(int segment) const { return segments_[static_cast<size_t>(segment)]; }
  std::byte* address(const Buffer& buffer) const;
  // Null where there is no such buffer, or it lies in the file.
  std::byte* find(BufferKind kind, int index, int micro, int program) const;
  // Where a value of a segment lies while `program` runs: all of the segment; of its state this rank's part.
  Ref locate(int program, const Value& value) const;

  const model::BatchShape& shape_of(int program) const;
  BatchBuffers batch(int program, int micro) const;
  float* losses(int program, int micro) const;              // per token, [N]; null where the stage has no loss
  Ref gradient(int program, int element, int micro) const;  // of the output of an element, [M][C]
  Ref output(int program, int element, int micro) const;    // activation of the embedding or a block, [N][C]
  const float* rotary_table() const;                        // null where the model has none
  Ref cache(int layer) const;                               // keys and values, [cached][2][KV][D]
  float* logits(int program) const;                         // [V]

 private:
  std::byte* find_micro(BufferKind kind, int program, int micro) const;
  void locate_segments(const std::vector<model::Segment>& segments);

  const RunShape& run_;
  const std::vector<Program>& programs_;
  const Inventory& inventory_;
  device::Arena host_, reserved_;
  std::span<std::byte> peer_visible_;
  std::vector<SegmentMemory> segments_;
};

}  // namespace ridgeline::parallel

// Every buffer of a rank, by name and bytes, and where it lies: derived from the declarations and the programs of the
// run. `plan` prints this list, training allocates it; they cannot disagree.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "ridgeline/model/declarations.h"
#include "ridgeline/model/transformer.h"
#include "ridgeline/parallel/dataflow.h"
#include "ridgeline/parallel/program.h"

namespace ridgeline::parallel {

enum class Category { parameters, gradients, optimizer, activations, workspace, communication, data };
std::string_view name_of(Category category);

// Memory with different properties is laid out in different arenas.
enum class Space {
  host,
  peer_visible,  // other ranks of the host read it directly: what is communicated
  reserved,      // addresses that take memory as far as they are written: keys and values of a long context
  file           // of this rank, beside its memory: offloaded optimizer state
};
std::string_view name_of(Space space);

enum class BufferKind {
  master,            // [segment] weights; what is cut holds this rank's part only
  working,           // [segment] 2-byte copy for computation (mixed precision only)
  gradient,          // [segment] accumulated over a step
  moment1,           // [segment]
  moment2,           // [segment]
  gathered,          // [segment][instance] whole weights, where only a part of them is kept
  segment_gradient,  // [segment][window] f32, what backward adds to where that is not `gradient`
  wire_gradient,     // [segment][window] in the dtype of the wire
  activation,        // [element][micro] output of the embedding or a block
  saved,             // [layer][micro] what a block's backward needs
  stream_gradient,   // [Program::gradient_home][micro] gradient of the residual stream
  weight_inputs,     // [layer][micro] what the input part of a block's backward leaves for the weight part
  scratch,           // [operation] of one operation
  losses,            // f32 per token, of all micro-batches one after the other
  rotary_table,      // cosines and sines of rotary positions
  cache,             // [layer] keys and values of a sequence that is generated
  logits,            // f32, of what follows its last token
  offload_window,    // through which offloaded state passes
  batch              // tokens, labels, positions, sample numbers, of all micro-batches one after the other
};

// Which of a program's buffers a value lies in; nothing for what lies in persistent ones.
struct BufferId {
  BufferKind kind;
  int index = 0, micro = 0;
};
std::optional<BufferId> buffer_of(const Value& value, const Sharding& sharding, const Program& program);

// No operation of any stream.
constexpr std::array<int, kStreams> kNowhere = {-1, -1, -1, -1, -1};

struct Buffer {
  BufferKind kind;
  int index = 0, micro = 0;
  int program = -1;         // transient: lives in this program only; -1: persistent
  int first = 0, last = 0;  // transient: operations of the program between which the contents matter, both included
  std::array<int, kStreams> last_on = kNowhere;  // transient: of each stream the last of them that uses it
  std::string name;
  Category category = Category::workspace;
  Space space = Space::host;
  int64_t bytes = 0;   // multiple of 64
  int64_t offset = 0;  // in its space
};

// What the memory of a run's rank depends on.
struct RunShape {
  model::TransformerConfig config;
  model::BatchShape batch;             // of one micro-batch in training; dtype bf16 means mixed precision
  model::BatchShape evaluation_batch;  // of one micro-batch in evaluation
  Sharding sharding;                   // its weights' dtype is the batch's
  int rank = 0;                        // in the sharding's mesh
  bool training = true;                // false: evaluation only, no gradients or optimizer state
  // What blocks 0, k, 2 k … compute again in their backward; the others keep everything.
  model::Recompute recompute = model::Recompute::none;
  int recompute_every = 1;  // k
  // Optimizer state lies in a file of each rank and passes through a window of so many bytes, or as many as it needs at
  // the least (parallel/offload.h). 0: it lies in memory.
  int64_t offload_window = 0;
  // Tokens of one sequence for whose keys and values there is room: the program generates. 0: it does not. Each run of
  // the program feeds at most evaluation_batch.sequence.
  int64_t cached = 0;

  model::Recompute recompute_of(int layer) const {
    return layer % recompute_every == 0 ? recompute : model::Recompute::none;
  }

  // Of each block, whether its backward has no parts: it runs the forward again.
  std::vector<bool> recomputed() const {
    std::vector<bool> all;
    for (int layer = 0; layer < static_cast<int>(config.layers); ++layer)
      all.push_back(recompute_of(layer) == model::Recompute::full);
    return all;
  }

  bool mixed() const { return sharding.mixed(); }
  // That tokens may have.
  int64_t positions() const { return std::max({batch.sequence, evaluation_batch.sequence, cached}); }

  comm::Placement place() const { return {sharding.mesh, rank}; }
  // What this rank computes of the model, on a micro-batch of a program.
  model::LocalShape local(const Program& program, model::Recompute what = model::Recompute::none) const {
    return {
        config, program.trains() ? batch : evaluation_batch, what,
        model::slice_of(config, place().tensor_rank(), sharding.slices(), sharding.sequence && !program.generates())};
  }
  // All segments as this rank has them: its slice of those of its stage (Segment::here).
  std::vector<model::Segment> segments() const;
  // The same run on another rank.
  RunShape on_rank(int other) const {
    RunShape shape = *this;
    shape.rank = other;
    return shape;
  }
};

// Ranks that do the same on as much of the model, by first rank: those of a stage whose slices have as many rows of the
// vocabulary, the only thing that slices are not cut into equally.
std::vector<comm::AlikeRanks> alike_ranks(const RunShape& run);

// Elements of a segment. Padded so that the pieces of all ranks are equal and of whole blocks. Shard s of
// S, `part` long, is cut into one piece per replica: what a rank reads, writes and measures for all.
struct Extent {
  int64_t whole = 0, part = 0, piece = 0;
};
Extent extent_of(const model::Segment& segment, const Sharding& sharding);

// What tells one buffer, or one operation of a program, from the others: kind, index, micro, program.
using Key = std::array<int, 4>;
struct KeyHash {
  size_t operator()(const Key& key) const;
};

struct Inventory {
  std::vector<Buffer> buffers;
  std::unordered_map<Key, size_t, KeyHash> positions;  // in `buffers`
  int64_t host_bytes = 0, peer_visible_bytes = 0;
  int64_t reserved_bytes = 0;
  int64_t file_bytes = 0;  // each update reads them once and writes them once

  const Buffer* find(BufferKind kind, int index, int micro, int program) const;  // null when there is none
  // What a rank takes of memory at the most.
  int64_t total_bytes() const { return host_bytes + peer_visible_bytes + reserved_bytes; }
};

enum class Packing {
  shared,   // transient buffers share bytes when their intervals do not overlap
  separate  // every buffer on pages of its own with a guard page behind: for tests and debug builds
};
constexpr int64_t kPage = 4096;  // of those

// Pure. Persistent buffers lie first; the transient ones of all programs share the rest.
Inventory make_inventory(const RunShape& run, const std::vector<model::Segment>& segments,
                         const std::vector<Program>& programs, Packing packing = Packing::shared);

// Buffers that share bytes although the programs do not order the last uses of one, on every stream, before the first
// use of the other, by name and with the operations; empty when the layout is right. Holds for programs that the
// simulator passes: every other use of a buffer is ordered after its first.
std::vector<std::string> overlapping(const Inventory& inventory, const std::vector<Program>& programs);

}  // namespace ridgeline::parallel

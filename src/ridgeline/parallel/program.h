// A step is a program: one list of operations per rank, lowered from a schedule and a sharding. The executor runs it,
// the planner prices it, the simulator proves it, a trace shows it.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "ridgeline/model/transformer_config.h"
#include "ridgeline/parallel/schedule.h"
#include "ridgeline/parallel/sharding.h"

namespace ridgeline::parallel {

enum class OpKind {
  count,            // agree on the step's number of valid tokens
  gather,           // weights of segment `index` from all shards; the `micro`-th time in the program
  forward,          // element `index` of micro-batch `micro`
  loss,             // final norm, head, cross-entropy, forward and backward
  evaluate,         // the loss without gradients
  predict,          // logits of what follows the last token
  clear,            // zero the gradient that segment `index`'s backward of `micro` adds to
  backward,         // element `index` of `micro`
  backward_input,   // its part that the element before waits for
  backward_weight,  // and the rest: gradients of weights
  join,             // sum segment `index`'s gradient over the slices that hold the same
  pack,             // segment `index`'s gradient in the dtype of the wire
  reduce,           // sum it over the shards: each keeps its part
  replicate,        // sum that part over the replicas
  accumulate,       // add that part to the accumulated gradient
  tie,              // sum the accumulated part over the first and the last stage, which both hold segment `index`
  measure,          // squares of this rank's part of segment `index`'s gradient
  agree,            // the step's scalars: norm, loss, non-finite, stop
  update,           // optimizer on this rank's part of segment `index`
  settle,           // wait until `messages` have been sent, so that their memory is free
  exchange          // outputs and gradients with other stages: `messages`
};
constexpr int kOpKinds = static_cast<int>(OpKind::exchange) + 1;

// In-order queues of a rank. On the CPU compute is the rank's thread; a transfer started on another stream goes on
// while the rank computes as far as its communicator can, and is finished when it is waited for.
enum class StreamId { compute, gather, reduce, exchange, copy };
constexpr int kStreams = 5;
std::string_view name_of(StreamId stream);

// What the numbers of an operation, or of a value, mean. Elements: parallel/pipeline.h.
enum class Subject { step, micro, segment, segment_of_micro, element, messages };
std::string name_of_element(int element);  // "embedding", "block 3"

// Ranks that must take part together: those that differ only along its axes.
enum class Group {
  none,
  world,     // all axes
  data,      // with the same part of the model
  shards,    // with one copy, together, of what is sharded
  replicas,  // with the same part of it
  slices,    // of one model
  stages,    // of one pipeline
  ends       // the first and the last of them
};
constexpr int kGroups = 8;
comm::AxisSet axes_of(Group group, const Sharding& sharding);

// Of a step's time, in the log.
enum class Phase { gather, forward, loss, backward, reduce, update, exchange };
constexpr int kPhases = 7;

// What holds for every operation of a kind.
struct OpTraits {
  OpKind kind;
  std::string_view verb;
  Subject subject;
  StreamId stream;
  Group group;  // `reduce` where nothing is cut: the replicas, which then are all ranks
  Phase phase;
};
const OpTraits& traits_of(OpKind kind);

// One of the things that an exchange sends or receives: an element's output, or the gradient of it.
struct Message {
  int stage = 0;  // the other one
  bool sends = false, backward = false;
  int element = 0, micro = 0;
};

struct Op {
  OpKind kind;
  int index = 0;
  int micro = 0;
  std::vector<int> after;  // operations of *other* streams that must have finished, by position in the program
  std::vector<Message> messages = {};

  StreamId stream() const { return traits_of(kind).stream; }
  std::string name() const;  // "backward block 3 micro 0"
};

struct Program {
  std::string name;  // "step", "evaluate", "generate"
  std::vector<Op> ops;
  int micro_batches = 1;
  std::vector<Elements> chunks;  // what its stage computes, ascending
  std::vector<bool> in_parts;    // [element + 1] whether its backward runs in two parts

  bool trains() const { return name == "step"; }
  bool generates() const { return name == "generate"; }
  // The gather that provides segment `segment` to the computation at `position`; -1 when it reads weights that always
  // lie there.
  int gather_of(int position, int segment) const;
  bool computes(int element) const;
  // The gradients of the outputs of some elements lie in one place, one after the other, since the backwards between
  // them work in place: the last of these elements.
  int gradient_home(int element) const;
};

// Segments of a program's stage, ascending.
std::vector<int> segments_of(const model::ElementSegments& elements, const Program& program);

// The training step of a rank of pipeline stage `stage`, whose schedule it is. Weights that are cut are gathered
// `prefetch` computations before their use; backward of micro-batch m accumulates; a segment's gradient is reduced as
// soon as its last contribution is in, and the reduction is waited for `prefetch` computations later. Every transfer
// starts after the computation before it, so memory that was free then may be its target; what was sent is free when a
// `settle`, likewise later, says so. `recomputed`: blocks whose backward has no parts (model::Recompute::full); empty:
// none.
Program lower(const model::TransformerConfig& config, const std::vector<ScheduleEntry>& schedule,
              const Sharding& sharding, int stage = 0, const std::vector<bool>& recomputed = {});

// Forward-only: losses of `micro_batches` micro-batches.
Program evaluation(const model::TransformerConfig& config, int micro_batches, const Sharding& sharding, int stage = 0);

// Forward-only, of one sequence's new tokens, behind those whose keys and values are kept: logits of what follows.
Program generation(const model::TransformerConfig& config, const Sharding& sharding, int stage = 0);

// Whether operation `first` has finished before `second` starts, on any machine that keeps the order of each stream and
// the dependencies; `first` < `second`.
class Order {
 public:
  explicit Order(const Program& program);
  bool before(int first, int second) const;

 private:
  std::vector<StreamId> streams_;
  std::vector<std::array<int, kStreams>> latest_;  // of each stream the latest operation that has surely finished
};

}  // namespace ridgeline::parallel

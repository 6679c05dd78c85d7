// The one executor: owns a rank's memory, binds the buffers of the inventory to the operations of its programs once,
// and runs them. Inside a run it allocates nothing.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ridgeline/base/exact_sum.h"
#include "ridgeline/comm/communicator.h"
#include "ridgeline/device/arena.h"
#include "ridgeline/device/stream.h"
#include "ridgeline/model/transformer.h"
#include "ridgeline/ops/adam.h"
#include "ridgeline/parallel/inventory.h"
#include "ridgeline/parallel/memory_guard.h"
#include "ridgeline/parallel/offload.h"
#include "ridgeline/parallel/program.h"
#include "ridgeline/parallel/proof.h"

namespace ridgeline::parallel {

// Writable view of a micro-batch's tokens; what model::Batch reads.
struct BatchBuffers {
  int32_t *inputs, *labels, *positions;  // [N]
  uint32_t* samples;                     // [N]
  uint32_t* sample_of_row;               // [B]
};

// The values of one step.
struct StepInput {
  int64_t step = 0;  // for labels of collectives
  model::StepRandom random;
  ops::Adam optimizer;  // weight_decay applies to the decayed tensors only
  float learning_rate = 0.0F;
  float correction1 = 1.0F, correction2 = 1.0F;
  float clip = 0.0F;            // global norm above which gradients are scaled down; 0 for never
  float loss_scale = 1.0F;      // fp16: gradients are computed times this
  uint64_t rounding_key = 0;    // of masters in bf16
  bool stop_requested = false;  // this rank was asked to stop
  bool update = true;           // false: leave gradients in place and weights as they are (tests, gradient dumps)
};

struct StepResult {
  double loss = 0;           // mean over the valid tokens of all ranks
  double gradient_norm = 0;  // before clipping
  int64_t tokens = 0;        // valid ones of all ranks
  bool finite = true;        // false: nothing was updated
  // fp16: a gradient was not finite although the loss was; the step is skipped. The unit that showed it first, in the
  // order of the backward pass and over all ranks.
  bool overflow = false;
  int overflow_unit = -1;
  bool stop = false;  // some rank was asked to stop
  // Of offloaded state, by this rank for this step's update; 0 when nothing was updated. Writing may still go on.
  int64_t offload_read_bytes = 0, offload_written_bytes = 0;
};

// Called on the rank's thread after every operation; must not allocate if steps are to be free of allocation.
class OpObserver {
 public:
  virtual ~OpObserver() = default;
  virtual void operation(const Op& op, int64_t begin_nanoseconds, int64_t end_nanoseconds) = 0;
};

class Executor {
 public:
  struct Options {
    Packing packing = Packing::shared;
    // Packing::separate only: see MemoryGuard.
    bool guard = false;
    // false: every transfer is waited for where it starts (the same bits).
    bool overlap = true;
    // Programs and layout are proved before any memory is taken (parallel/proof.h); false only for tests that run wrong
    // ones to see what notices.
    bool prove = true;
    // Where the file of offloaded state lies (RunShape::offload_window), made where it is missing.
    std::filesystem::path offload_folder = {};
    // On which the threads that read and write that file run, wherever the caller is bound; empty: where it runs.
    std::vector<int> processors = {};
  };

  // Reserves and touches all memory, and the file of offloaded state (Error when they cannot be had). `world`, `stream`
  // must outlive the executor; the stream's team is the one that `run` is planned for, which is checked. Collective
  // over the world.
  Executor(RunShape run, std::vector<Program> programs, comm::World& world, device::Stream& stream, Options options);
  Executor(RunShape run, std::vector<Program> programs, comm::World& world, device::Stream& stream);
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  const RunShape& run_shape() const { return run_; }
  const std::vector<model::Unit>& units() const { return units_; }
  const Inventory& inventory() const { return inventory_; }
  comm::World& world() const { return world_; }
  // All ranks of the run, for whatever is no part of a program: saving, loading, traces. Communicators are made once,
  // since a world never takes their memory back.
  comm::Communicator& ranks() const { return *ranks_; }
  device::Stream& stream() const { return stream_; }
  const Proof& proof() const { return proof_; }

  // Elements [first, last) of a unit's segment.
  struct Range {
    int64_t first = 0, last = 0;
    int64_t count() const { return last - first; }
  };
  // What this rank keeps of a unit's sharded state, and the piece of that which it reads and writes for all ranks.
  Range part(int unit) const;
  Range piece(int unit) const;
  // State of a unit is its master, gradient, moment1, moment2.
  DType state_dtype(BufferKind kind) const;
  // Calls visitor(first, count, values) for consecutive pieces of elements `range` of the unit's segment, which lies
  // within part(unit). Values are good during the call. What lies in the file passes through the window, so that no
  // more memory is needed. Between runs.
  using Visitor = std::function<void(int64_t first, int64_t count, ConstRef values)>;
  void visit(BufferKind kind, int unit, Range range, const Visitor& visitor) const;
  // All of it as f32, [extent_of(unit).whole], on every rank. Collective; takes memory: for tests and dumps.
  std::vector<float> collect(BufferKind kind, int unit) const;

  // Writes elements [first, first + count) of a global tensor to `values`. Called from several threads.
  using Source = std::function<void(const model::Tensor& tensor, int64_t first, int64_t count, float* values)>;
  // Fills the masters or a moment (kind) of all units: every rank asks `source` only for its own piece of each unit;
  // replicas then gather theirs. Filling the masters makes the working copies too. Collective. What the source throws
  // reaches the caller.
  void fill(BufferKind kind, const Source& source);

  // The file of offloaded state, and what has gone through it; null when all state lies in memory.
  const device::FileStream* offload_file() const { return file_.get(); }

  // Where the tokens of a micro-batch are written before `run`.
  BatchBuffers batch(int program, int micro);
  // Losses per token of the last run, [N].
  const float* losses(int program, int micro) const;

  StepResult run(int program, const StepInput& input);

  // After a run with non-finite loss or gradient: what shows it first, in the order weights, forward, gradients; the
  // same text on every rank. Collective. Reruns the forward, so only meaningful before the next batch is written.
  std::string first_non_finite(int program, const StepInput& input);

  // After a run of an evaluation program: logits [N][V] f32 of a micro-batch. For tests: takes memory of its own.
  std::vector<float> logits(int program, int micro);

  void observe(OpObserver* observer) { observer_ = observer; }

  // Guard mode: buffers whose last page was not written between the first and last operation of their interval.
  std::vector<std::string> unused_buffers() const { return guard_ ? guard_->unused() : std::vector<std::string>{}; }

 private:
  struct Bound;       // buffers of one operation
  struct UnitMemory;  // where a unit's state lies
  struct Agreement;   // scalars of a step, summed over ranks
  struct Updated;     // state of a range of a unit, while it is in memory

  // A transfer that was started and not yet waited for.
  struct Transfer {
    comm::Communicator* communicator = nullptr;
    comm::Ticket ticket;
  };

  std::byte* address(const Buffer& buffer) const;
  std::byte* find(BufferKind kind, int index, int micro, int program) const;
  std::byte* find_micro(BufferKind kind, int program, int micro) const;
  void open_file();
  void locate_units();
  void bind();
  Bound bind_op(const Dataflow& dataflow, int program, int position);
  void bind_computation(Bound& bound, const Dataflow& dataflow, int program, int position);
  // Where a value of a unit lies; the whole weights of a unit as operation `position` reads them.
  Ref locate(int program, const Value& value) const;
  ConstRef weights(const Dataflow& dataflow, int program, int position, int unit) const;
  Ref in_memory(BufferKind kind, int unit) const;  // part(unit); null where it lies in the file
  // Of offloaded state: how many elements the window holds in each of `parts` parts; those from `first` on in it; where
  // element `first` of this rank's part lies in the file.
  int64_t window_elements(BufferKind kind, int parts) const;
  std::span<std::byte> window(BufferKind kind, int64_t first, int64_t count) const;
  int64_t in_file(BufferKind kind, int unit, int64_t first) const;
  void fill_range(int unit, Range range, const Source& source, Ref to);
  void fill_file(BufferKind kind, int unit, const Source& source);
  const model::BatchShape& shape_of(int program) const;

  void run_op(int program, int position, const StepInput& input);
  void run_forward(const Op& op, const Bound& bound, const model::BatchShape& shape, const StepInput& input);
  void run_loss(const Op& op, const Bound& bound, const model::BatchShape& shape);
  void run_backward(const Op& op, const Bound& bound, const StepInput& input);
  void start(int position, comm::Communicator& communicator, comm::Ticket ticket);
  void finish(int position);
  void start_gather(const Bound& bound, int position, const Op& op, const StepInput& input);
  void start_reduce(const Bound& bound, int position, const Op& op, const StepInput& input);
  void start_replicate(const Bound& bound, int position, const Op& op, const StepInput& input);
  void accumulate(const Bound& bound, const Op& op);
  void measure(const Op& op);
  void count_tokens(int program, const StepInput& input);
  void agree(int program, const StepInput& input);
  void judge_step(const StepInput& input);
  void update(const Op& op, const StepInput& input);
  void update_range(int index, Range range, const Updated& state, const StepInput& input);

  RunShape run_;
  std::vector<Program> programs_;
  std::vector<model::Unit> units_;
  Options options_;
  Inventory inventory_;
  const Proof proof_;  // before memory is taken
  comm::World& world_;
  device::Stream& stream_;
  // What collectives read: must outlive the communicators, since peers may still read it when one rank fails.
  std::unique_ptr<Agreement> agreement_;
  int64_t valid_tokens_ = 0;
  // Over all ranks; over the ranks of a shard group, one per stream; over the replicas of this rank's shard; over the
  // data ranks where these are not all.
  std::unique_ptr<comm::Communicator> ranks_, gather_, reduce_, replicas_, data_;
  device::Arena host_;
  std::span<std::byte> peer_visible_;
  const Offload offload_;
  std::unique_ptr<device::FileStream> file_;  // its threads use host_
  std::vector<UnitMemory> memory_;
  std::vector<std::vector<Bound>> bound_;
  std::vector<Transfer> transfers_;  // by position in the running program
  std::vector<int> reductions_;      // [unit] position of its latest reduction
  bool gathered_ = false;            // whole weights that only the optimizer cuts are up to date
  ops::AdamScalars scalars_;
  float seed_scale_ = 1.0F;         // of the running step's gradients
  std::vector<int> measure_order_;  // units in the order in which they were measured
  int64_t measured_ = 0, first_overflow_ = 0;
  StepResult result_;
  OpObserver* observer_ = nullptr;
  std::unique_ptr<MemoryGuard> guard_;  // null unless in guard mode
};

// The tensors of a unit that meet elements [first, last) of its segment: f(tensor, first element inside the tensor,
// count, offset in the segment). Alignment gaps belong to no tensor.
template <typename F>
void for_each_tensor_range(const model::Unit& unit, int64_t first, int64_t last, F&& f) {
  for (const model::Tensor& tensor : unit.tensors) {
    const int64_t begin = std::max(first, tensor.offset), end = std::min(last, tensor.offset + tensor.count());
    if (begin < end) f(tensor, begin - tensor.offset, end - begin, begin);
  }
}

}  // namespace ridgeline::parallel

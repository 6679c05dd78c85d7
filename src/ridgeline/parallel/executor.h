// The one executor of a rank: its memory, its state, and what runs its programs, put together. Inside a run it
// allocates nothing.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "ridgeline/comm/communicator.h"
#include "ridgeline/device/stream.h"
#include "ridgeline/model/transformer.h"
#include "ridgeline/parallel/inventory.h"
#include "ridgeline/parallel/memory_guard.h"
#include "ridgeline/parallel/program.h"
#include "ridgeline/parallel/proof.h"
#include "ridgeline/parallel/rank_groups.h"
#include "ridgeline/parallel/rank_memory.h"
#include "ridgeline/parallel/rank_state.h"
#include "ridgeline/parallel/runner.h"
#include "ridgeline/parallel/step.h"
#include "ridgeline/parallel/step_scalars.h"

namespace ridgeline::parallel {

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
  // must outlive the executor; `run` is of the world's rank, and planned for the stream's team, which is checked.
  // Collective over the world.
  Executor(RunShape run, std::vector<Program> programs, comm::World& world, device::Stream& stream, Options options);
  Executor(RunShape run, std::vector<Program> programs, comm::World& world, device::Stream& stream);
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  const RunShape& run_shape() const { return run_; }
  const std::vector<Program>& programs() const { return programs_; }
  const std::vector<model::Segment>& segments() const { return segments_; }
  const Inventory& inventory() const { return inventory_; }
  const Proof& proof() const { return proof_; }
  const RankMemory& memory() const { return memory_; }
  // All ranks of the run, for whatever is no part of a program: saving, loading, traces.
  comm::Communicator& ranks() const { return *groups_.ranks; }
  device::Stream& stream() const { return stream_; }

  // What this rank keeps of a segment's sharded state, and the piece of that which it reads and writes for all ranks.
  ElementRange part(int segment) const { return memory_.segment(segment).part; }
  ElementRange piece(int segment) const { return memory_.segment(segment).piece; }
  // State of a segment is its master, gradient, moment1, moment2; see RankState.
  DType state_dtype(BufferKind kind) const { return state_.dtype(kind); }
  void visit(BufferKind kind, int segment, ElementRange range, const StateVisitor& visitor) const;
  std::vector<float> collect(BufferKind kind, const model::Tensor& tensor) const;
  void fill(BufferKind kind, const StateSource& source);
  // The file of offloaded state, and what has gone through it; null when all state lies in memory.
  const device::FileStream* offload_file() const { return state_.file(); }

  // Where the tokens of a micro-batch are written before `run`.
  BatchBuffers batch(int program, int micro) { return memory_.batch(program, micro); }
  // Losses per token of the last run, [N].
  const float* losses(int program, int micro) const { return memory_.losses(program, micro); }
  StepResult run(int program, const StepInput& input);
  // Runner::run_forward. Collective; only meaningful before the next batch is written.
  void run_forward(int program, const StepInput& input, const std::function<void(const Op&)>& after);
  // Null where the program does not evaluate this micro-batch.
  const bound::Loss* loss(int program, int micro) const { return runner_.loss(program, micro); }
  model::SliceGroup& slices() { return runner_.slices(); }
  // The stages of this rank's pipeline; null where there is one.
  comm::Communicator* stages() const { return groups_.stages(); }

  void observe(OpObserver* observer) { observer_ = observer; }
  // Guard mode: buffers whose last page was not written between the first and last operation of their interval.
  std::vector<std::string> unused_buffers() const { return guard_ ? guard_->unused() : std::vector<std::string>{}; }

 private:
  const RunShape run_;
  const std::vector<Program> programs_;
  const std::vector<model::Segment> segments_;
  const Options options_;
  const Inventory inventory_;
  const Proof proof_;  // before memory is taken
  device::Stream& stream_;
  const std::unique_ptr<SharedScalars> shared_scalars_;
  const RankGroups groups_;
  const RankMemory memory_;
  RankState state_;
  StepScalars scalars_;
  Runner runner_;
  OpObserver* observer_ = nullptr;
  std::unique_ptr<MemoryGuard> guard_;  // null unless in guard mode
};

}  // namespace ridgeline::parallel

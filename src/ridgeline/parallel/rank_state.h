// What a rank keeps of a run's state (masters, gradients, moments), in memory or in its file: filled, visited, and held
// in memory piece by piece for an update.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "ridgeline/device/file_stream.h"
#include "ridgeline/device/stream.h"
#include "ridgeline/parallel/offload.h"
#include "ridgeline/parallel/rank_groups.h"
#include "ridgeline/parallel/rank_memory.h"

namespace ridgeline::parallel {

// Called for consecutive pieces of what was asked for; values are good during the call.
using StateVisitor = std::function<void(int64_t first, int64_t count, ConstRef values)>;
// Writes elements [first, first + count) of a global tensor to `values`. Called from several threads.
using StateSource = std::function<void(const model::Tensor& tensor, int64_t first, int64_t count, float* values)>;

class RankState {
 public:
  struct Options {
    std::filesystem::path offload_folder;  // of the file (RunShape::offload_window), made where it is missing
    std::vector<int> processors;           // on which the file's threads run; empty: where the caller does
  };
  // Reserves the file; Error when it cannot be had. The arguments must outlive it.
  RankState(const RunShape& run, const std::vector<model::Segment>& segments, const std::vector<Program>& programs,
            const Inventory& inventory, const RankMemory& memory, const RankGroups& groups, device::Stream& stream,
            const Options& options);

  DType dtype(BufferKind kind) const;
  // Elements `range` of the segment, which lies within this rank's part. What lies in the file passes through
  // the window, so that no more memory is needed. Between runs.
  void visit(BufferKind kind, int segment, ElementRange range, const StateVisitor& visitor) const;
  // All of a global tensor as f32, on every rank. Collective over the world; takes memory.
  std::vector<float> collect(BufferKind kind, const model::Tensor& tensor) const;
  // The masters or a moment of all segments, and with the masters their working copies: every rank asks `source` only
  // for its own piece of each segment; replicas then gather theirs. Collective. What the source throws reaches the
  // caller.
  void fill(BufferKind kind, const StateSource& source);

  // State of consecutive elements of this rank's part, while it is in memory.
  struct Present {
    Ref master, moment1, moment2;
  };
  // begin_updates() when a step begins, then update() of each segment in the order of the programs: calls
  // f(ElementRange of the segment, Present) for consecutive ranges of the part. What lies in the file is read ahead and
  // written behind. Returns the bytes that were read from it, and written.
  void begin_updates();
  template <typename F>
  int64_t update(int segment, F&& f);

  // Null when all state lies in memory.
  const device::FileStream* file() const { return file_.get(); }

 private:
  void open_file(const std::vector<Program>& programs, const RankState::Options& options);
  // Of offloaded state: how many elements the window holds in each of `parts` parts; those from `first` on in it; where
  // element `first` of this rank's part lies in the file.
  int64_t window_elements(BufferKind kind, int parts) const;
  std::span<std::byte> window(BufferKind kind, int64_t first, int64_t count) const;
  int64_t in_file(BufferKind kind, int segment, int64_t first) const;
  void fill_range(int segment, ElementRange range, const StateSource& source, Ref to);
  void fill_file(BufferKind kind, int segment, const StateSource& source);

  const RunShape& run_;
  const std::vector<model::Segment>& segments_;
  const Inventory& inventory_;
  const RankMemory& memory_;
  const RankGroups& groups_;
  device::Stream& stream_;
  const Offload offload_;
  std::unique_ptr<device::FileStream> file_;  // its threads use the memory's window
};

template <typename F>
int64_t RankState::update(int segment, F&& f) {
  const SegmentMemory& memory = memory_.segment(segment);
  if (!file_) {
    f(memory.part, Present{memory.master, memory.moment1, memory.moment2});
    return 0;
  }
  for (int64_t first = 0; first < memory.part.count(); first += offload_.chunk) {
    const int64_t last = std::min(first + offload_.chunk, memory.part.count());
    std::byte* const slot = file_->take();
    const auto present = [&](BufferKind kind) {
      const Offload::State* const state = offload_.find(kind);
      return state == nullptr ? memory.state(kind).at(first) : Ref(slot + state->slot_offset, state->dtype);
    };
    f(ElementRange{memory.part.first + first, memory.part.first + last},
      Present{present(BufferKind::master), present(BufferKind::moment1), present(BufferKind::moment2)});
    file_->put_back();
  }
  return memory.part.count() * offload_.element_bytes;
}

}  // namespace ridgeline::parallel

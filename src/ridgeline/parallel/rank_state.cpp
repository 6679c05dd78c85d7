#include "ridgeline/parallel/rank_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <mutex>

#include "ridgeline/base/error.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/ops/elementwise.h"

namespace ridgeline::parallel {
namespace {

// What the source gives, in the dtype of `to`.
void write(const StateSource& source, const model::Tensor& tensor, int64_t at, int64_t count, Ref to) {
  if (to.dtype == DType::f32) return source(tensor, at, count, to.as<float>());
  std::vector<float> values(static_cast<size_t>(count));
  source(tensor, at, count, values.data());
  for (int64_t i = 0; i < count; ++i) to.as<bf16>()[i] = bf16(values[static_cast<size_t>(i)]);
}

}  // namespace

RankState::RankState(const RunShape& run, const std::vector<model::Segment>& segments,
                     const std::vector<Program>& programs, const Inventory& inventory, const RankMemory& memory,
                     const RankGroups& groups, device::Stream& stream, const Options& options)
    : run_(run),
      segments_(segments),
      inventory_(inventory),
      memory_(memory),
      groups_(groups),
      stream_(stream),
      offload_(offload_of(run, segments)) {
  if (inventory.file_bytes > 0) open_file(programs, options);
}

void RankState::open_file(const std::vector<Program>& programs, const Options& options) {
  std::vector<OffloadChunk> chunks;
  for (const Program& program : programs) {
    if (!program.trains()) continue;
    std::vector<OffloadChunk> these = chunks_of(offload_, program, segments_, run_.sharding);
    RL_REQUIRE(chunks.empty() || chunks == these, "the programs of a run update in different orders");
    chunks = std::move(these);
  }
  const Buffer& window = *inventory_.find(BufferKind::offload_window, 0, 0, -1);
  file_ = std::make_unique<device::FileStream>(
      device::StateFile(options.offload_folder, inventory_.file_bytes, fmt::format("rank {}", run_.rank)),
      std::span(memory_.address(window), static_cast<size_t>(window.bytes)), offload_.slot_bytes,
      ranges_of(offload_, chunks, inventory_), options.processors);
}

DType RankState::dtype(BufferKind kind) const {
  const auto here = std::find_if(segments_.begin(), segments_.end(), [](const model::Segment& s) { return s.here; });
  return memory_.segment(static_cast<int>(here - segments_.begin())).state(kind).dtype;
}

int64_t RankState::window_elements(BufferKind kind, int parts) const {
  return offload_.window_bytes / (parts * size_of(dtype(kind))) / model::kShardBlock * model::kShardBlock;
}

std::span<std::byte> RankState::window(BufferKind kind, int64_t first, int64_t count) const {
  const int64_t size = size_of(dtype(kind));
  return file_->window().subspan(static_cast<size_t>(first * size), static_cast<size_t>(count * size));
}

int64_t RankState::in_file(BufferKind kind, int segment, int64_t first) const {
  return inventory_.find(kind, segment, 0, -1)->offset + first * size_of(dtype(kind));
}

void RankState::visit(BufferKind kind, int segment, ElementRange range, const StateVisitor& visitor) const {
  const int64_t begin = memory_.segment(segment).part.first;
  if (range.count() <= 0) return;
  if (offload_.find(kind) == nullptr)
    return visitor(range.first, range.count(), memory_.segment(segment).state(kind).at(range.first - begin));
  file_->settle();
  const int64_t most = window_elements(kind, 1);
  const ConstRef values(file_->window().data(), dtype(kind));
  // Whole blocks around what is asked for: a part has no others.
  const int64_t first = (range.first - begin) / model::kShardBlock * model::kShardBlock;
  const int64_t last = (range.last - begin + model::kShardBlock - 1) / model::kShardBlock * model::kShardBlock;
  for (int64_t at = first; at < last; at += most) {
    const int64_t count = std::min(most, last - at);
    file_->file().read(in_file(kind, segment, at), window(kind, 0, count));
    const int64_t from = std::max(range.first, begin + at), to = std::min(range.last, begin + at + count);
    visitor(from, to - from, values.at(from - begin - at));
  }
}

std::vector<float> RankState::collect(BufferKind kind, const model::Tensor& tensor) const {
  std::vector<float> values(static_cast<size_t>(model::element_count(tensor.shape)));
  for (size_t i = 0; i < segments_.size(); ++i) {
    const int segment = static_cast<int>(i);
    if (segments_[i].find(tensor.name) == nullptr || !segments_[i].here || !segments_[i].counts) continue;
    visit(kind, segment, memory_.segment(segment).piece, [&](int64_t first, int64_t count, ConstRef piece) {
      model::for_each_tensor_range(segments_[i], first, first + count,
                                   [&](const model::Tensor& held, int64_t at, int64_t n, int64_t offset) {
                                     if (held.name == tensor.name)
                                       ops::cast(stream_, n, piece.at(offset - first), Ref(values.data() + at));
                                   });
    });
  }
  // Every element comes from one rank; the others add 0.
  comm::Communicator& ranks = *groups_.ranks;
  if (ranks.size() > 1)
    ranks.wait(
        ranks.all_reduce(Ref(values.data()), std::ssize(values), comm::ReduceOp::sum, {"state of a tensor", -1, -1}));
  return values;
}

void RankState::fill(BufferKind kind, const StateSource& source) {
  for (size_t u = 0; u < segments_.size(); ++u) {
    const int segment = static_cast<int>(u);
    if (!segments_[u].here) continue;
    const SegmentMemory& memory = memory_.segment(segment);
    if (offload_.find(kind) != nullptr) {
      fill_file(kind, segment, source);
      continue;
    }
    const Ref own = memory.state(kind);
    fill_range(segment, memory.piece, source, own.at(memory.piece.first - memory.part.first));
    if (groups_.replicas->size() > 1) {
      groups_.replicas->wait(
          groups_.replicas->all_gather(own, memory.piece.count(), {"initial state of segment", segment, -1}));
    }
    if (kind == BufferKind::master && run_.mixed())
      ops::cast(stream_, memory.part.count(), memory.master, memory.own_weights);
  }
}

// Elements of `range`, of which `to` is the first.
void RankState::fill_range(int segment, ElementRange range, const StateSource& source, Ref to) {
  constexpr int64_t kGrain = 1 << 16;
  std::mutex mutex;
  std::exception_ptr failure;
  stream_.team().parallel_for(range.count(), kGrain, [&](int64_t from, int64_t end) {
    try {
      model::for_each_tensor_range(segments_[static_cast<size_t>(segment)], range.first + from, range.first + end,
                                   [&](const model::Tensor& tensor, int64_t at, int64_t count, int64_t offset) {
                                     write(source, tensor, at, count, to.at(offset - range.first));
                                   });
    } catch (...) {
      const std::lock_guard lock(mutex);
      failure = std::current_exception();
    }
  });
  if (failure) std::rethrow_exception(failure);
}

// Through the window, the same step of the pieces of all replicas at a time.
void RankState::fill_file(BufferKind kind, int segment, const StateSource& source) {
  file_->settle();
  const SegmentMemory& memory = memory_.segment(segment);
  const int replicas = groups_.replicas->size();
  const int64_t most = window_elements(kind, replicas), piece = memory.piece.count();
  const Ref all(file_->window().data(), dtype(kind));
  for (int64_t done = 0; done < piece; done += most) {
    const int64_t count = std::min(most, piece - done), first = memory.piece.first + done;
    const Ref own = all.at(groups_.replicas->rank() * count);
    // What belongs to no tensor is zero, as in memory.
    ops::zero(stream_, own.data, count * size_of(own.dtype));
    fill_range(segment, {first, first + count}, source, own);
    if (replicas > 1)
      groups_.replicas->wait(groups_.replicas->all_gather(all, count, {"initial state of segment", segment, -1}));
    for (int replica = 0; replica < replicas; ++replica) {
      const int64_t at = replica * piece + done;
      file_->file().write(in_file(kind, segment, at), window(kind, replica * count, count));
      if (kind == BufferKind::master) ops::cast(stream_, count, all.at(replica * count), memory.own_weights.at(at));
    }
  }
}

void RankState::begin_updates() {
  if (file_) file_->begin_pass();
}

}  // namespace ridgeline::parallel

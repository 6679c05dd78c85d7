// The executor's state: filling and reading what a rank keeps of masters, gradients and moments, in memory or in its
// file.
#include <algorithm>
#include <cstring>
#include <exception>
#include <mutex>

#include "ridgeline/base/error.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/ops/elementwise.h"
#include "ridgeline/parallel/executor_parts.h"

namespace ridgeline::parallel {
namespace {

// What the source gives, in the dtype of `to`.
void write(const Executor::Source& source, const model::Tensor& tensor, int64_t at, int64_t count, Ref to) {
  if (to.dtype == DType::f32) return source(tensor, at, count, to.as<float>());
  std::vector<float> values(static_cast<size_t>(count));
  source(tensor, at, count, values.data());
  for (int64_t i = 0; i < count; ++i) to.as<bf16>()[i] = bf16(values[static_cast<size_t>(i)]);
}

}  // namespace

Ref Executor::in_memory(BufferKind kind, int unit) const {
  const UnitMemory& memory = memory_[static_cast<size_t>(unit)];
  switch (kind) {
    case BufferKind::master:
      return memory.master;
    case BufferKind::gradient:
      return memory.gradient;
    case BufferKind::moment1:
      return memory.moment1;
    case BufferKind::moment2:
      return memory.moment2;
    default:
      RL_REQUIRE(false, "buffer kind {} is no state of a unit", static_cast<int>(kind));
      return {};
  }
}

DType Executor::state_dtype(BufferKind kind) const {
  return in_memory(kind, 0).dtype;
}

int64_t Executor::window_elements(BufferKind kind, int parts) const {
  return offload_.window_bytes / (parts * size_of(state_dtype(kind))) / model::kNormBlock * model::kNormBlock;
}

std::span<std::byte> Executor::window(BufferKind kind, int64_t first, int64_t count) const {
  const int64_t size = size_of(state_dtype(kind));
  return file_->window().subspan(static_cast<size_t>(first * size), static_cast<size_t>(count * size));
}

int64_t Executor::in_file(BufferKind kind, int unit, int64_t first) const {
  return inventory_.find(kind, unit, 0, -1)->offset + first * size_of(state_dtype(kind));
}

void Executor::visit(BufferKind kind, int unit, Range range, const Visitor& visitor) const {
  const int64_t begin = part(unit).first;
  if (range.count() <= 0) return;
  if (offload_.find(kind) == nullptr)
    return visitor(range.first, range.count(), in_memory(kind, unit).at(range.first - begin));
  file_->settle();
  const int64_t most = window_elements(kind, 1);
  const ConstRef values(file_->window().data(), state_dtype(kind));
  // Whole norm blocks around what is asked for: a part has no others.
  const int64_t first = (range.first - begin) / model::kNormBlock * model::kNormBlock;
  const int64_t last = (range.last - begin + model::kNormBlock - 1) / model::kNormBlock * model::kNormBlock;
  for (int64_t at = first; at < last; at += most) {
    const int64_t count = std::min(most, last - at);
    file_->file().read(in_file(kind, unit, at), window(kind, 0, count));
    const int64_t from = std::max(range.first, begin + at), to = std::min(range.last, begin + at + count);
    visitor(from, to - from, values.at(from - begin - at));
  }
}

std::vector<float> Executor::collect(BufferKind kind, int unit) const {
  const UnitMemory& memory = memory_[static_cast<size_t>(unit)];
  std::vector<float> values(static_cast<size_t>(memory.extent.whole));
  visit(kind, unit, memory.part, [&](int64_t first, int64_t count, ConstRef part) {
    ops::cast(stream_, count, part, Ref(values.data() + first));
  });
  if (reduce_->size() > 1)
    reduce_->wait(reduce_->all_gather(Ref(values.data()), memory.part.count(), {"state of unit", unit, -1}));
  return values;
}

void Executor::fill(BufferKind kind, const Source& source) {
  gathered_ = gathered_ && kind != BufferKind::master;
  for (size_t u = 0; u < units_.size(); ++u) {
    const int unit = static_cast<int>(u);
    const UnitMemory& memory = memory_[u];
    if (offload_.find(kind) != nullptr) {
      fill_file(kind, unit, source);
      continue;
    }
    const Ref own = in_memory(kind, unit);
    fill_range(unit, memory.piece, source, own.at(memory.piece.first - memory.part.first));
    if (replicas_->size() > 1) {
      replicas_->wait(replicas_->all_gather(own, memory.piece.count(), {"initial state of unit", unit, -1}));
    }
    if (kind == BufferKind::master && run_.mixed())
      ops::cast(stream_, memory.part.count(), memory.master, memory.own_weights);
  }
}

// Elements of `range`, of which `to` is the first.
void Executor::fill_range(int unit, Range range, const Source& source, Ref to) {
  constexpr int64_t kGrain = 1 << 16;
  std::mutex mutex;
  std::exception_ptr failure;
  stream_.team().parallel_for(range.count(), kGrain, [&](int64_t from, int64_t end) {
    try {
      for_each_tensor_range(units_[static_cast<size_t>(unit)], range.first + from, range.first + end,
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
void Executor::fill_file(BufferKind kind, int unit, const Source& source) {
  file_->settle();
  const UnitMemory& memory = memory_[static_cast<size_t>(unit)];
  const int replicas = replicas_->size();
  const int64_t most = window_elements(kind, replicas), piece = memory.piece.count();
  const Ref all(file_->window().data(), state_dtype(kind));
  for (int64_t done = 0; done < piece; done += most) {
    const int64_t count = std::min(most, piece - done), first = memory.piece.first + done;
    const Ref own = all.at(replicas_->rank() * count);
    // What belongs to no tensor is zero, as in memory.
    ops::zero(stream_, own.data, count * size_of(own.dtype));
    fill_range(unit, {first, first + count}, source, own);
    if (replicas > 1) replicas_->wait(replicas_->all_gather(all, count, {"initial state of unit", unit, -1}));
    for (int replica = 0; replica < replicas; ++replica) {
      const int64_t at = replica * piece + done;
      file_->file().write(in_file(kind, unit, at), window(kind, replica * count, count));
      if (kind == BufferKind::master) ops::cast(stream_, count, all.at(replica * count), memory.own_weights.at(at));
    }
  }
}

}  // namespace ridgeline::parallel

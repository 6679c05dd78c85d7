// Add, accumulate, cast, zero.
#include "ridgeline/ops/elementwise.h"

#include <cstring>

#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/ops/cpu/elementwise_rows.h"
#include "ridgeline/ops/cpu/require.h"
#include "ridgeline/ops/cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ridgeline/ops/cpu/elementwise.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "ridgeline/ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ridgeline::ops::cpu::HWY_NAMESPACE {
namespace {

void add_part(int64_t count, ConstRef a, ConstRef b, Ref out) {
  with_type(a.dtype, [&](auto type) {
    using T = decltype(type);
    map(count, Sum(), out.as<T>(), a.as<T>(), b.as<T>());
  });
}

void cast_part(int64_t count, ConstRef in, Ref out) {
  with_type(in.dtype, [&](auto from) {
    with_type(out.dtype, [&](auto to) { map(count, Same(), out.as<decltype(to)>(), in.as<decltype(from)>()); });
  });
}

void accumulate_part(int64_t count, ConstRef x, float* sum) {
  with_type(x.dtype, [&](auto type) { map(count, Sum(), sum, sum, x.as<decltype(type)>()); });
}

}  // namespace
}  // namespace ridgeline::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ridgeline::ops {
namespace cpu {
HWY_EXPORT(add_part);
HWY_EXPORT(cast_part);
HWY_EXPORT(accumulate_part);

device::Stream& calling_thread() {
  static device::WorkerTeam team(1);
  static device::Stream stream(team);
  return stream;
}

}  // namespace cpu

namespace {

// Elements below which waking another member costs more than it saves; whole cache lines in every dtype.
constexpr int64_t kGrain = 16384;

}  // namespace

void add(device::Stream& stream, int64_t count, ConstRef a, ConstRef b, Ref out) {
  cpu::require_float(a);
  cpu::require_one_dtype(a, b);
  cpu::require_one_dtype(a, out);
  cpu::agree_on_targets();
  const auto part = HWY_DYNAMIC_DISPATCH(cpu::add_part);
  stream.team().parallel_for(
      count, kGrain, [&](int64_t first, int64_t last) { part(last - first, a.at(first), b.at(first), out.at(first)); });
}

void cast(device::Stream& stream, int64_t count, ConstRef in, Ref out) {
  if (in.dtype == out.dtype) {
    stream.team().parallel_for(count, kGrain, [&](int64_t first, int64_t last) {
      std::memcpy(out.at(first).data, in.at(first).data, static_cast<size_t>((last - first) * size_of(in.dtype)));
    });
    return;
  }
  cpu::require_float(in);
  cpu::require_float(out);
  cpu::agree_on_targets();
  const auto part = HWY_DYNAMIC_DISPATCH(cpu::cast_part);
  stream.team().parallel_for(count, kGrain,
                             [&](int64_t first, int64_t last) { part(last - first, in.at(first), out.at(first)); });
}

void accumulate(device::Stream& stream, int64_t count, ConstRef x, float* sum) {
  cpu::require_float(x);
  cpu::agree_on_targets();
  const auto part = HWY_DYNAMIC_DISPATCH(cpu::accumulate_part);
  stream.team().parallel_for(count, kGrain,
                             [&](int64_t first, int64_t last) { part(last - first, x.at(first), sum + first); });
}

void zero(device::Stream& stream, void* data, int64_t bytes) {
  stream.team().parallel_for(bytes, 4 * kGrain, [&](int64_t first, int64_t last) {
    std::memset(static_cast<char*>(data) + first, 0, static_cast<size_t>(last - first));
  });
}

}  // namespace ridgeline::ops
#endif

#include "ridgeline/base/error.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/ops/cpu/simd_targets.h"
#include "ridgeline/ops/elementwise.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ridgeline/ops/cpu/accumulate.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "ridgeline/ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ridgeline::ops::cpu::HWY_NAMESPACE {
namespace {

template <typename T>
HWY_INLINE void add_to(int64_t count, const T* x, float* sum) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(hn::Add(load(sum + i), load(x + i)), sum + i);
  const int64_t rest = count - i;
  if (rest > 0) store_part(hn::Add(load_part(sum + i, rest), load_part(x + i, rest)), sum + i, rest);
}

void accumulate_part(int64_t count, ConstRef x, float* sum) {
  if (x.dtype == DType::f32) return add_to(count, x.as<float>(), sum);
  add_to(count, x.as<bf16>(), sum);
}

}  // namespace
}  // namespace ridgeline::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ridgeline::ops {
namespace cpu {
HWY_EXPORT(accumulate_part);
}  // namespace cpu

void accumulate(device::Stream& stream, int64_t count, ConstRef x, float* sum) {
  constexpr int64_t kGrain = 16384;
  RL_REQUIRE(x.dtype == DType::f32 || x.dtype == DType::bf16, "dtype {}", name_of(x.dtype));
  cpu::agree_on_targets();
  const auto part = HWY_DYNAMIC_DISPATCH(cpu::accumulate_part);
  stream.team().parallel_for(count, kGrain,
                             [&](int64_t first, int64_t last) { part(last - first, x.at(first), sum + first); });
}

}  // namespace ridgeline::ops
#endif

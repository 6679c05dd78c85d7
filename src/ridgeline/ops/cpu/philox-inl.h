// Philox4x32-10 (base/random.h) in vectors. Included once per target, after simd-inl.h, like it.

// NOLINTNEXTLINE(llvm-header-guard)
#if defined(RIDGELINE_OPS_CPU_PHILOX_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef RIDGELINE_OPS_CPU_PHILOX_INL_H
#undef RIDGELINE_OPS_CPU_PHILOX_INL_H
#else
#define RIDGELINE_OPS_CPU_PHILOX_INL_H
#endif

#include "ridgeline/base/random.h"
#include "ridgeline/ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ridgeline::ops::cpu::HWY_NAMESPACE {

// The key, and the three words of the counter that stay the same.
struct PhiloxPlace {
  uint64_t key;
  uint32_t c1, c2, c3;
};

#if HWY_TARGET != HWY_SCALAR

using U64 = hn::ScalableTag<uint64_t>;
using Words = hn::Vec<U64>;
constexpr int64_t kCounters = static_cast<int64_t>(hn::MaxLanes(U64()));

// The product of the lower halves of the 64-bit lanes.
HWY_INLINE Words multiply(Words a, uint32_t b) {
  const U32 u;
  return hn::MulEven(hn::BitCast(u, a), hn::BitCast(u, hn::Set(U64(), b)));
}

// The 4 * kCounters words of the counters {first + lane, c1, c2, c3} in order, as two vectors.
// Each 64-bit lane carries one counter; what stands in the upper halves between rounds is never read. Lane 2b works on
// counter b and lane 2b + 1 on counter kCounters/2 + b, so that interleaving pairs inside 128-bit blocks ends in order.
HWY_INLINE void draw(const PhiloxPlace& place, uint32_t first, hn::Vec<U32>& lower, hn::Vec<U32>& upper) {
  const U64 d;
  HWY_ALIGN uint64_t counters[kCounters];
  for (int64_t b = 0; b < kCounters / 2; ++b) {
    counters[2 * b] = first + static_cast<uint64_t>(b);
    counters[2 * b + 1] = first + static_cast<uint64_t>(kCounters / 2 + b);
  }
  Words c0 = hn::Load(d, counters), c1 = hn::Set(d, place.c1), c2 = hn::Set(d, place.c2), c3 = hn::Set(d, place.c3);
  uint32_t k0 = static_cast<uint32_t>(place.key), k1 = static_cast<uint32_t>(place.key >> 32);
  for (int round = 0; round < 10; ++round) {
    const Words p0 = multiply(c0, 0xD2511F53U), p1 = multiply(c2, 0xCD9E8D57U);
    c0 = hn::Xor(hn::Xor(hn::ShiftRight<32>(p1), c1), hn::Set(d, k0));
    c1 = p1;
    c2 = hn::Xor(hn::Xor(hn::ShiftRight<32>(p0), c3), hn::Set(d, k1));
    c3 = p0;
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
  const Words low = hn::Set(d, 0xFFFFFFFFU);
  const Words w01 = hn::Or(hn::And(c0, low), hn::ShiftLeft<32>(c1));
  const Words w23 = hn::Or(hn::And(c2, low), hn::ShiftLeft<32>(c3));
  lower = hn::BitCast(U32(), hn::InterleaveLower(d, w01, w23));
  upper = hn::BitCast(U32(), hn::InterleaveUpper(d, w01, w23));
}

#endif

}  // namespace ridgeline::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

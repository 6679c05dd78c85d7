// Vectors of floats for the element-wise operators: loads and stores that convert bf16 and f16, sums, exp. Included
// once per target, inside the translation units that hwy/foreach_target.h compiles again for each (so no include guard
// of the usual kind). All arithmetic is fp32; fused multiply-adds only where MulAdd is written.

// NOLINTNEXTLINE(llvm-header-guard)
#if defined(RIDGELINE_OPS_CPU_SIMD_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef RIDGELINE_OPS_CPU_SIMD_INL_H
#undef RIDGELINE_OPS_CPU_SIMD_INL_H
#else
#define RIDGELINE_OPS_CPU_SIMD_INL_H
#endif

#include <cstdint>
#include <cstring>

#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "ridgeline/base/dtype.h"
#include "ridgeline/base/error.h"

HWY_BEFORE_NAMESPACE();
namespace ridgeline::ops::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::ScalableTag<float>;
using Floats = hn::Vec<F32>;
using I32 = hn::RebindToSigned<F32>;
using U32 = hn::RebindToUnsigned<F32>;
using U16 = hn::Rebind<uint16_t, F32>;
using F16 = hn::Rebind<hwy::float16_t, F32>;
constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(F32()));

HWY_INLINE Floats set(float value) {
  return hn::Set(F32(), value);
}
HWY_INLINE Floats zeros() {
  return hn::Zero(F32());
}

// ---- bf16 -------------------------------------------------------------------------------------------------------

HWY_INLINE Floats from_bf16(hn::Vec<U16> bits) {
  return hn::BitCast(F32(), hn::ShiftLeft<16>(hn::PromoteTo(U32(), bits)));
}

// Round to nearest, ties to even; NaN stays a quiet NaN. The AVX512-BF16 instruction would flush subnormals.
HWY_INLINE hn::Vec<U16> to_bf16(Floats value) {
  const U32 u;
  const auto bits = hn::BitCast(u, value);
  const auto upper = hn::ShiftRight<16>(bits);
  const auto odd = hn::And(upper, hn::Set(u, 1));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(u, 0x7fff))));
  const auto quiet = hn::Or(upper, hn::Set(u, 0x40));
  const auto nan = hn::RebindMask(u, hn::IsNaN(value));
  return hn::TruncateTo(U16(), hn::IfThenElse(nan, quiet, rounded));
}

// ---- f16 --------------------------------------------------------------------------------------------------------

HWY_INLINE Floats from_f16(hn::Vec<U16> bits) {
#if HWY_TARGET == HWY_SCALAR
  // Highway's emulation flushes subnormals.
  f16 half;
  half.bits = hn::GetLane(bits);
  return hn::Set(F32(), static_cast<float>(half));
#else
  return hn::PromoteTo(F32(), hn::BitCast(F16(), bits));
#endif
}

// Round to nearest, ties to even; infinity beyond 65504; subnormals are kept.
HWY_INLINE hn::Vec<U16> to_f16(Floats value) {
#if HWY_TARGET == HWY_SCALAR
  return hn::Set(U16(), f16(hn::GetLane(value)).bits);
#else
  return hn::BitCast(U16(), hn::DemoteTo(F16(), value));
#endif
}

// ---- loads and stores -------------------------------------------------------------------------------------------

HWY_INLINE Floats load(const float* from) {
  return hn::LoadU(F32(), from);
}
HWY_INLINE Floats load(const bf16* from) {
  return from_bf16(hn::LoadU(U16(), reinterpret_cast<const uint16_t*>(from)));
}
HWY_INLINE Floats load(const f16* from) {
  return from_f16(hn::LoadU(U16(), reinterpret_cast<const uint16_t*>(from)));
}
HWY_INLINE void store(Floats value, float* to) {
  hn::StoreU(value, F32(), to);
}
HWY_INLINE void store(Floats value, bf16* to) {
  hn::StoreU(to_bf16(value), U16(), reinterpret_cast<uint16_t*>(to));
}
HWY_INLINE void store(Floats value, f16* to) {
  hn::StoreU(to_f16(value), U16(), reinterpret_cast<uint16_t*>(to));
}

// The first `count` < kLanes elements; the other lanes are 0. Through a buffer: masked loads of 16-bit lanes may touch
// what lies behind on some targets.
template <typename T>
HWY_INLINE Floats load_part(const T* from, int64_t count) {
  HWY_ALIGN T buffer[kLanes] = {};
  std::memcpy(buffer, from, static_cast<size_t>(count) * sizeof(T));
  return load(buffer);
}
template <typename T>
HWY_INLINE void store_part(Floats value, T* to, int64_t count) {
  HWY_ALIGN T buffer[kLanes];
  store(value, buffer);
  std::memcpy(to, buffer, static_cast<size_t>(count) * sizeof(T));
}

// `value` with the lanes from `count` on set to 0.
HWY_INLINE Floats first_lanes(Floats value, int64_t count) {
  return hn::IfThenElseZero(hn::FirstN(F32(), static_cast<size_t>(count)), value);
}

// What a value is when it has been stored as T and read back.
HWY_INLINE Floats as_stored(Floats value, const float*) {
  return value;
}
HWY_INLINE Floats as_stored(Floats value, const bf16*) {
  return from_bf16(to_bf16(value));
}
HWY_INLINE Floats as_stored(Floats value, const f16*) {
  return from_f16(to_f16(value));
}

// f(T()) with T the storage type of `dtype`: float, bf16 or f16.
template <class F>
HWY_INLINE auto with_type(DType dtype, const F& f) {
  switch (dtype) {
    case DType::f32:
      return f(float());
    case DType::bf16:
      return f(bf16());
    case DType::f16:
      return f(f16());
    case DType::f64:
    case DType::u8:
    case DType::u16:
    case DType::i32:
    case DType::i64:
      break;
  }
  RL_NO_CASE(dtype);
}

// ---- element by element -----------------------------------------------------------------------------------------

// out[i] = op(in[i]...) for i < count; `out` may be one of `in`.
template <class Op, typename Out, typename... In>
HWY_INLINE void map(int64_t count, Op op, Out* out, const In*... in) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(op(load(in + i)...), out + i);
  if (const int64_t rest = count - i; rest > 0) store_part(op(load_part(in + i, rest)...), out + i, rest);
}

struct Same {
  HWY_INLINE Floats operator()(Floats x) const { return x; }
};
struct Sum {
  HWY_INLINE Floats operator()(Floats a, Floats b) const { return hn::Add(a, b); }
};

// ---- sums -------------------------------------------------------------------------------------------------------

HWY_INLINE float sum_of_lanes(Floats value) {
  return hn::GetLane(hn::SumOfLanes(F32(), value));
}
HWY_INLINE float max_of_lanes(Floats value) {
  return hn::GetLane(hn::MaxOfLanes(F32(), value));
}

// ---- exp --------------------------------------------------------------------------------------------------------

// e^x with a relative error below 2^-22 for x in [-87, 88]; 0 below -88; NaN stays NaN; not for x > 88.
// x = n ln 2 + r with |r| <= ln(2)/2; e^r by a polynomial of degree 6 (least squares for the relative error, 2^-28).
HWY_INLINE Floats exp(Floats x) {
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits; 127 more make it the exponent field of 2^n.
  const Floats magic = set(12582912.0F + 127.0F);
  const Floats shifted = hn::MulAdd(x, set(1.44269502F), magic);
  const Floats n = hn::Sub(shifted, magic);
  Floats r = hn::NegMulAdd(n, set(0x1.62e4p-1F), x);
  r = hn::NegMulAdd(n, set(0x1.7f7d1cp-20F), r);
  Floats p = hn::MulAdd(set(0x1.685188p-10F), r, set(0x1.123bdep-7F));
  p = hn::MulAdd(p, r, set(0x1.555b98p-5F));
  p = hn::MulAdd(p, r, set(0x1.55548ep-3F));
  p = hn::MulAdd(p, r, set(0x1.fffff8p-2F));
  p = hn::MulAdd(p, r, set(1.0F));
  p = hn::MulAdd(p, r, set(1.0F));
  const Floats power = hn::BitCast(F32(), hn::ShiftLeft<23>(hn::BitCast(U32(), shifted)));
  // Not a maximum on x, which would lose NaN on some targets.
  return hn::IfThenZeroElse(hn::Lt(x, set(-88.0F)), hn::Mul(p, power));
}

}  // namespace ridgeline::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

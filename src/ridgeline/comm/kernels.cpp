#include "ridgeline/comm/kernels.h"

#include <cstring>
#include <type_traits>

#include "ridgeline/base/error.h"
#include "ridgeline/device/cpu/vector_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ridgeline/comm/kernels.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace ridgeline::comm::detail {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <typename T>
using Accumulator = std::conditional_t<std::is_same_v<T, bf16> || std::is_same_v<T, f16>, float, T>;

template <class D>
HWY_INLINE hn::Vec<D> load(D d, const hn::TFromD<D>* from) {
  return hn::LoadU(d, from);
}
HWY_INLINE hn::Vec<hn::ScalableTag<float>> load(hn::ScalableTag<float> d, const bf16* from) {
  const hn::Rebind<uint16_t, decltype(d)> d16;
  const hn::RebindToUnsigned<decltype(d)> d32;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, &from->bits))));
}

// The same rounding as base's bf16(float).
HWY_INLINE auto rounded(hn::ScalableTag<float> d, hn::Vec<hn::ScalableTag<float>> value) {
  const hn::RebindToUnsigned<decltype(d)> d32;
  const hn::RebindToSigned<decltype(d)> di32;
  const hn::Rebind<uint16_t, decltype(d)> d16;
  const auto u = hn::BitCast(d32, value);
  const auto odd = hn::And(hn::ShiftRight<16>(u), hn::Set(d32, 1U));
  const auto near = hn::ShiftRight<16>(hn::Add(u, hn::Add(odd, hn::Set(d32, 0x7fffU))));
  const auto quiet = hn::Or(hn::ShiftRight<16>(u), hn::Set(d32, 0x40U));
  const auto bits = hn::IfThenElse(hn::RebindMask(d32, hn::IsNaN(value)), quiet, near);
  return hn::DemoteTo(d16, hn::BitCast(di32, bits));
}

using F32 = hn::ScalableTag<float>;
using F16Bits = hn::Rebind<uint16_t, F32>;

// Conversions of f16 with the bits of base's f16: by instruction where there is one, else as base writes them
// (Highway's own emulation flushes subnormals).
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
HWY_INLINE hn::Vec<F32> from_f16(hn::Vec<F16Bits> bits) {
  return hn::PromoteTo(F32(), hn::BitCast(hn::Rebind<hwy::float16_t, F32>(), bits));
}
HWY_INLINE hn::Vec<F16Bits> to_f16(hn::Vec<F32> value) {
  return hn::BitCast(F16Bits(), hn::DemoteTo(hn::Rebind<hwy::float16_t, F32>(), value));
}
#else
HWY_INLINE hn::Vec<F32> from_f16(hn::Vec<F16Bits> bits) {
  const F32 d;
  const hn::RebindToUnsigned<F32> u;
  const hn::RebindToSigned<F32> i;
  const auto wide = hn::PromoteTo(u, bits);
  const auto magnitude = hn::And(wide, hn::Set(u, 0x7fffU));
  const auto sign = hn::ShiftLeft<16>(hn::And(wide, hn::Set(u, 0x8000U)));
  const auto shifted = hn::ShiftLeft<13>(magnitude);
  const auto small = hn::BitCast(u, hn::Mul(hn::ConvertTo(d, hn::BitCast(i, magnitude)), hn::Set(d, 0x1p-24F)));
  auto result = hn::Add(shifted, hn::Set(u, 0x38000000U));
  result = hn::IfThenElse(hn::Gt(hn::Set(u, 0x400U), magnitude), small, result);
  const auto special = hn::Or(shifted, hn::Set(u, 0x7f800000U));
  result = hn::IfThenElse(hn::Gt(magnitude, hn::Set(u, 0x7bffU)), special, result);
  result = hn::IfThenElse(hn::Gt(magnitude, hn::Set(u, 0x7c00U)), hn::Or(special, hn::Set(u, 0x400000U)), result);
  return hn::BitCast(d, hn::Or(result, sign));
}
HWY_INLINE hn::Vec<F16Bits> to_f16(hn::Vec<F32> value) {
  const F32 d;
  const hn::RebindToUnsigned<F32> u;
  const hn::RebindToSigned<F32> i;
  const auto bits = hn::BitCast(u, value);
  const auto magnitude = hn::And(bits, hn::Set(u, 0x7fffffffU));
  const auto sign = hn::And(hn::ShiftRight<16>(bits), hn::Set(u, 0x8000U));
  const auto odd = hn::And(hn::ShiftRight<13>(magnitude), hn::Set(u, 1U));
  auto result =
      hn::ShiftRight<13>(hn::Add(hn::Sub(magnitude, hn::Set(u, 0x38000000U)), hn::Add(odd, hn::Set(u, 0xfffU))));
  const auto small =
      hn::Sub(hn::BitCast(u, hn::Add(hn::BitCast(d, magnitude), hn::Set(d, 0.5F))), hn::Set(u, 0x3f000000U));
  result = hn::IfThenElse(hn::Gt(hn::Set(u, 0x38800000U), magnitude), small, result);
  result = hn::IfThenElse(hn::Gt(magnitude, hn::Set(u, 0x477fefffU)), hn::Set(u, 0x7c00U), result);
  const auto nan = hn::Or(hn::Set(u, 0x7e00U), hn::And(hn::ShiftRight<13>(magnitude), hn::Set(u, 0x3ffU)));
  result = hn::IfThenElse(hn::Gt(magnitude, hn::Set(u, 0x7f800000U)), nan, result);
  return hn::DemoteTo(F16Bits(), hn::BitCast(i, hn::Or(result, sign)));
}
#endif
HWY_INLINE hn::Vec<F32> load(F32, const f16* from) {
  return from_f16(hn::LoadU(F16Bits(), &from->bits));
}

template <class D>
HWY_INLINE void store(D d, hn::Vec<D> value, hn::TFromD<D>* to) {
  hn::StoreU(value, d, to);
}
HWY_INLINE void store(hn::ScalableTag<float> d, hn::Vec<hn::ScalableTag<float>> value, bf16* to) {
  const hn::Rebind<uint16_t, decltype(d)> d16;
  store(d16, rounded(d, value), &to->bits);
}
HWY_INLINE void store(F32, hn::Vec<F32> value, f16* to) {
  store(F16Bits(), to_f16(value), &to->bits);
}

template <ReduceOp kOp, class D>
HWY_INLINE hn::Vec<D> combine([[maybe_unused]] D d, hn::Vec<D> left, hn::Vec<D> right) {
  if constexpr (kOp == ReduceOp::sum) {
    return hn::Add(left, right);
  } else {
    auto take = kOp == ReduceOp::max ? hn::Gt(right, left) : hn::Gt(left, right);
    if constexpr (std::is_floating_point_v<hn::TFromD<D>>) take = hn::Or(take, hn::IsNaN(right));
    return hn::IfThenElse(take, right, left);
  }
}
template <ReduceOp kOp, typename T>
T combine_one(T left, T right) {
  if constexpr (kOp == ReduceOp::sum) {
    if constexpr (std::is_same_v<T, int64_t>) {
      return static_cast<int64_t>(static_cast<uint64_t>(left) + static_cast<uint64_t>(right));
    } else {
      return left + right;
    }
  } else {
    bool take = kOp == ReduceOp::max ? right > left : left > right;
    if constexpr (std::is_floating_point_v<T>) take = take || right != right;
    return take ? right : left;
  }
}

template <typename In, typename Out, ReduceOp kOp>
void reduce_scalar(const Reduction& job, int64_t begin, int64_t end) {
  using Acc = Accumulator<In>;
  for (int64_t i = begin; i < end; ++i) {
    const auto at = [&](size_t r) { return static_cast<Acc>(static_cast<const In*>(job.sources[r])[i]); };
    Acc total{};
    size_t source = 0;
    for (size_t group = 0; group < job.group_sizes.size(); ++group) {
      const size_t last = source + static_cast<size_t>(job.group_sizes[group]);
      Acc part = at(source++);
      while (source < last) part = combine_one<kOp>(part, at(source++));
      total = group == 0 ? part : combine_one<kOp>(total, part);
    }
    for (void* output : job.outputs) static_cast<Out*>(output)[i] = static_cast<Out>(total);
  }
}

// Two sources and one or two outputs in place: what two ranks do all day. Kept apart so that its loop is straight.
template <typename T, ReduceOp kOp>
int64_t reduce_pair(const Reduction& job, int64_t i) {
  using Acc = Accumulator<T>;
  const hn::ScalableTag<Acc> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const T* left = static_cast<const T*>(job.sources[0]);
  const T* right = static_cast<const T*>(job.sources[1]);
  T* first = static_cast<T*>(job.outputs[0]);
  T* second = static_cast<T*>(job.outputs[1]);
  for (; i + 4 * lanes <= job.count; i += 4 * lanes) {
    const auto a = combine<kOp>(d, load(d, left + i), load(d, right + i));
    const auto b = combine<kOp>(d, load(d, left + i + lanes), load(d, right + i + lanes));
    const auto c = combine<kOp>(d, load(d, left + i + 2 * lanes), load(d, right + i + 2 * lanes));
    const auto e = combine<kOp>(d, load(d, left + i + 3 * lanes), load(d, right + i + 3 * lanes));
    for (T* to : {first + i, second + i}) {
      store(d, a, to);
      store(d, b, to + lanes);
      store(d, c, to + 2 * lanes);
      store(d, e, to + 3 * lanes);
    }
  }
  return i;
}

template <typename In, typename Out, ReduceOp kOp>
int64_t reduce_vectors(const Reduction& job, int64_t i) {
  using Acc = Accumulator<In>;
  const hn::ScalableTag<Acc> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  if constexpr (std::is_same_v<In, Out>) {
    if (job.sources.size() == 2 && job.outputs.size() == 2 && job.group_sizes.size() == 1) {
      i = reduce_pair<In, kOp>(job, i);
    }
  }
  for (; i + 2 * lanes <= job.count; i += 2 * lanes) {
    auto total0 = hn::Zero(d), total1 = hn::Zero(d);
    size_t source = 0;
    for (size_t group = 0; group < job.group_sizes.size(); ++group) {
      const size_t last = source + static_cast<size_t>(job.group_sizes[group]);
      const In* from = static_cast<const In*>(job.sources[source++]) + i;
      auto part0 = load(d, from), part1 = load(d, from + lanes);
      while (source < last) {
        from = static_cast<const In*>(job.sources[source++]) + i;
        part0 = combine<kOp>(d, part0, load(d, from));
        part1 = combine<kOp>(d, part1, load(d, from + lanes));
      }
      total0 = group == 0 ? part0 : combine<kOp>(d, total0, part0);
      total1 = group == 0 ? part1 : combine<kOp>(d, total1, part1);
    }
    for (void* output : job.outputs) {
      Out* to = static_cast<Out*>(output) + i;
      store(d, total0, to);
      store(d, total1, to + lanes);
    }
  }
  return i;
}

template <typename In, typename Out, ReduceOp kOp>
void reduce_as(const Reduction& job) {
  // Ordinary stores: the lines were just read, and writing them past the caches is a third slower.
  const int64_t done = reduce_vectors<In, Out, kOp>(job, 0);
  reduce_scalar<In, Out, kOp>(job, done, job.count);
}

template <typename In, typename Out>
void reduce_typed(const Reduction& job) {
  switch (job.op) {
    case ReduceOp::sum:
      return reduce_as<In, Out, ReduceOp::sum>(job);
    case ReduceOp::max:
      return reduce_as<In, Out, ReduceOp::max>(job);
    case ReduceOp::min:
      return reduce_as<In, Out, ReduceOp::min>(job);
  }
}

void reduce_target(const Reduction& job) {
  const bool to_f32 = job.output == DType::f32;
  if (job.input == DType::f32) {
    if (job.output == DType::bf16) return reduce_typed<float, bf16>(job);
    if (job.output == DType::f16) return reduce_typed<float, f16>(job);
    return reduce_typed<float, float>(job);
  }
  if (job.input == DType::f16) return to_f32 ? reduce_typed<f16, float>(job) : reduce_typed<f16, f16>(job);
  if (job.input == DType::bf16) return to_f32 ? reduce_typed<bf16, float>(job) : reduce_typed<bf16, bf16>(job);
  if (job.input == DType::f64) return reduce_typed<double, double>(job);
  reduce_typed<int64_t, int64_t>(job);
}

// One block at a time stays in the first-level cache, so the source leaves memory once however many outputs there are.
void copy_target(const void* source, std::span<void* const> outputs, int64_t bytes, bool streaming) {
  constexpr int64_t kBlock = 8192;
  const hn::ScalableTag<uint8_t> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto* from = static_cast<const uint8_t*>(source);
  for (int64_t begin = 0; begin < bytes; begin += kBlock) {
    const int64_t length = bytes - begin < kBlock ? bytes - begin : kBlock;
    for (void* output : outputs) {
      uint8_t* to = static_cast<uint8_t*>(output) + begin;
      if (!streaming || reinterpret_cast<uintptr_t>(to) % 64 != 0) {
        std::memcpy(to, from + begin, static_cast<size_t>(length));
        continue;
      }
      int64_t i = 0;
      for (; i + lanes <= length; i += lanes) hn::Stream(hn::LoadU(d, from + begin + i), d, to + i);
      if (i < length) std::memcpy(to + i, from + begin + i, static_cast<size_t>(length - i));
    }
  }
  if (streaming) hwy::FlushStream();
}

}  // namespace HWY_NAMESPACE
}  // namespace ridgeline::comm::detail
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ridgeline::comm::detail {

HWY_EXPORT(reduce_target);
HWY_EXPORT(copy_target);

void reduce(const Reduction& reduction) {
  if (reduction.count <= 0 || reduction.outputs.empty()) return;
  HWY_DYNAMIC_DISPATCH(reduce_target)(reduction);
}

void copy(const void* source, std::span<void* const> outputs, int64_t bytes, bool streaming) {
  if (bytes <= 0 || outputs.empty()) return;
  HWY_DYNAMIC_DISPATCH(copy_target)(source, outputs, bytes, streaming);
}

bool reducible(DType dtype) {
  return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16 || dtype == DType::f64 ||
         dtype == DType::i64;
}
DType accumulator(DType dtype) {
  return dtype == DType::bf16 || dtype == DType::f16 ? DType::f32 : dtype;
}

}  // namespace ridgeline::comm::detail
#endif

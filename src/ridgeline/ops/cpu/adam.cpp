#include "ridgeline/ops/adam.h"

#include <cmath>
#include <cstdint>
#include <cstring>

#include "ridgeline/base/error.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/ops/cpu/require.h"
#include "ridgeline/ops/cpu/simd_targets.h"

#ifndef RIDGELINE_OPS_CPU_ADAM_FACTORS  // this file is included once per target
#define RIDGELINE_OPS_CPU_ADAM_FACTORS
namespace ridgeline::ops::cpu {

struct AdamArrays {
  Ref master, gradient, m, v;
  Ref copy;  // may be null
  uint64_t rounding_key;
  AdamRounding rounding;
};

// What the formula needs per element, computed once in double.
struct AdamFactors {
  float beta1, one_minus_beta1, beta2, one_minus_beta2;
  float gradient_scale, l2;                       // g = gradient * scale + l2 * p
  float step, inverse_root_correction2, epsilon;  // step = learning_rate / correction1
  float decay;                                    // learning_rate * weight_decay of the decoupled form
  bool zero_gradient, stream_copy;
};

}  // namespace ridgeline::ops::cpu
#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ridgeline/ops/cpu/adam.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "ridgeline/ops/cpu/philox-inl.h"
#include "ridgeline/ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ridgeline::ops::cpu::HWY_NAMESPACE {
namespace {

struct AdamState {
  Floats p, m, v;
};

HWY_INLINE AdamState step(AdamState s, Floats gradient, const AdamFactors& f) {
  const Floats g = hn::MulAdd(set(f.l2), s.p, hn::Mul(gradient, set(f.gradient_scale)));
  s.m = hn::MulAdd(set(f.one_minus_beta1), g, hn::Mul(set(f.beta1), s.m));
  s.v = hn::MulAdd(hn::Mul(set(f.one_minus_beta2), g), g, hn::Mul(set(f.beta2), s.v));
  const Floats root = hn::MulAdd(hn::Sqrt(s.v), set(f.inverse_root_correction2), set(f.epsilon));
  const Floats update = hn::Div(hn::Mul(set(f.step), s.m), root);
  s.p = hn::Sub(hn::NegMulAdd(set(f.decay), s.p, s.p), update);
  return s;
}

HWY_INLINE hn::Vec<U16> bits_of(Floats value, const bf16*) {
  return to_bf16(value);
}
HWY_INLINE hn::Vec<U16> bits_of(Floats value, const f16*) {
  return to_f16(value);
}

// ---- master, m and v in f32 -------------------------------------------------------------------------------------

template <typename G, typename C>
struct WideArrays {
  explicit WideArrays(const AdamArrays& a)
      : master(a.master.as<float>()),
        m(a.m.as<float>()),
        v(a.v.as<float>()),
        gradient(a.gradient.as<G>()),
        copy(a.copy.as<C>()) {}
  float *master, *m, *v;
  G* gradient;
  C* copy;
};

template <typename G, typename C>
HWY_INLINE void adam_vector(const WideArrays<G, C>& a, const AdamFactors& f, int64_t i) {
  const AdamState s = step({load(a.master + i), load(a.m + i), load(a.v + i)}, load(a.gradient + i), f);
  store(s.p, a.master + i);
  store(s.m, a.m + i);
  store(s.v, a.v + i);
  if (f.zero_gradient) store(zeros(), a.gradient + i);
  if (a.copy == nullptr) return;
  if (f.stream_copy) {
    hn::Stream(bits_of(s.p, a.copy), U16(), reinterpret_cast<uint16_t*>(a.copy + i));
  } else {
    store(s.p, a.copy + i);
  }
}

template <typename G, typename C>
HWY_INLINE void adam_rest(const WideArrays<G, C>& a, const AdamFactors& f, int64_t i, int64_t rest) {
  const AdamState s = step({load_part(a.master + i, rest), load_part(a.m + i, rest), load_part(a.v + i, rest)},
                           load_part(a.gradient + i, rest), f);
  store_part(s.p, a.master + i, rest);
  store_part(s.m, a.m + i, rest);
  store_part(s.v, a.v + i, rest);
  if (f.zero_gradient) store_part(zeros(), a.gradient + i, rest);
  if (a.copy != nullptr) store_part(s.p, a.copy + i, rest);
}

template <typename G, typename C>
void adam_wide(const AdamArrays& arrays, AdamFactors f, int64_t first, int64_t last) {
  const WideArrays<G, C> a(arrays);
  // Streaming stores need aligned addresses; ranges of a segment start at multiples of its block, so they have them.
  constexpr uintptr_t kBytes = static_cast<uintptr_t>(kLanes) * sizeof(C);
  f.stream_copy = f.stream_copy && reinterpret_cast<uintptr_t>(a.copy + first) % kBytes == 0;
  int64_t i = first;
  for (; i + kLanes <= last; i += kLanes) adam_vector(a, f, i);
  if (i < last) adam_rest(a, f, i, last - i);
  if (f.stream_copy) hwy::FlushStream();
}

// ---- other forms: block by block through fp32 in the first-level cache --------------------------------------------

constexpr int64_t kBlock = 512;

HWY_INLINE void read(Ref from, int64_t first, int64_t count, float* to) {
  with_type(from.dtype, [&](auto type) {
    const auto* x = from.as<decltype(type)>() + first;
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) store(load(x + i), to + i);
    if (i < count) store(load_part(x + i, count - i), to + i);
  });
}

// Rounds to nearest.
HWY_INLINE void write(const float* from, int64_t count, Ref to, int64_t first) {
  with_type(to.dtype, [&](auto type) { map(count, Same(), to.as<decltype(type)>() + first, from); });
}

// The random halves of elements `first` … first + count - 1 of the tensor; the answer lies in `buffer`.
constexpr int64_t kGroup = 4 * kLanes > 8 ? 4 * kLanes : 8;  // what one draw gives
HWY_INLINE const uint16_t* rounding_halves(const AdamArrays& a, int64_t first, int64_t count, uint16_t* buffer) {
  const int64_t start = first / kGroup * kGroup;
  for (int64_t i = start; i < first + count; i += kGroup) {
    const auto counter = static_cast<uint64_t>(i) / 8;
    const auto high = static_cast<uint32_t>(counter >> 32);
    const auto tensor = static_cast<uint32_t>(a.rounding.tensor),
               tensor_high = static_cast<uint32_t>(a.rounding.tensor >> 32);
    uint16_t* to = buffer + (i - start);
#if HWY_TARGET == HWY_SCALAR
    const Philox4 words = philox(a.rounding_key, {static_cast<uint32_t>(counter), high, tensor, tensor_high});
    for (int64_t k = 0; k < 8; ++k) to[k] = static_cast<uint16_t>(words[k / 2] >> (k % 2 * 16));
#else
    hn::Vec<U32> lower, upper;
    draw({a.rounding_key, high, tensor, tensor_high}, static_cast<uint32_t>(counter), lower, upper);
    const hn::ScalableTag<uint16_t> halves;  // as they lie: the lower half of a word first
    hn::StoreU(hn::BitCast(halves, lower), halves, to);
    hn::StoreU(hn::BitCast(halves, upper), halves, to + 2 * kLanes);
#endif
  }
  return buffer + (first - start);
}

// Adds random bits below the last place and cuts: up with probability (dropped bits) / 2^16. Infinities stay, NaN too.
HWY_INLINE hn::Vec<U16> to_bf16_stochastically(Floats value, hn::Vec<U16> random) {
  const U32 u;
  const auto bits = hn::BitCast(u, value);
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::PromoteTo(u, random)));
  const auto quiet = hn::Or(hn::ShiftRight<16>(bits), hn::Set(u, 0x40));
  return hn::TruncateTo(U16(), hn::IfThenElse(hn::RebindMask(u, hn::IsNaN(value)), quiet, rounded));
}

// Rounds p stochastically, and leaves in it the values as stored.
HWY_INLINE void write_master(const AdamArrays& a, int64_t first, int64_t count, float* p) {
  HWY_ALIGN uint16_t buffer[kBlock + 2 * kGroup];
  HWY_ALIGN uint16_t rounded[kBlock];
  const uint16_t* random = rounding_halves(a, a.rounding.first + first, count, buffer);
  for (int64_t i = 0; i < count; i += kLanes) {
    const auto bits = to_bf16_stochastically(load(p + i), hn::LoadU(U16(), random + i));
    hn::StoreU(bits, U16(), rounded + i);
    store(from_bf16(bits), p + i);
  }
  std::memcpy(a.master.at(first).data, rounded, static_cast<size_t>(count) * sizeof(uint16_t));
}

void adam_blocks(const AdamArrays& a, const AdamFactors& f, int64_t first, int64_t last) {
  HWY_ALIGN float p[kBlock], g[kBlock], m[kBlock], v[kBlock];
  for (int64_t i = first; i < last; i += kBlock) {
    const int64_t count = last - i < kBlock ? last - i : kBlock;
    read(a.master, i, count, p);
    read(a.gradient, i, count, g);
    read(a.m, i, count, m);
    read(a.v, i, count, v);
    for (int64_t k = 0; k < count; k += kLanes) {
      const AdamState s = step({load(p + k), load(m + k), load(v + k)}, load(g + k), f);
      store(s.p, p + k);
      store(s.m, m + k);
      store(s.v, v + k);
    }
    write(m, count, a.m, i);
    write(v, count, a.v, i);
    if (a.master.dtype == DType::bf16) {
      write_master(a, i, count, p);
    } else {
      write(p, count, a.master, i);
    }
    if (a.copy) write(p, count, a.copy, i);
    if (f.zero_gradient) {
      std::memset(a.gradient.at(i).data, 0, static_cast<size_t>(count * size_of(a.gradient.dtype)));
    }
  }
}

void adam_part(const AdamArrays& a, const AdamFactors& f, int64_t first, int64_t last) {
  const bool wide = a.master.dtype == DType::f32 && a.m.dtype == DType::f32 && a.v.dtype == DType::f32;
  if (!wide) return adam_blocks(a, f, first, last);
  with_type(a.gradient.dtype, [&](auto type) {
    using G = decltype(type);
    if (a.copy && a.copy.dtype == DType::f16) return adam_wide<G, f16>(a, f, first, last);
    adam_wide<G, bf16>(a, f, first, last);
  });
}

}  // namespace
}  // namespace ridgeline::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ridgeline::ops {
namespace cpu {
HWY_EXPORT(adam_part);
}  // namespace cpu

namespace {

// Copies larger than this are written past the caches: they are read again only in the next forward pass.
constexpr int64_t kStreamedCopy = int64_t{1} << 19;

cpu::AdamFactors factors(const Adam& settings, const AdamScalars& scalars) {
  cpu::AdamFactors f{};
  f.beta1 = static_cast<float>(settings.beta1);
  f.beta2 = static_cast<float>(settings.beta2);
  f.one_minus_beta1 = static_cast<float>(1.0 - settings.beta1);
  f.one_minus_beta2 = static_cast<float>(1.0 - settings.beta2);
  f.gradient_scale = scalars.gradient_scale;
  const double learning_rate = scalars.learning_rate, weight_decay = settings.weight_decay;
  f.l2 = settings.decoupled ? 0.0F : settings.weight_decay;
  f.decay = settings.decoupled ? static_cast<float>(learning_rate * weight_decay) : 0.0F;
  f.step = static_cast<float>(learning_rate / static_cast<double>(scalars.correction1));
  f.inverse_root_correction2 = static_cast<float>(1.0 / std::sqrt(static_cast<double>(scalars.correction2)));
  f.epsilon = settings.epsilon;
  f.zero_gradient = settings.zero_gradient;
  return f;
}

}  // namespace

void adam(device::Stream& stream, int64_t count, const Adam& settings, const AdamScalars* scalars, Ref master,
          Ref gradient, Ref m, Ref v, Ref working_copy) {
  cpu::require_float(gradient);
  for (const Ref state : {master, m, v}) {
    RL_REQUIRE(state.dtype == DType::f32 || state.dtype == DType::bf16, "state {}", name_of(state.dtype));
  }
  RL_REQUIRE(!working_copy || working_copy.dtype == DType::bf16 || working_copy.dtype == DType::f16, "working copy {}",
             name_of(working_copy.dtype));
  constexpr int64_t kGrain = 8192;
  if (scalars->skip != 0) {
    if (!settings.zero_gradient) return;
    stream.team().parallel_for(count, kGrain, [&](int64_t first, int64_t last) {
      std::memset(gradient.at(first).data, 0, static_cast<size_t>((last - first) * size_of(gradient.dtype)));
    });
    return;
  }
  cpu::agree_on_targets();
  const auto part = HWY_DYNAMIC_DISPATCH(cpu::adam_part);
  cpu::AdamFactors f = factors(settings, *scalars);
  f.stream_copy = working_copy && count >= kStreamedCopy;
  const cpu::AdamArrays arrays{master, gradient, m, v, working_copy, scalars->rounding_key, settings.rounding};
  stream.team().parallel_for(count, kGrain, [&](int64_t first, int64_t last) { part(arrays, f, first, last); });
}

}  // namespace ridgeline::ops
#endif

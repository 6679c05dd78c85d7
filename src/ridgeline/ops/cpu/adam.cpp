#include "ridgeline/ops/adam.h"

#include <cmath>
#include <cstdint>
#include <cstring>

#include "ridgeline/base/error.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/ops/cpu/simd_targets.h"

#ifndef RIDGELINE_OPS_CPU_ADAM_FACTORS  // this file is included once per target
#define RIDGELINE_OPS_CPU_ADAM_FACTORS
namespace ridgeline::ops::cpu {

struct AdamArrays {
  float* master;
  Ref gradient;
  float *m, *v;
  bf16* copy;  // may be null
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

template <typename G>
HWY_INLINE void adam_vector(const AdamArrays& a, const AdamFactors& f, int64_t i) {
  G* gradient = a.gradient.as<G>() + i;
  const AdamState s = step({load(a.master + i), load(a.m + i), load(a.v + i)}, load(gradient), f);
  store(s.p, a.master + i);
  store(s.m, a.m + i);
  store(s.v, a.v + i);
  if (f.zero_gradient) store(zeros(), gradient);
  if (a.copy == nullptr) return;
  if (f.stream_copy) {
    hn::Stream(to_bf16(s.p), U16(), reinterpret_cast<uint16_t*>(a.copy + i));
  } else {
    store(s.p, a.copy + i);
  }
}

template <typename G>
HWY_INLINE void adam_rest(const AdamArrays& a, const AdamFactors& f, int64_t i, int64_t rest) {
  G* gradient = a.gradient.as<G>() + i;
  const AdamState s = step({load_part(a.master + i, rest), load_part(a.m + i, rest), load_part(a.v + i, rest)},
                           load_part(gradient, rest), f);
  store_part(s.p, a.master + i, rest);
  store_part(s.m, a.m + i, rest);
  store_part(s.v, a.v + i, rest);
  if (f.zero_gradient) store_part(zeros(), gradient, rest);
  if (a.copy != nullptr) store_part(s.p, a.copy + i, rest);
}

template <typename G>
void adam_part_of(const AdamArrays& a, AdamFactors f, int64_t first, int64_t last) {
  // Streaming stores need aligned addresses; ranges of a segment start at multiples of its block, so they have them.
  constexpr uintptr_t kBytes = static_cast<uintptr_t>(kLanes) * sizeof(bf16);
  f.stream_copy = f.stream_copy && reinterpret_cast<uintptr_t>(a.copy + first) % kBytes == 0;
  int64_t i = first;
  for (; i + kLanes <= last; i += kLanes) adam_vector<G>(a, f, i);
  if (i < last) adam_rest<G>(a, f, i, last - i);
  if (f.stream_copy) hwy::FlushStream();
}

void adam_part(const AdamArrays& a, const AdamFactors& f, int64_t first, int64_t last) {
  if (a.gradient.dtype == DType::f32) return adam_part_of<float>(a, f, first, last);
  adam_part_of<bf16>(a, f, first, last);
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

void adam(device::Stream& stream, int64_t count, const Adam& settings, const AdamScalars* scalars, float* master,
          Ref gradient, float* m, float* v, Ref working_copy) {
  RL_REQUIRE(gradient.dtype == DType::f32 || gradient.dtype == DType::bf16, "gradient {}", name_of(gradient.dtype));
  RL_REQUIRE(!working_copy || working_copy.dtype == DType::bf16, "working copy {}", name_of(working_copy.dtype));
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
  const cpu::AdamArrays arrays{master, gradient, m, v, working_copy.as<bf16>()};
  stream.team().parallel_for(count, kGrain, [&](int64_t first, int64_t last) { part(arrays, f, first, last); });
}

}  // namespace ridgeline::ops
#endif

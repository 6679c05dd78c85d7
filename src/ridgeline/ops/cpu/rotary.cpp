#include "ridgeline/ops/rotary.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>

#include "ridgeline/base/error.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/ops/cpu/require.h"
#include "ridgeline/ops/cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ridgeline/ops/cpu/rotary.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "ridgeline/ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ridgeline::ops::cpu::HWY_NAMESPACE {
namespace {

// kLanes pairs: of a head, or of the table (cos, sin).
struct Pairs {
  Floats first, second;
};

HWY_INLINE Pairs load_interleaved(const float* from) {
  Pairs p;
  hn::LoadInterleaved2(F32(), from, p.first, p.second);
  return p;
}
HWY_INLINE Pairs load_interleaved(const bf16* from) {
  hn::Vec<U16> first, second;
  hn::LoadInterleaved2(U16(), reinterpret_cast<const uint16_t*>(from), first, second);
  return {from_bf16(first), from_bf16(second)};
}
HWY_INLINE Pairs load_interleaved(const f16* from) {
  hn::Vec<U16> first, second;
  hn::LoadInterleaved2(U16(), reinterpret_cast<const uint16_t*>(from), first, second);
  return {from_f16(first), from_f16(second)};
}
HWY_INLINE void store_interleaved(Pairs p, float* to) {
  hn::StoreInterleaved2(p.first, p.second, F32(), to);
}
HWY_INLINE void store_interleaved(Pairs p, bf16* to) {
  hn::StoreInterleaved2(to_bf16(p.first), to_bf16(p.second), U16(), reinterpret_cast<uint16_t*>(to));
}
HWY_INLINE void store_interleaved(Pairs p, f16* to) {
  hn::StoreInterleaved2(to_f16(p.first), to_f16(p.second), U16(), reinterpret_cast<uint16_t*>(to));
}

// The first `count` < kLanes pairs; through a buffer.
template <typename T>
HWY_INLINE Pairs load_interleaved_part(const T* from, int64_t count) {
  HWY_ALIGN T buffer[2 * kLanes] = {};
  std::memcpy(buffer, from, static_cast<size_t>(2 * count) * sizeof(T));
  return load_interleaved(buffer);
}
template <typename T>
HWY_INLINE void store_interleaved_part(Pairs p, T* to, int64_t count) {
  HWY_ALIGN T buffer[2 * kLanes];
  store_interleaved(p, buffer);
  std::memcpy(to, buffer, static_cast<size_t>(2 * count) * sizeof(T));
}

// sign: +1, or -1 for the transposed rotation.
HWY_INLINE Pairs turn(Pairs x, Pairs angle, Floats sign) {
  const Floats cos = angle.first, sin = hn::Mul(angle.second, sign);
  return {hn::NegMulAdd(x.second, sin, hn::Mul(x.first, cos)), hn::MulAdd(x.first, sin, hn::Mul(x.second, cos))};
}

// `half` pairs (2i, 2i + 1).
template <typename T>
HWY_INLINE void turn_interleaved(T* x, const float* table, int64_t half, Floats sign) {
  int64_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    store_interleaved(turn(load_interleaved(x + 2 * i), load_interleaved(table + 2 * i), sign), x + 2 * i);
  }
  if (const int64_t rest = half - i; rest > 0) {
    const Pairs angle = load_interleaved_part(table + 2 * i, rest);
    store_interleaved_part(turn(load_interleaved_part(x + 2 * i, rest), angle, sign), x + 2 * i, rest);
  }
}

// `half` pairs (i, half + i).
template <typename T>
HWY_INLINE void turn_split(T* x, const float* table, int64_t half, Floats sign) {
  int64_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const Pairs y = turn({load(x + i), load(x + half + i)}, load_interleaved(table + 2 * i), sign);
    store(y.first, x + i);
    store(y.second, x + half + i);
  }
  if (const int64_t rest = half - i; rest > 0) {
    const Pairs angle = load_interleaved_part(table + 2 * i, rest);
    const Pairs y = turn({load_part(x + i, rest), load_part(x + half + i, rest)}, angle, sign);
    store_part(y.first, x + i, rest);
    store_part(y.second, x + half + i, rest);
  }
}

void rotary_tokens(const Rotary& r, Ref x, int64_t first, int64_t last) {
  const int64_t half = r.rotary_width / 2;
  const Floats sign = set(r.inverse ? -1.0F : 1.0F);
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    for (int64_t n = first; n < last; ++n) {
      const float* table = r.table + r.positions[n] * r.rotary_width;
      for (int64_t h = 0; h < r.heads; ++h) {
        T* head = x.as<T>() + n * r.stride + h * r.head_width;
        switch (r.pairing) {
          case RotaryPairing::interleaved:
            turn_interleaved(head, table, half, sign);
            continue;
          case RotaryPairing::half_split:
            turn_split(head, table, half, sign);
            continue;
        }
        RL_NO_CASE(r.pairing);
      }
    }
  });
}

}  // namespace
}  // namespace ridgeline::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ridgeline::ops {
namespace cpu {
HWY_EXPORT(rotary_tokens);
}  // namespace cpu

namespace {

double scaled_frequency(double frequency, const RotaryScaling& scaling) {
  if (!scaling.llama3) return frequency;
  const double wavelength = 2.0 * std::numbers::pi / frequency;
  const double context = static_cast<double>(scaling.original_context);
  if (wavelength < context / scaling.high_freq_factor) return frequency;
  if (wavelength > context / scaling.low_freq_factor) return frequency / scaling.factor;
  const double smooth =
      (context / wavelength - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
  return (1.0 - smooth) * frequency / scaling.factor + smooth * frequency;
}

}  // namespace

void rotary(device::Stream& stream, const Rotary& settings, Ref x) {
  cpu::require_float(x);
  RL_CHECK(settings.rotary_width % 2, ==, 0);
  RL_CHECK(settings.rotary_width, <=, settings.head_width);
  RL_CHECK(settings.stride, >=, settings.heads * settings.head_width);
  cpu::agree_on_targets();
  const auto part = HWY_DYNAMIC_DISPATCH(cpu::rotary_tokens);
  const int64_t row = std::max<int64_t>(1, settings.heads * settings.rotary_width);
  stream.team().parallel_for(settings.tokens, std::max<int64_t>(1, 16384 / row),
                             [&](int64_t first, int64_t last) { part(settings, x, first, last); });
}

void fill_rotary_table(int64_t positions, int64_t rotary_width, double base, const RotaryScaling& scaling,
                       float* table) {
  RL_CHECK(rotary_width % 2, ==, 0);
  for (int64_t i = 0; i < rotary_width / 2; ++i) {
    const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(rotary_width);
    const double frequency = scaled_frequency(std::pow(base, exponent), scaling);
    for (int64_t p = 0; p < positions; ++p) {
      const double angle = static_cast<double>(p) * frequency;
      table[p * rotary_width + 2 * i] = static_cast<float>(std::cos(angle));
      table[p * rotary_width + 2 * i + 1] = static_cast<float>(std::sin(angle));
    }
  }
}

}  // namespace ridgeline::ops
#endif

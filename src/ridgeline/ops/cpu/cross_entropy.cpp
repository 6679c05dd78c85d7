#include "ridgeline/ops/cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "ridgeline/base/error.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/ops/cpu/require.h"
#include "ridgeline/ops/cpu/simd_targets.h"

#ifndef RIDGELINE_OPS_CPU_CROSS_ENTROPY_ROW  // this file is included once per target
#define RIDGELINE_OPS_CPU_CROSS_ENTROPY_ROW
namespace ridgeline::ops::cpu {

struct CrossEntropy {
  int64_t v, ld;
  Ref logits;
  const int32_t* labels;
  float scale;
  bool with_gradient;
  float* losses;
};

}  // namespace ridgeline::ops::cpu
#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ridgeline/ops/cpu/cross_entropy.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "ridgeline/ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ridgeline::ops::cpu::HWY_NAMESPACE {
namespace {

// Elements of a row that are read twice (maximum, then sum) while they lie in the first-level cache.
constexpr int64_t kBlock = 2048;

template <typename T>
HWY_INLINE float maximum(const T* x, int64_t count) {
  const Floats lowest = set(-std::numeric_limits<float>::infinity());
  Floats a = lowest, b = lowest, c = lowest, d = lowest;
  int64_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    a = hn::Max(a, load(x + i));
    b = hn::Max(b, load(x + i + kLanes));
    c = hn::Max(c, load(x + i + 2 * kLanes));
    d = hn::Max(d, load(x + i + 3 * kLanes));
  }
  for (; i + kLanes <= count; i += kLanes) a = hn::Max(a, load(x + i));
  if (const int64_t rest = count - i; rest > 0) {
    const auto inside = hn::FirstN(F32(), static_cast<size_t>(rest));
    b = hn::Max(b, hn::IfThenElse(inside, load_part(x + i, rest), lowest));
  }
  return max_of_lanes(hn::Max(hn::Max(a, b), hn::Max(c, d)));
}

template <typename T>
HWY_INLINE float sum_of_exps(const T* x, int64_t count, Floats shift) {
  Floats a = zeros(), b = zeros();
  int64_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    a = hn::Add(a, exp(hn::Sub(load(x + i), shift)));
    b = hn::Add(b, exp(hn::Sub(load(x + i + kLanes), shift)));
  }
  if (i + kLanes <= count) {
    a = hn::Add(a, exp(hn::Sub(load(x + i), shift)));
    i += kLanes;
  }
  if (const int64_t rest = count - i; rest > 0) {
    b = hn::Add(b, first_lanes(exp(hn::Sub(load_part(x + i, rest), shift)), rest));
  }
  return sum_of_lanes(hn::Add(a, b));
}

struct SoftmaxSum {
  float maximum = -std::numeric_limits<float>::infinity();
  double sum = 0.0;  // sum of exp(x - maximum)
};

// One read of the row from memory: the sum is rescaled when a block brings a new maximum (Milakov and Gimelshein,
// 2018).
template <typename T>
HWY_INLINE SoftmaxSum softmax_sum(const T* x, int64_t count) {
  SoftmaxSum s;
  for (int64_t i = 0; i < count; i += kBlock) {
    const int64_t part = count - i < kBlock ? count - i : kBlock;
    const float highest = maximum(x + i, part);
    if (highest > s.maximum) {
      s.sum *= std::exp(static_cast<double>(s.maximum) - static_cast<double>(highest));
      s.maximum = highest;
    }
    s.sum += static_cast<double>(sum_of_exps(x + i, part, set(s.maximum)));
  }
  return s;
}

// x <- factor * exp(x - maximum)
template <typename T>
HWY_INLINE void write_gradient(T* x, int64_t count, Floats maximum, Floats factor) {
  const auto gradient = [=](Floats value) { return hn::Mul(exp(hn::Sub(value, maximum)), factor); };
  map(count, gradient, x, x);
}

template <typename T>
void rows_of(const CrossEntropy& p, int64_t first, int64_t last) {
  for (int64_t n = first; n < last; ++n) {
    T* x = p.logits.as<T>() + n * p.ld;
    const int32_t label = p.labels[n];
    if (label == kIgnoredLabel) {
      p.losses[n] = 0.0F;
      if (p.with_gradient) std::memset(static_cast<void*>(x), 0, static_cast<size_t>(p.ld) * sizeof(T));
      continue;
    }
    const SoftmaxSum s = softmax_sum(x, p.v);
    const float target = static_cast<float>(x[label]);
    p.losses[n] = static_cast<float>(std::log(s.sum) + (static_cast<double>(s.maximum) - static_cast<double>(target)));
    if (!p.with_gradient) continue;
    write_gradient(x, p.v, set(s.maximum), set(static_cast<float>(static_cast<double>(p.scale) / s.sum)));
    // 1 - p in double: near certainty the difference of two floats would have few right digits.
    const double probability = std::exp(static_cast<double>(target) - static_cast<double>(s.maximum)) / s.sum;
    x[label] = T(static_cast<float>(static_cast<double>(p.scale) * (probability - 1.0)));
    if (p.ld > p.v) std::memset(static_cast<void*>(x + p.v), 0, static_cast<size_t>(p.ld - p.v) * sizeof(T));
  }
}

void cross_entropy_rows(const CrossEntropy& p, int64_t first, int64_t last) {
  with_type(p.logits.dtype, [&](auto type) { rows_of<decltype(type)>(p, first, last); });
}

}  // namespace
}  // namespace ridgeline::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ridgeline::ops {
namespace cpu {
HWY_EXPORT(cross_entropy_rows);
}  // namespace cpu

void cross_entropy(device::Stream& stream, int64_t n, int64_t v, int64_t ld, Ref logits, const int32_t* labels,
                   float scale, bool with_gradient, float* losses) {
  cpu::require_float(logits);
  RL_CHECK(v, >, 0);
  RL_CHECK(ld, >=, v);
  for (int64_t i = 0; i < n; ++i) {
    if (labels[i] == kIgnoredLabel) continue;
    RL_CHECK(labels[i], >=, 0);
    RL_CHECK(labels[i], <, v);
  }
  cpu::agree_on_targets();
  const auto rows = HWY_DYNAMIC_DISPATCH(cpu::cross_entropy_rows);
  const cpu::CrossEntropy p{v, ld, logits, labels, scale, with_gradient, losses};
  stream.team().parallel_for(n, std::max<int64_t>(1, 8192 / v),
                             [&](int64_t first, int64_t last) { rows(p, first, last); });
}

}  // namespace ridgeline::ops
#endif

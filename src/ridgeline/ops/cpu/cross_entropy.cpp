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

struct CrossEntropyColumns {
  IndexRange held;
  int64_t ld;
  Ref logits;
  const int32_t* labels;
};

struct CrossEntropyResult {
  float scale;
  bool with_gradient;
  float* losses;
};

constexpr RowStatistics kNoColumns{.max = -std::numeric_limits<float>::infinity(), .label_logit = 0.0F, .sum = 0.0};

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

// Of a row whose label is column `label`, which may be none of these. One read of the row from memory: the sum is
// rescaled when a block brings a new maximum (Milakov and Gimelshein, 2018).
template <typename T>
HWY_INLINE RowStatistics statistics_of(const T* x, int64_t count, int64_t label) {
  RowStatistics s = kNoColumns;
  for (int64_t i = 0; i < count; i += kBlock) {
    const int64_t part = count - i < kBlock ? count - i : kBlock;
    const float highest = maximum(x + i, part);
    if (highest > s.max) {
      s.sum *= std::exp(static_cast<double>(s.max) - static_cast<double>(highest));
      s.max = highest;
    }
    // Nothing but -inf so far, or NaN among it: -inf less -inf would be NaN too.
    const float shift = s.max == kNoColumns.max ? 0.0F : s.max;
    s.sum += static_cast<double>(sum_of_exps(x + i, part, set(shift)));
  }
  if (label >= 0 && label < count) s.label_logit = static_cast<float>(x[label]);
  return s;
}

// x <- factor * exp(x - maximum)
template <typename T>
HWY_INLINE void write_gradient(T* x, int64_t count, Floats maximum, Floats factor) {
  const auto gradient = [=](Floats value) { return hn::Mul(exp(hn::Sub(value, maximum)), factor); };
  map(count, gradient, x, x);
}

// `s`: of all columns of the vocabulary; x: row n of those here.
template <typename T>
HWY_INLINE void finish_row(const CrossEntropyColumns& p, int64_t n, T* x, const RowStatistics& s,
                           const CrossEntropyResult& to) {
  if (p.labels[n] == kIgnoredLabel) {
    to.losses[n] = 0.0F;
    if (to.with_gradient) std::memset(static_cast<void*>(x), 0, static_cast<size_t>(p.ld) * sizeof(T));
    return;
  }
  to.losses[n] =
      static_cast<float>(std::log(s.sum) + (static_cast<double>(s.max) - static_cast<double>(s.label_logit)));
  if (!to.with_gradient) return;
  const int64_t v = p.held.count;
  write_gradient(x, v, set(s.max), set(static_cast<float>(static_cast<double>(to.scale) / s.sum)));
  if (p.held.holds(p.labels[n])) {
    // 1 - p in double: near certainty the difference of two floats would have few right digits.
    const double probability = std::exp(static_cast<double>(s.label_logit) - static_cast<double>(s.max)) / s.sum;
    x[p.labels[n] - p.held.first] = T(static_cast<float>(static_cast<double>(to.scale) * (probability - 1.0)));
  }
  if (p.ld > v) std::memset(static_cast<void*>(x + v), 0, static_cast<size_t>(p.ld - v) * sizeof(T));
}

template <typename T>
HWY_INLINE RowStatistics statistics_of_row(const CrossEntropyColumns& p, int64_t n, const T* x) {
  if (p.labels[n] == kIgnoredLabel) return kNoColumns;
  return statistics_of(x, p.held.count, p.labels[n] - p.held.first);
}

// f(n, x) for every row.
template <class F>
HWY_INLINE void for_rows(const CrossEntropyColumns& p, int64_t first, int64_t last, const F& f) {
  with_type(p.logits.dtype, [&](auto type) {
    auto* const x = p.logits.as<decltype(type)>();
    for (int64_t n = first; n < last; ++n) f(n, x + n * p.ld);
  });
}

// A row is finished while it lies in a cache.
void cross_entropy_rows(const CrossEntropyColumns& p, int64_t first, int64_t last, const CrossEntropyResult& to) {
  for_rows(p, first, last, [&](int64_t n, auto* x) { finish_row(p, n, x, statistics_of_row(p, n, x), to); });
}

void statistics_rows(const CrossEntropyColumns& p, int64_t first, int64_t last, RowStatistics* rows) {
  for_rows(p, first, last, [&](int64_t n, const auto* x) { rows[n] = statistics_of_row(p, n, x); });
}

void finish_rows(const CrossEntropyColumns& p, int64_t first, int64_t last, const RowStatistics* rows,
                 const CrossEntropyResult& to) {
  for_rows(p, first, last, [&](int64_t n, auto* x) { finish_row(p, n, x, rows[n], to); });
}

}  // namespace
}  // namespace ridgeline::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ridgeline::ops {
namespace cpu {
HWY_EXPORT(cross_entropy_rows);
HWY_EXPORT(statistics_rows);
HWY_EXPORT(finish_rows);
}  // namespace cpu

namespace {

void check_columns(int64_t n, const cpu::CrossEntropyColumns& p) {
  cpu::require_float(p.logits);
  cpu::require_range(p.held);
  RL_CHECK(p.ld, >=, p.held.count);
  for (int64_t i = 0; i < n; ++i) {
    if (p.labels[i] == kIgnoredLabel) continue;
    RL_CHECK(p.labels[i], >=, 0);
    RL_CHECK(p.labels[i], <, p.held.whole);
  }
}

// Rows that a member takes at once.
int64_t grain(int64_t v) {
  return 8192 / std::clamp<int64_t>(v, 1, 8192);
}

RowStatistics combined(int64_t slices, const RowStatistics* of_slices, int64_t stride) {
  RowStatistics all = of_slices[0];
  for (int64_t s = 1; s < slices; ++s) {
    const RowStatistics& one = of_slices[s * stride];
    all.max = std::max(all.max, one.max);
    all.label_logit += one.label_logit;  // 0 but for one
  }
  all.sum = 0.0;
  for (int64_t s = 0; s < slices; ++s) {
    const RowStatistics& one = of_slices[s * stride];
    // Equal maxima may be infinite, and their difference NaN.
    const double factor =
        one.max == all.max ? 1.0 : std::exp(static_cast<double>(one.max) - static_cast<double>(all.max));
    all.sum += factor * one.sum;
  }
  return all;
}

}  // namespace

void cross_entropy(device::Stream& stream, int64_t n, int64_t v, int64_t ld, Ref logits, const int32_t* labels,
                   float scale, bool with_gradient, float* losses) {
  RL_CHECK(v, >, 0);
  const cpu::CrossEntropyColumns p{IndexRange::all(v), ld, logits, labels};
  check_columns(n, p);
  cpu::agree_on_targets();
  const auto rows = HWY_DYNAMIC_DISPATCH(cpu::cross_entropy_rows);
  const cpu::CrossEntropyResult to{scale, with_gradient, losses};
  stream.team().parallel_for(n, grain(v), [&](int64_t first, int64_t last) { rows(p, first, last, to); });
}

void cross_entropy_statistics(device::Stream& stream, int64_t n, const IndexRange& held, int64_t ld, ConstRef logits,
                              const int32_t* labels, RowStatistics* rows) {
  // Only read.
  const cpu::CrossEntropyColumns p{held, ld, {const_cast<void*>(logits.data), logits.dtype}, labels};
  check_columns(n, p);
  cpu::agree_on_targets();
  const auto statistics = HWY_DYNAMIC_DISPATCH(cpu::statistics_rows);
  stream.team().parallel_for(n, grain(held.count),
                             [&](int64_t first, int64_t last) { statistics(p, first, last, rows); });
}

void cross_entropy_combine(device::Stream& stream, int64_t n, int64_t slices, const RowStatistics* of_slices,
                           RowStatistics* rows) {
  RL_CHECK(slices, >, 0);
  stream.team().parallel_for(n, std::max<int64_t>(1, 1024 / slices), [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) rows[i] = combined(slices, of_slices + i, n);
  });
}

void cross_entropy_finish(device::Stream& stream, int64_t n, const IndexRange& held, int64_t ld, Ref logits,
                          const int32_t* labels, const RowStatistics* rows, float scale, bool with_gradient,
                          float* losses) {
  const cpu::CrossEntropyColumns p{held, ld, logits, labels};
  check_columns(n, p);
  cpu::agree_on_targets();
  const auto finish = HWY_DYNAMIC_DISPATCH(cpu::finish_rows);
  const cpu::CrossEntropyResult to{scale, with_gradient, losses};
  stream.team().parallel_for(n, grain(held.count),
                             [&](int64_t first, int64_t last) { finish(p, first, last, rows, to); });
}

}  // namespace ridgeline::ops
#endif

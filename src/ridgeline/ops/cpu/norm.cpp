#include "ridgeline/ops/norm.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "ridgeline/base/error.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/ops/cpu/block_sums.h"
#include "ridgeline/ops/cpu/require.h"
#include "ridgeline/ops/cpu/simd_targets.h"

#ifndef RIDGELINE_OPS_CPU_NORM_ARGUMENTS  // this file is included once per target
#define RIDGELINE_OPS_CPU_NORM_ARGUMENTS
namespace ridgeline::ops::cpu {

// RMS norm is layer norm with a mean of 0 and without bias.
struct NormForward {
  bool rms;
  int64_t c;
  float epsilon;
  ConstRef x, weight, bias;  // bias may be null
  Ref y;
  float *mean, *rstd;  // may be null
};

struct NormBackward {
  int64_t c;
  bool with_dbias;
  ConstRef x, weight;
  const float *mean, *rstd;  // no mean: RMS norm
  ConstRef dy, dresidual;
  Ref dx;
};

}  // namespace ridgeline::ops::cpu
#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ridgeline/ops/cpu/norm.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "ridgeline/ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ridgeline::ops::cpu::HWY_NAMESPACE {
namespace {

// Four accumulators hide the latency of an addition.
struct RowSum {
  Floats a, b, c, d;
  HWY_INLINE float total() const { return sum_of_lanes(hn::Add(hn::Add(a, b), hn::Add(c, d))); }
};

template <typename T>
HWY_INLINE float sum(const T* x, int64_t count) {
  RowSum s{zeros(), zeros(), zeros(), zeros()};
  int64_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    s.a = hn::Add(s.a, load(x + i));
    s.b = hn::Add(s.b, load(x + i + kLanes));
    s.c = hn::Add(s.c, load(x + i + 2 * kLanes));
    s.d = hn::Add(s.d, load(x + i + 3 * kLanes));
  }
  for (; i + kLanes <= count; i += kLanes) s.a = hn::Add(s.a, load(x + i));
  if (i < count) s.b = hn::Add(s.b, load_part(x + i, count - i));
  return s.total();
}

HWY_INLINE Floats add_square(Floats value, Floats mean, Floats to) {
  const Floats d = hn::Sub(value, mean);
  return hn::MulAdd(d, d, to);
}

template <typename T>
HWY_INLINE float sum_of_squared_deviations(const T* x, int64_t count, Floats mean) {
  RowSum s{zeros(), zeros(), zeros(), zeros()};
  int64_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    s.a = add_square(load(x + i), mean, s.a);
    s.b = add_square(load(x + i + kLanes), mean, s.b);
    s.c = add_square(load(x + i + 2 * kLanes), mean, s.c);
    s.d = add_square(load(x + i + 3 * kLanes), mean, s.d);
  }
  for (; i + kLanes <= count; i += kLanes) s.a = add_square(load(x + i), mean, s.a);
  if (i < count) {
    const Floats d = first_lanes(hn::Sub(load_part(x + i, count - i), mean), count - i);
    s.b = hn::MulAdd(d, d, s.b);
  }
  return s.total();
}

template <typename T, typename W>
void forward_rows_of(const NormForward& p, int64_t first, int64_t last) {
  const W *weight = p.weight.as<W>(), *bias = p.bias.as<W>();
  for (int64_t n = first; n < last; ++n) {
    const T* x = p.x.as<T>() + n * p.c;
    T* y = p.y.as<T>() + n * p.c;
    const float mean = p.rms ? 0.0F : sum(x, p.c) / static_cast<float>(p.c);
    const float variance = sum_of_squared_deviations(x, p.c, set(mean)) / static_cast<float>(p.c);
    const float rstd = 1.0F / std::sqrt(variance + p.epsilon);
    const Floats center = set(mean), scale = set(rstd);
    int64_t i = 0;
    for (; i + kLanes <= p.c; i += kLanes) {
      const Floats normed = hn::Mul(hn::Sub(load(x + i), center), scale);
      const Floats shift = bias != nullptr ? load(bias + i) : zeros();
      store(hn::MulAdd(normed, load(weight + i), shift), y + i);
    }
    if (const int64_t rest = p.c - i; rest > 0) {
      const Floats normed = hn::Mul(hn::Sub(load_part(x + i, rest), center), scale);
      const Floats shift = bias != nullptr ? load_part(bias + i, rest) : zeros();
      store_part(hn::MulAdd(normed, load_part(weight + i, rest), shift), y + i, rest);
    }
    if (p.mean != nullptr) p.mean[n] = mean;
    if (p.rstd != nullptr) p.rstd[n] = rstd;
  }
}

// f(T(), W()) with the storage types of x and of the weights.
template <class F>
HWY_INLINE void with_types(DType x, DType weights, const F& f) {
  with_type(x, [&](auto type) {
    using X = decltype(type);
    if (weights == DType::f32) return f(X(), float());
    if (weights == x) return f(X(), X());
    RL_REQUIRE(x == DType::f32 && weights == DType::bf16, "weight {} beside x {}", name_of(weights), name_of(x));
    if constexpr (std::is_same_v<X, float>) f(X(), bf16());
  });
}

void norm_forward_rows(const NormForward& p, int64_t first, int64_t last) {
  with_types(p.x.dtype, p.weight.dtype,
             [&](auto x, auto weight) { forward_rows_of<decltype(x), decltype(weight)>(p, first, last); });
}

// With g = dy * weight and h = (x - mean) * rstd of one row: sum g and sum g h.
struct Projections {
  Floats g, gh;
};

// Where a block of rows adds up dy h and dy; or nothing, for rows whose weight gradients are not wanted.
struct WeightSums {
  float *dweight, *dbias;  // dbias may be null
};
struct NoSums {};

HWY_INLINE void add_to(WeightSums sums, int64_t i, Floats h, Floats dy) {
  store(hn::MulAdd(dy, h, load(sums.dweight + i)), sums.dweight + i);
  if (sums.dbias != nullptr) store(hn::Add(dy, load(sums.dbias + i)), sums.dbias + i);
}
HWY_INLINE void add_to(NoSums, int64_t, Floats, Floats) {}
HWY_INLINE void add_part_to(WeightSums sums, int64_t i, Floats h, Floats dy, int64_t rest) {
  store_part(hn::MulAdd(dy, h, load_part(sums.dweight + i, rest)), sums.dweight + i, rest);
  if (sums.dbias != nullptr) store_part(hn::Add(dy, load_part(sums.dbias + i, rest)), sums.dbias + i, rest);
}
HWY_INLINE void add_part_to(NoSums, int64_t, Floats, Floats, int64_t) {}

template <typename T>
HWY_INLINE Floats normed(const T* x, Floats center, Floats scale) {
  return hn::Mul(hn::Sub(load(x), center), scale);
}

// One reading of x and dy for both gradients.
template <typename T, typename W, class Sums>
HWY_INLINE void project(const T* x, const T* dy, const W* weight, int64_t i, Floats center, Floats scale,
                        Projections& projections, Sums sums) {
  const Floats h = normed(x + i, center, scale), d = load(dy + i);
  const Floats g = hn::Mul(d, load(weight + i));
  projections.g = hn::Add(projections.g, g);
  projections.gh = hn::MulAdd(g, h, projections.gh);
  add_to(sums, i, h, d);
}

HWY_INLINE Floats input_gradient(Floats h, Floats g, Floats mean_g, Floats mean_gh, Floats scale) {
  return hn::Mul(scale, hn::NegMulAdd(h, mean_gh, hn::Sub(g, mean_g)));
}

// dx of one row, and its part of the weight gradients.
template <typename T, typename W, class Sums>
HWY_INLINE void backward_row(const NormBackward& p, int64_t n, Sums sums) {
  const T *x = p.x.as<T>() + n * p.c, *dy = p.dy.as<T>() + n * p.c;
  const T* dresidual = p.dresidual ? p.dresidual.as<T>() + n * p.c : nullptr;
  const W* weight = p.weight.as<W>();
  T* dx = p.dx.as<T>() + n * p.c;
  const Floats center = set(p.mean != nullptr ? p.mean[n] : 0.0F), scale = set(p.rstd[n]);
  const int64_t whole = p.c / kLanes * kLanes, rest = p.c - whole;
  Projections even{zeros(), zeros()}, odd{zeros(), zeros()};
  int64_t i = 0;
  for (; i + 2 * kLanes <= whole; i += 2 * kLanes) {
    project(x, dy, weight, i, center, scale, even, sums);
    project(x, dy, weight, i + kLanes, center, scale, odd, sums);
  }
  if (i < whole) project(x, dy, weight, i, center, scale, even, sums);
  if (rest > 0) {
    const Floats h = hn::Mul(hn::Sub(load_part(x + whole, rest), center), scale);
    const Floats d = load_part(dy + whole, rest);
    const Floats g = hn::Mul(d, load_part(weight + whole, rest));  // 0 behind the row
    odd.g = hn::Add(odd.g, g);
    odd.gh = hn::MulAdd(g, h, odd.gh);
    add_part_to(sums, whole, h, d, rest);
  }
  const float count = static_cast<float>(p.c);
  const Floats mean_g = p.mean != nullptr ? set(sum_of_lanes(hn::Add(even.g, odd.g)) / count) : zeros();
  const Floats mean_gh = set(sum_of_lanes(hn::Add(even.gh, odd.gh)) / count);
  for (i = 0; i < whole; i += kLanes) {
    const Floats g = hn::Mul(load(dy + i), load(weight + i));
    const Floats d = input_gradient(normed(x + i, center, scale), g, mean_g, mean_gh, scale);
    store(dresidual != nullptr ? hn::Add(load(dresidual + i), d) : d, dx + i);
  }
  if (rest > 0) {
    const Floats h = hn::Mul(hn::Sub(load_part(x + i, rest), center), scale);
    const Floats g = hn::Mul(load_part(dy + i, rest), load_part(weight + i, rest));
    const Floats d = input_gradient(h, g, mean_g, mean_gh, scale);
    store_part(dresidual != nullptr ? hn::Add(load_part(dresidual + i, rest), d) : d, dx + i, rest);
  }
}

// Only the weight gradients of one row.
template <typename T>
HWY_INLINE void backward_row_weights(const NormBackward& p, int64_t n, WeightSums sums) {
  const T *x = p.x.as<T>() + n * p.c, *dy = p.dy.as<T>() + n * p.c;
  const Floats center = set(p.mean != nullptr ? p.mean[n] : 0.0F), scale = set(p.rstd[n]);
  int64_t i = 0;
  for (; i + kLanes <= p.c; i += kLanes) add_to(sums, i, normed(x + i, center, scale), load(dy + i));
  if (const int64_t rest = p.c - i; rest > 0) {
    const Floats h = hn::Mul(hn::Sub(load_part(x + i, rest), center), scale);
    add_part_to(sums, i, h, load_part(dy + i, rest), rest);
  }
}

// One block of rows. sums: for dweight [C] and dbias [C] (with_dbias) of this block, or null.
template <typename T, typename W>
void backward_block_of(const NormBackward& p, int64_t first, int64_t last, float* sums) {
  if (sums == nullptr) {
    for (int64_t n = first; n < last; ++n) backward_row<T, W>(p, n, NoSums());
    return;
  }
  std::memset(sums, 0, static_cast<size_t>((p.with_dbias ? 2 : 1) * p.c) * sizeof(float));
  const WeightSums weights{sums, p.with_dbias ? sums + p.c : nullptr};
  for (int64_t n = first; n < last; ++n) {
    if (p.dx) {
      backward_row<T, W>(p, n, weights);
    } else {
      backward_row_weights<T>(p, n, weights);
    }
  }
}

void norm_backward_block(const NormBackward& p, int64_t first, int64_t last, float* sums) {
  with_types(p.x.dtype, p.weight.dtype,
             [&](auto x, auto weight) { backward_block_of<decltype(x), decltype(weight)>(p, first, last, sums); });
}

}  // namespace
}  // namespace ridgeline::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ridgeline::ops {
namespace cpu {
HWY_EXPORT(norm_forward_rows);
HWY_EXPORT(norm_backward_block);
}  // namespace cpu

namespace {

constexpr int64_t kGrainElements = 16384;

void require_types(ConstRef x, ConstRef weight) {
  cpu::require_float(x);
  cpu::require_float(weight);
  const bool known = weight.dtype == DType::f32 || weight.dtype == x.dtype || weight.dtype == DType::bf16;
  RL_REQUIRE(known && !(x.dtype == DType::f16 && weight.dtype == DType::bf16), "weight {} beside x {}",
             name_of(weight.dtype), name_of(x.dtype));
}

void forward(device::Stream& stream, int64_t n, const cpu::NormForward& p) {
  require_types(p.x, p.weight);
  cpu::require_one_dtype(p.x, p.y);
  if (p.bias) cpu::require_one_dtype(p.weight, p.bias);
  RL_REQUIRE(p.x.data != p.y.data, "y is x");
  cpu::agree_on_targets();
  const auto rows = HWY_DYNAMIC_DISPATCH(cpu::norm_forward_rows);
  stream.team().parallel_for(n, std::max<int64_t>(1, kGrainElements / p.c),
                             [&](int64_t first, int64_t last) { rows(p, first, last); });
}

void backward(device::Stream& stream, int64_t n, const cpu::NormBackward& p, float* dweight, float* dbias,
              Workspace workspace) {
  require_types(p.x, p.weight);
  cpu::require_one_dtype(p.x, p.dy);
  if (p.dx) cpu::require_one_dtype(p.x, p.dx);
  if (p.dresidual) cpu::require_one_dtype(p.x, p.dresidual);
  if (!p.dx && dweight == nullptr) return;
  cpu::agree_on_targets();
  const auto block = HWY_DYNAMIC_DISPATCH(cpu::norm_backward_block);
  const cpu::RowBlocks blocks(n);
  const int64_t stride = p.with_dbias ? 2 * p.c : p.c;
  float* sums = nullptr;
  if (dweight != nullptr) {
    const int64_t bytes = blocks.count * stride * static_cast<int64_t>(sizeof(float));
    sums = reinterpret_cast<float*>(workspace.require(bytes, "norm backward", stream.team().size()));
  }
  stream.team().parallel_for(blocks.count, 1, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      block(p, blocks.begin(b), blocks.end(b), sums != nullptr ? sums + b * stride : nullptr);
    }
  });
  if (sums == nullptr) return;
  cpu::add_blocks(stream, blocks.count, stride, p.c, sums, dweight);
  if (p.with_dbias) cpu::add_blocks(stream, blocks.count, stride, p.c, sums + p.c, dbias);
}

}  // namespace

void layernorm_forward(device::Stream& stream, int64_t n, int64_t c, float epsilon, ConstRef x, ConstRef weight,
                       ConstRef bias, Ref y, float* mean, float* rstd) {
  forward(stream, n, {false, c, epsilon, x, weight, bias, y, mean, rstd});
}

int64_t layernorm_backward_workspace_bytes(int64_t n, int64_t c, int) {
  return cpu::RowBlocks(n).count * 2 * c * static_cast<int64_t>(sizeof(float));
}

void layernorm_backward(device::Stream& stream, int64_t n, int64_t c, ConstRef x, ConstRef weight, const float* mean,
                        const float* rstd, ConstRef dy, ConstRef dresidual, Ref dx, float* dweight, float* dbias,
                        Workspace workspace) {
  RL_REQUIRE(dweight != nullptr || dbias == nullptr, "dbias without dweight");
  RL_REQUIRE(mean != nullptr, "no mean");
  backward(stream, n, {c, dbias != nullptr, x, weight, mean, rstd, dy, dresidual, dx}, dweight, dbias, workspace);
}

void rmsnorm_forward(device::Stream& stream, int64_t n, int64_t c, float epsilon, ConstRef x, ConstRef weight, Ref y,
                     float* rstd) {
  forward(stream, n, {true, c, epsilon, x, weight, {}, y, nullptr, rstd});
}

int64_t rmsnorm_backward_workspace_bytes(int64_t n, int64_t c, int) {
  return cpu::RowBlocks(n).count * c * static_cast<int64_t>(sizeof(float));
}

void rmsnorm_backward(device::Stream& stream, int64_t n, int64_t c, ConstRef x, ConstRef weight, const float* rstd,
                      ConstRef dy, ConstRef dresidual, Ref dx, float* dweight, Workspace workspace) {
  backward(stream, n, {c, false, x, weight, nullptr, rstd, dy, dresidual, dx}, dweight, nullptr, workspace);
}

}  // namespace ridgeline::ops
#endif

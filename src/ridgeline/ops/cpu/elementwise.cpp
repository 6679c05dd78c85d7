// GELU, add, cast, zero.
#include "ridgeline/ops/elementwise.h"

#include <cstring>

#include "ridgeline/base/error.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/ops/cpu/elementwise_rows.h"
#include "ridgeline/ops/cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ridgeline/ops/cpu/elementwise.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "ridgeline/ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ridgeline::ops::cpu::HWY_NAMESPACE {
namespace {

constexpr float kTwiceRootTwoOverPi = 1.59576912F;  // 2 sqrt(2/pi)
constexpr float kCubic = 0.044715F;

// e^(-2u) with u = sqrt(2/pi) (x + 0.044715 x^3): 0.5 (1 + tanh u) = 1 / (1 + e^(-2u)).
HWY_INLINE Floats exp_minus_2u(Floats x, Floats square) {
  const Floats factor = hn::MulAdd(square, set(-kTwiceRootTwoOverPi * kCubic), set(-kTwiceRootTwoOverPi));
  // Beyond e^88 the sigmoid is 0 in fp32; NaN survives in x itself.
  return exp(hn::Min(hn::Mul(x, factor), set(88.0F)));
}

struct Gelu {
  HWY_INLINE Floats operator()(Floats x) const {
    return hn::Div(x, hn::Add(set(1.0F), exp_minus_2u(x, hn::Mul(x, x))));
  }
};

// s + x s (1 - s) 2u' with s = 1 / (1 + e), e = e^(-2u), so s (1 - s) = e s s.
struct GeluGradient {
  HWY_INLINE Floats operator()(Floats x, Floats dy) const {
    const Floats square = hn::Mul(x, x);
    const Floats e = exp_minus_2u(x, square);
    const Floats s = hn::Div(set(1.0F), hn::Add(set(1.0F), e));
    const Floats slope = hn::MulAdd(square, set(3.0F * kTwiceRootTwoOverPi * kCubic), set(kTwiceRootTwoOverPi));
    const Floats bend = hn::Mul(hn::Mul(x, slope), hn::Mul(hn::Mul(e, s), s));
    return hn::Mul(dy, hn::Add(s, bend));
  }
};

struct Sum {
  HWY_INLINE Floats operator()(Floats a, Floats b) const { return hn::Add(a, b); }
};

struct Same {
  HWY_INLINE Floats operator()(Floats x) const { return x; }
};

template <typename In, typename Out, class Op>
HWY_INLINE void map(int64_t count, const In* x, Out* y, Op op) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(op(load(x + i)), y + i);
  if (i < count) store_part(op(load_part(x + i, count - i)), y + i, count - i);
}

template <typename T, class Op>
HWY_INLINE void map(int64_t count, const T* a, const T* b, T* out, Op op) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(op(load(a + i), load(b + i)), out + i);
  if (i < count) {
    const int64_t rest = count - i;
    store_part(op(load_part(a + i, rest), load_part(b + i, rest)), out + i, rest);
  }
}

void gelu_part(int64_t count, ConstRef x, Ref y) {
  if (x.dtype == DType::f32) return map(count, x.as<float>(), y.as<float>(), Gelu());
  map(count, x.as<bf16>(), y.as<bf16>(), Gelu());
}

void gelu_gradient_part(int64_t count, ConstRef x, ConstRef dy, Ref dx) {
  if (x.dtype == DType::f32) return map(count, x.as<float>(), dy.as<float>(), dx.as<float>(), GeluGradient());
  map(count, x.as<bf16>(), dy.as<bf16>(), dx.as<bf16>(), GeluGradient());
}

void add_part(int64_t count, ConstRef a, ConstRef b, Ref out) {
  if (a.dtype == DType::f32) return map(count, a.as<float>(), b.as<float>(), out.as<float>(), Sum());
  map(count, a.as<bf16>(), b.as<bf16>(), out.as<bf16>(), Sum());
}

void cast_part(int64_t count, ConstRef in, Ref out) {
  if (in.dtype == DType::f32) return map(count, in.as<float>(), out.as<bf16>(), Same());
  map(count, in.as<bf16>(), out.as<float>(), Same());
}

}  // namespace
}  // namespace ridgeline::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ridgeline::ops {
namespace cpu {
HWY_EXPORT(gelu_part);
HWY_EXPORT(gelu_gradient_part);
HWY_EXPORT(add_part);
HWY_EXPORT(cast_part);

void gelu_forward_rows(int64_t rows, int64_t columns, int64_t ld, ConstRef x, Ref y) {
  agree_on_targets();
  const auto part = HWY_DYNAMIC_DISPATCH(gelu_part);
  for (int64_t row = 0; row < rows; ++row) part(columns, x.at(row * ld), y.at(row * ld));
}

void gelu_backward_rows(int64_t rows, int64_t columns, int64_t ld, ConstRef x, ConstRef dy, Ref dx) {
  agree_on_targets();
  const auto part = HWY_DYNAMIC_DISPATCH(gelu_gradient_part);
  for (int64_t row = 0; row < rows; ++row) part(columns, x.at(row * ld), dy.at(row * ld), dx.at(row * ld));
}

}  // namespace cpu

namespace {

// Elements below which waking another member costs more than it saves; whole cache lines in every dtype.
constexpr int64_t kGrain = 16384;

void require_float(ConstRef x) {
  RL_REQUIRE(x.dtype == DType::f32 || x.dtype == DType::bf16, "dtype {}", name_of(x.dtype));
}

void require_one_dtype(ConstRef a, ConstRef b) {
  RL_CHECK(name_of(a.dtype), ==, name_of(b.dtype));
}

}  // namespace

void gelu_forward(device::Stream& stream, int64_t count, ConstRef x, Ref y) {
  require_float(x);
  require_one_dtype(x, y);
  cpu::agree_on_targets();
  const auto part = HWY_DYNAMIC_DISPATCH(cpu::gelu_part);
  stream.team().parallel_for(count, kGrain,
                             [&](int64_t first, int64_t last) { part(last - first, x.at(first), y.at(first)); });
}

void gelu_backward(device::Stream& stream, int64_t count, ConstRef x, ConstRef dy, Ref dx) {
  require_float(x);
  require_one_dtype(x, dy);
  require_one_dtype(x, dx);
  cpu::agree_on_targets();
  const auto part = HWY_DYNAMIC_DISPATCH(cpu::gelu_gradient_part);
  stream.team().parallel_for(
      count, kGrain, [&](int64_t first, int64_t last) { part(last - first, x.at(first), dy.at(first), dx.at(first)); });
}

void add(device::Stream& stream, int64_t count, ConstRef a, ConstRef b, Ref out) {
  require_float(a);
  require_one_dtype(a, b);
  require_one_dtype(a, out);
  cpu::agree_on_targets();
  const auto part = HWY_DYNAMIC_DISPATCH(cpu::add_part);
  stream.team().parallel_for(
      count, kGrain, [&](int64_t first, int64_t last) { part(last - first, a.at(first), b.at(first), out.at(first)); });
}

void cast(device::Stream& stream, int64_t count, ConstRef in, Ref out) {
  if (in.dtype == out.dtype) {
    stream.team().parallel_for(count, kGrain, [&](int64_t first, int64_t last) {
      std::memcpy(out.at(first).data, in.at(first).data, static_cast<size_t>((last - first) * size_of(in.dtype)));
    });
    return;
  }
  require_float(in);
  require_float(out);
  cpu::agree_on_targets();
  const auto part = HWY_DYNAMIC_DISPATCH(cpu::cast_part);
  stream.team().parallel_for(count, kGrain,
                             [&](int64_t first, int64_t last) { part(last - first, in.at(first), out.at(first)); });
}

void zero(device::Stream& stream, void* data, int64_t bytes) {
  stream.team().parallel_for(bytes, 4 * kGrain, [&](int64_t first, int64_t last) {
    std::memset(static_cast<char*>(data) + first, 0, static_cast<size_t>(last - first));
  });
}

}  // namespace ridgeline::ops
#endif

// GELU in both forms, SiLU, SwiGLU.
#include <algorithm>

#include "ridgeline/base/error.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/ops/cpu/elementwise_rows.h"
#include "ridgeline/ops/cpu/require.h"
#include "ridgeline/ops/cpu/simd_targets.h"
#include "ridgeline/ops/elementwise.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ridgeline/ops/cpu/activation.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "ridgeline/ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ridgeline::ops::cpu::HWY_NAMESPACE {
namespace {

// ---- the tanh form ----------------------------------------------------------------------------------------------

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

// ---- the erf form -----------------------------------------------------------------------------------------------

// The normal distribution at x: its density up to 1/sqrt(2 pi), e^(-x^2/2), and Phi(x).
struct Normal {
  Floats bell, phi;
};

// The rounding error of the square of x: x^2 = square + it.
HWY_INLINE Floats error_of_square(Floats x, Floats square) {
#if HWY_TARGET == HWY_SCALAR  // where MulSub rounds twice
  const double exact = static_cast<double>(hn::GetLane(x)) * static_cast<double>(hn::GetLane(x));
  return set(static_cast<float>(exact - static_cast<double>(hn::GetLane(square))));
#else
  return hn::MulSub(x, x, square);
#endif
}

// Phi(-t) = e^(-t^2/2) w P(w), w = 1 / (1 + 0.3 t), for t >= 0: the form of Hastings (1955; Abramowitz & Stegun,
// 7.1.26), here with a polynomial of degree 9 through the Chebyshev nodes of [0.2, 1], in w - 0.6 (own fit, computed
// with 30 digits; relative error 2^-26 with the coefficients in fp32). Phi(x) keeps its digits on both sides: nothing
// is subtracted from 1 where x < 0. The error of t^2 goes into e^(-t^2/2) to first order, since the exponent's absolute
// error is the result's relative one.
HWY_INLINE Normal normal(Floats x) {
  const Floats t = hn::Abs(x);
  // Beyond, e^(-t^2/2) is 0; the bound keeps infinity out of the differences. Not a minimum, which may lose NaN.
  const Floats bounded = hn::IfThenElse(hn::Gt(t, set(14.0F)), set(14.0F), t);
  const Floats square = hn::Mul(bounded, bounded);
  const Floats rough = exp(hn::Mul(square, set(-0.5F)));
  const Floats bell = hn::NegMulAdd(hn::Mul(rough, set(0.5F)), error_of_square(bounded, square), rough);
  const Floats w = hn::Div(set(1.0F), hn::MulAdd(bounded, set(0.3F), set(1.0F)));
  const Floats v = hn::Sub(w, set(0.6F));
  Floats p = hn::MulAdd(set(-0x1.5582bap-6F), v, set(0x1.225f1ap-10F));
  p = hn::MulAdd(p, v, set(0x1.6aba0cp-5F));
  p = hn::MulAdd(p, v, set(-0x1.efe08ap-8F));
  p = hn::MulAdd(p, v, set(-0x1.74f6cep-4F));
  p = hn::MulAdd(p, v, set(-0x1.c4cf3ap-7F));
  p = hn::MulAdd(p, v, set(0x1.cd8798p-3F));
  p = hn::MulAdd(p, v, set(0x1.a7acb8p-2F));
  p = hn::MulAdd(p, v, set(0x1.9edc2cp-2F));
  p = hn::MulAdd(p, v, set(0x1.08c748p-2F));
  const Floats tail = hn::Mul(bell, hn::Mul(w, p));
  return {bell, hn::IfThenElse(hn::Lt(x, zeros()), tail, hn::Sub(set(1.0F), tail))};
}

struct GeluErf {
  HWY_INLINE Floats operator()(Floats x) const { return hn::Mul(x, normal(x).phi); }
};

// Phi(x) + x e^(-x^2/2) / sqrt(2 pi)
struct GeluErfGradient {
  HWY_INLINE Floats operator()(Floats x, Floats dy) const {
    const Normal n = normal(x);
    return hn::Mul(dy, hn::MulAdd(hn::Mul(x, set(0.398942280F)), n.bell, n.phi));
  }
};

// ---- SiLU -------------------------------------------------------------------------------------------------------

// s = 1 / (1 + e^-x) and 1 - s, each with its digits where it is small.
struct Sigmoid {
  Floats s, rest;
};

HWY_INLINE Sigmoid sigmoid(Floats x) {
  const Floats e = exp(hn::Min(hn::Neg(x), set(88.0F)));  // NaN survives in x itself
  const Floats s = hn::Div(set(1.0F), hn::Add(set(1.0F), e));
  // Below -88 the sigmoid is nearly 0; exactly 0 lets x s vanish for the largest x too.
  return {hn::IfThenZeroElse(hn::Lt(x, set(-88.0F)), s), hn::Mul(e, s)};
}

struct Silu {
  HWY_INLINE Floats operator()(Floats x) const { return hn::Mul(x, sigmoid(x).s); }
};

// s (1 + x (1 - s))
HWY_INLINE Floats silu_slope(Floats x, Sigmoid s) {
  return hn::MulAdd(hn::Mul(x, s.s), s.rest, s.s);
}

struct SiluGradient {
  HWY_INLINE Floats operator()(Floats x, Floats dy) const { return hn::Mul(dy, silu_slope(x, sigmoid(x))); }
};

// ---- loops ------------------------------------------------------------------------------------------------------

void activation_part(Activation activation, int64_t count, ConstRef x, Ref y) {
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    switch (activation) {
      case Activation::gelu_tanh:
        return map(count, Gelu(), y.as<T>(), x.as<T>());
      case Activation::gelu_erf:
        return map(count, GeluErf(), y.as<T>(), x.as<T>());
      case Activation::silu:
        return map(count, Silu(), y.as<T>(), x.as<T>());
    }
    RL_NO_CASE(activation);
  });
}

void activation_gradient_part(Activation activation, int64_t count, ConstRef x, ConstRef dy, Ref dx) {
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    switch (activation) {
      case Activation::gelu_tanh:
        return map(count, GeluGradient(), dx.as<T>(), x.as<T>(), dy.as<T>());
      case Activation::gelu_erf:
        return map(count, GeluErfGradient(), dx.as<T>(), x.as<T>(), dy.as<T>());
      case Activation::silu:
        return map(count, SiluGradient(), dx.as<T>(), x.as<T>(), dy.as<T>());
    }
    RL_NO_CASE(activation);
  });
}

// One row: gate_up [2][F], out [F].
void swiglu_row(int64_t f, ConstRef gate_up, Ref out) {
  with_type(out.dtype, [&](auto type) {
    using T = decltype(type);
    const T* gate = gate_up.as<T>();
    const auto gated = [](Floats g, Floats up) { return hn::Mul(Silu()(g), up); };
    map(f, gated, out.as<T>(), gate, gate + f);
  });
}

struct GateUp {
  Floats gate, up;
};

HWY_INLINE GateUp swiglu_gradient(Floats gate, Floats up, Floats dout) {
  const Sigmoid s = sigmoid(gate);
  return {hn::Mul(hn::Mul(dout, up), silu_slope(gate, s)), hn::Mul(dout, hn::Mul(gate, s.s))};
}

// One row; dgate_up may be gate_up.
void swiglu_gradient_row(int64_t f, ConstRef gate_up, ConstRef dout, Ref dgate_up) {
  with_type(dout.dtype, [&](auto type) {
    using T = decltype(type);
    const T *gate = gate_up.as<T>(), *up = gate + f, *d = dout.as<T>();
    T *dgate = dgate_up.as<T>(), *dup = dgate + f;
    int64_t i = 0;
    for (; i + kLanes <= f; i += kLanes) {
      const GateUp g = swiglu_gradient(load(gate + i), load(up + i), load(d + i));
      store(g.gate, dgate + i);
      store(g.up, dup + i);
    }
    if (const int64_t rest = f - i; rest > 0) {
      const GateUp g = swiglu_gradient(load_part(gate + i, rest), load_part(up + i, rest), load_part(d + i, rest));
      store_part(g.gate, dgate + i, rest);
      store_part(g.up, dup + i, rest);
    }
  });
}

}  // namespace
}  // namespace ridgeline::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ridgeline::ops {
namespace cpu {
HWY_EXPORT(activation_part);
HWY_EXPORT(activation_gradient_part);
HWY_EXPORT(swiglu_row);
HWY_EXPORT(swiglu_gradient_row);

void gelu_forward_rows(int64_t rows, int64_t columns, int64_t ld, ConstRef x, Ref y) {
  agree_on_targets();
  const auto part = HWY_DYNAMIC_DISPATCH(activation_part);
  for (int64_t row = 0; row < rows; ++row) part(Activation::gelu_tanh, columns, x.at(row * ld), y.at(row * ld));
}

void gelu_backward_rows(int64_t rows, int64_t columns, int64_t ld, ConstRef x, ConstRef dy, Ref dx) {
  agree_on_targets();
  const auto part = HWY_DYNAMIC_DISPATCH(activation_gradient_part);
  for (int64_t row = 0; row < rows; ++row) {
    part(Activation::gelu_tanh, columns, x.at(row * ld), dy.at(row * ld), dx.at(row * ld));
  }
}

}  // namespace cpu

namespace {

// Elements below which waking another member costs more than it saves; whole cache lines in every dtype.
constexpr int64_t kGrain = 16384;

}  // namespace

void activation_forward(device::Stream& stream, Activation activation, int64_t count, ConstRef x, Ref y) {
  cpu::require_float(x);
  cpu::require_one_dtype(x, y);
  cpu::agree_on_targets();
  const auto part = HWY_DYNAMIC_DISPATCH(cpu::activation_part);
  stream.team().parallel_for(
      count, kGrain, [&](int64_t first, int64_t last) { part(activation, last - first, x.at(first), y.at(first)); });
}

void activation_backward(device::Stream& stream, Activation activation, int64_t count, ConstRef x, ConstRef dy,
                         Ref dx) {
  cpu::require_float(x);
  cpu::require_one_dtype(x, dy);
  cpu::require_one_dtype(x, dx);
  cpu::agree_on_targets();
  const auto part = HWY_DYNAMIC_DISPATCH(cpu::activation_gradient_part);
  stream.team().parallel_for(count, kGrain, [&](int64_t first, int64_t last) {
    part(activation, last - first, x.at(first), dy.at(first), dx.at(first));
  });
}

void gelu_forward(device::Stream& stream, int64_t count, ConstRef x, Ref y) {
  activation_forward(stream, Activation::gelu_tanh, count, x, y);
}

void gelu_backward(device::Stream& stream, int64_t count, ConstRef x, ConstRef dy, Ref dx) {
  activation_backward(stream, Activation::gelu_tanh, count, x, dy, dx);
}

void swiglu_forward(device::Stream& stream, int64_t n, int64_t f, ConstRef gate_up, Ref out) {
  cpu::require_float(gate_up);
  cpu::require_one_dtype(gate_up, out);
  cpu::agree_on_targets();
  const auto row = HWY_DYNAMIC_DISPATCH(cpu::swiglu_row);
  stream.team().parallel_for(n, std::max<int64_t>(1, kGrain / f), [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) row(f, gate_up.at(2 * i * f), out.at(i * f));
  });
}

void swiglu_backward(device::Stream& stream, int64_t n, int64_t f, ConstRef gate_up, ConstRef dout, Ref dgate_up) {
  cpu::require_float(gate_up);
  cpu::require_one_dtype(gate_up, dout);
  cpu::require_one_dtype(gate_up, dgate_up);
  cpu::agree_on_targets();
  const auto row = HWY_DYNAMIC_DISPATCH(cpu::swiglu_gradient_row);
  stream.team().parallel_for(n, std::max<int64_t>(1, kGrain / f), [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) row(f, gate_up.at(2 * i * f), dout.at(i * f), dgate_up.at(2 * i * f));
  });
}

}  // namespace ridgeline::ops
#endif

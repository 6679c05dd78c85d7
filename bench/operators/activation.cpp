#include <fmt/format.h>

#include <cmath>
#include <numbers>

#include "bench/operators/operator.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/ops/elementwise.h"

namespace ridgeline::operators {
namespace {

using Doubles = std::vector<double>;

// An activation and its derivative, in double.
struct Function {
  const char* name;
  ops::Activation activation;
  double (*value)(double);
  double (*slope)(double);
};

double gelu_slope(double x) {
  const double k = std::sqrt(2.0 / std::numbers::pi);
  const double t = std::tanh(k * (x + 0.044715 * x * x * x));
  return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * k * (1.0 + 3.0 * 0.044715 * x * x);
}

double gelu_erf(double x) {
  return 0.5 * x * std::erfc(-x / std::numbers::sqrt2);
}

double gelu_erf_slope(double x) {
  return 0.5 * std::erfc(-x / std::numbers::sqrt2) + x * std::exp(-0.5 * x * x) / std::sqrt(2.0 * std::numbers::pi);
}

double silu(double x) {
  return x / (1.0 + std::exp(-x));
}

double silu_slope(double x) {
  const double s = 1.0 / (1.0 + std::exp(-x));
  return s * (1.0 + x * (1.0 - s));
}

constexpr Function kFunctions[] = {{"gelu", ops::Activation::gelu_tanh, gelu, gelu_slope},
                                   {"gelu_erf", ops::Activation::gelu_erf, gelu_erf, gelu_erf_slope},
                                   {"silu", ops::Activation::silu, silu, silu_slope}};

void compare(Stream& stream, Report& report, const Function& f, DType dtype, int64_t count, double width) {
  const Tensor x = Tensor::random(dtype, count, 1, width), dy = Tensor::random(dtype, count, 2);
  Tensor y(dtype, count), dx(dtype, count);
  ops::activation_forward(stream, f.activation, count, x.ref(), y.ref());
  ops::activation_backward(stream, f.activation, count, x.ref(), dy.ref(), dx.ref());
  const Doubles xs = x.values(), dys = dy.values();
  Doubles expected(xs.size()), slope(xs.size());
  for (size_t i = 0; i < xs.size(); ++i) {
    expected[i] = f.value(xs[i]);
    slope[i] = dys[i] * f.slope(xs[i]);
  }
  report.compare("y", y, expected, tolerance(dtype));
  report.compare("dx", dx, slope, tolerance(dtype));
  const auto weighted = [&](std::span<const double> at) {
    double sum = 0.0;
    for (size_t i = 0; i < at.size(); ++i) sum += f.value(at[i]) * dys[i];
    return sum;
  };
  report.finite_differences("dx", weighted, xs, slope);
}

struct Swiglu {
  int64_t n, f;

  Doubles forward(std::span<const double> x) const {
    Doubles out(static_cast<size_t>(n * f));
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < f; ++j) out[i * f + j] = silu(x[2 * i * f + j]) * x[(2 * i + 1) * f + j];
    }
    return out;
  }
  Doubles backward(std::span<const double> x, std::span<const double> dout) const {
    Doubles d(x.size());
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < f; ++j) {
        const double gate = x[2 * i * f + j], up = x[(2 * i + 1) * f + j], g = dout[i * f + j];
        d[2 * i * f + j] = g * up * silu_slope(gate);
        d[(2 * i + 1) * f + j] = g * silu(gate);
      }
    }
    return d;
  }
};

void compare_swiglu(Stream& stream, Report& report, DType dtype, int64_t n, int64_t f) {
  const Swiglu op{n, f};
  const Tensor x = Tensor::random(dtype, 2 * n * f, 1, 4.0), dout = Tensor::random(dtype, n * f, 2);
  Tensor out(dtype, n * f), dx(dtype, 2 * n * f);
  ops::swiglu_forward(stream, n, f, x.ref(), out.ref());
  ops::swiglu_backward(stream, n, f, x.ref(), dout.ref(), dx.ref());
  const Doubles xs = x.values(), ds = dout.values(), expected = op.backward(xs, ds);
  report.compare("out", out, op.forward(xs), tolerance(dtype));
  report.compare("dgate_up", dx, expected, tolerance(dtype));
  report.finite_differences(
      "dgate_up", [&](auto at) { return dot(op.forward(at), ds); }, xs, expected);
  // In place.
  Tensor own(dtype, xs);
  ops::swiglu_backward(stream, n, f, own.ref(), dout.ref(), own.ref());
  report.compare("in place", own, dx.values(), 0.0);
}

void check(Checks& checks, const Function& f) {
  for (const DType dtype : kStored) {
    for (const int64_t count : {1, 37, 1024, 50003}) {
      for (const double width : {0.5, 4.0, 12.0}) {
        checks.add(dtype, fmt::format("count={} width={}", count, width),
                   [=](Stream& stream, Report& report) { compare(stream, report, f, dtype, count, width); });
      }
    }
  }
}

void check_swiglu(Checks& checks) {
  for (const DType dtype : kStored) {
    for (const Swiglu& s : {Swiglu{1, 1}, Swiglu{3, 37}, Swiglu{130, 172}, Swiglu{2, 20001}}) {
      checks.add(dtype, fmt::format("N={} F={}", s.n, s.f),
                 [=](Stream& stream, Report& report) { compare_swiglu(stream, report, dtype, s.n, s.f); });
    }
  }
}

void measure(Measurement& to, const Function& f) {
  Stream& stream = to.stream();
  for (const DType dtype : kMeasured) {
    const double bytes = elements(kN, kF) * static_cast<double>(size_of(dtype));
    const Ref x = to.buffer(kN * kF, dtype), y = to.buffer(kN * kF, dtype);
    to.add(fmt::format("{}_forward", f.name), dtype, 0, 2 * bytes,
           [=, &stream] { ops::activation_forward(stream, f.activation, kN * kF, x, y); });
    to.add(fmt::format("{}_backward", f.name), dtype, 0, 3 * bytes,
           [=, &stream] { ops::activation_backward(stream, f.activation, kN * kF, x, y, y); });
  }
}

// F as wide as GPT-2's, although a model with a gate would take two thirds of it: one row beside another.
void measure_swiglu(Measurement& to) {
  Stream& stream = to.stream();
  for (const DType dtype : kMeasured) {
    const double bytes = elements(kN, kF) * static_cast<double>(size_of(dtype));
    const Ref gate_up = to.buffer(2 * kN * kF, dtype), out = to.buffer(kN * kF, dtype),
              dgate_up = to.buffer(2 * kN * kF, dtype);
    to.add("swiglu_forward", dtype, 0, 3 * bytes, [=, &stream] { ops::swiglu_forward(stream, kN, kF, gate_up, out); });
    to.add("swiglu_backward", dtype, 0, 5 * bytes,
           [=, &stream] { ops::swiglu_backward(stream, kN, kF, gate_up, out, dgate_up); });
  }
}

}  // namespace

void add_activation(std::vector<Operator>& list) {
  for (const Function& f : kFunctions)
    list.push_back({f.name, [&f](Checks& checks) { check(checks, f); }, [&f](Measurement& to) { measure(to, f); }});
  list.push_back({"swiglu", check_swiglu, measure_swiglu});
}

}  // namespace ridgeline::operators

#include "ridgeline/ops/norm.h"

#include <fmt/format.h>

#include <cmath>

#include "bench/operators/operator.h"
#include "ridgeline/device/cpu/worker_team.h"

namespace ridgeline::operators {
namespace {

using Doubles = std::vector<double>;
constexpr double kEpsilon = 1e-5;

struct Moments {
  double mean, rstd;
};

Moments moments(std::span<const double> row) {
  double mean = 0.0, variance = 0.0;
  for (const double x : row) mean += x;
  mean /= static_cast<double>(row.size());
  for (const double x : row) variance += (x - mean) * (x - mean);
  return {mean, 1.0 / std::sqrt(variance / static_cast<double>(row.size()) +
                                static_cast<double>(static_cast<float>(kEpsilon)))};
}

struct Layernorm {
  int64_t n, c;

  Doubles forward(std::span<const double> x, std::span<const double> weight, std::span<const double> bias) const {
    Doubles y(x.size());
    for (int64_t i = 0; i < n; ++i) {
      const auto [mean, rstd] = moments(x.subspan(i * c, c));
      for (int64_t j = 0; j < c; ++j) y[i * c + j] = (x[i * c + j] - mean) * rstd * weight[j] + bias[j];
    }
    return y;
  }

  struct Gradients {
    Doubles dx, dweight, dbias;
  };

  Gradients backward(std::span<const double> x, std::span<const double> weight, std::span<const double> dy) const {
    Gradients g{Doubles(x.size()), Doubles(c), Doubles(c)};
    for (int64_t i = 0; i < n; ++i) {
      const auto [mean, rstd] = moments(x.subspan(i * c, c));
      double mean_g = 0.0, mean_gh = 0.0;
      for (int64_t j = 0; j < c; ++j) {
        const double h = (x[i * c + j] - mean) * rstd, d = dy[i * c + j];
        g.dweight[j] += d * h;
        g.dbias[j] += d;
        mean_g += d * weight[j] / static_cast<double>(c);
        mean_gh += d * weight[j] * h / static_cast<double>(c);
      }
      for (int64_t j = 0; j < c; ++j) {
        const double h = (x[i * c + j] - mean) * rstd;
        g.dx[i * c + j] = rstd * (dy[i * c + j] * weight[j] - mean_g - h * mean_gh);
      }
    }
    return g;
  }
};

Doubles plus(std::span<const double> a, std::span<const double> b) {
  Doubles sum(a.begin(), a.end());
  for (size_t i = 0; i < sum.size(); ++i) sum[i] += b[i];
  return sum;
}

// The statistics that forward hands to backward, checked as well.
struct Statistics {
  Doubles mean, rstd;
  explicit Statistics(const Layernorm& op, std::span<const double> x) {
    for (int64_t i = 0; i < op.n; ++i) {
      const Moments m = moments(x.subspan(i * op.c, op.c));
      mean.push_back(m.mean);
      rstd.push_back(m.rstd);
    }
  }
};

void compare_layernorm(Stream& stream, Report& report, DType dtype, DType weights, int64_t n, int64_t c,
                       double center) {
  const Layernorm op{n, c};
  const Tensor x = Tensor::random(dtype, n * c, 1, 2.0, center), dy = Tensor::random(dtype, n * c, 2);
  const Tensor dresidual = Tensor::random(dtype, n * c, 3);
  const Tensor weight = Tensor::random(weights, c, 4, 0.5, 1.0), bias = Tensor::random(weights, c, 5);
  Tensor y(dtype, n * c), mean(DType::f32, n), rstd(DType::f32, n), dx(dtype, n * c);
  Tensor dweight = Tensor::random(DType::f32, c, 6), dbias = Tensor::random(DType::f32, c, 7);
  const Doubles dweight0 = dweight.values(), dbias0 = dbias.values();

  ops::layernorm_forward(stream, n, c, static_cast<float>(kEpsilon), x.ref(), weight.ref(), bias.ref(), y.ref(),
                         mean.as<float>(), rstd.as<float>());
  Workspace workspace(ops::layernorm_backward_workspace_bytes(n, c, stream.team().size()));
  ops::layernorm_backward(stream, n, c, x.ref(), weight.ref(), mean.as<float>(), rstd.as<float>(), dy.ref(),
                          dresidual.ref(), dx.ref(), dweight.as<float>(), dbias.as<float>(), workspace.lent());

  const Doubles xs = x.values(), ws = weight.values(), bs = bias.values(), dys = dy.values();
  const auto expected = op.backward(xs, ws, dys);
  const Statistics statistics(op, xs);
  // Subtracting a mean that is `center / width` times larger than what is left costs as many units in the last place.
  const double fp32 = 2e-6 * (1.0 + std::abs(center));
  const double stored = std::max(fp32, tolerance(dtype));
  report.compare("y", y, op.forward(xs, ws, bs), stored);
  report.compare("mean", mean, statistics.mean, 2e-6);
  report.compare("rstd", rstd, statistics.rstd, fp32);
  report.compare("dx", dx, plus(expected.dx, dresidual.values()), stored);
  report.compare("dweight", dweight, plus(expected.dweight, dweight0), fp32);
  report.compare("dbias", dbias, plus(expected.dbias, dbias0), 2e-6);

  report.finite_differences(
      "dx", [&](auto at) { return dot(op.forward(at, ws, bs), dys); }, xs, expected.dx);
  report.finite_differences(
      "dweight", [&](auto at) { return dot(op.forward(xs, at, bs), dys); }, ws, expected.dweight);
  report.finite_differences(
      "dbias", [&](auto at) { return dot(op.forward(xs, ws, at), dys); }, bs, expected.dbias);
}

// A norm without bias is one with a bias of 0, to the bit (sums of +0 and -0 apart, which compare as equal values).
void compare_no_bias(Stream& stream, Report& report, DType dtype, DType weights, int64_t n, int64_t c) {
  const Tensor x = Tensor::random(dtype, n * c, 1, 2.0), dy = Tensor::random(dtype, n * c, 2);
  const Tensor weight = Tensor::random(weights, c, 4, 0.5, 1.0), zero(weights, c);
  Tensor y(dtype, n * c), expected_y(dtype, n * c), dx(dtype, n * c), expected_dx(dtype, n * c);
  Tensor mean(DType::f32, n), rstd(DType::f32, n), dweight(DType::f32, c), expected_dweight(DType::f32, c);
  Tensor dbias(DType::f32, c);
  const auto epsilon = static_cast<float>(kEpsilon);
  ops::layernorm_forward(stream, n, c, epsilon, x.ref(), weight.ref(), zero.ref(), expected_y.ref(), nullptr, nullptr);
  ops::layernorm_forward(stream, n, c, epsilon, x.ref(), weight.ref(), {}, y.ref(), mean.as<float>(), rstd.as<float>());
  Workspace workspace(ops::layernorm_backward_workspace_bytes(n, c, stream.team().size()));
  ops::layernorm_backward(stream, n, c, x.ref(), weight.ref(), mean.as<float>(), rstd.as<float>(), dy.ref(), {},
                          expected_dx.ref(), expected_dweight.as<float>(), dbias.as<float>(), workspace.lent());
  ops::layernorm_backward(stream, n, c, x.ref(), weight.ref(), mean.as<float>(), rstd.as<float>(), dy.ref(), {},
                          dx.ref(), dweight.as<float>(), nullptr, workspace.lent());
  report.compare("y", y, expected_y.values(), 0.0);
  report.compare("dx", dx, expected_dx.values(), 0.0);
  report.compare("dweight", dweight, expected_dweight.values(), 0.0);
}

struct RmsNorm {
  int64_t n, c;

  double rstd(std::span<const double> x, int64_t i) const {
    const auto row = x.subspan(i * c, c);
    return 1.0 / std::sqrt(dot(row, row) / static_cast<double>(c) + static_cast<double>(static_cast<float>(kEpsilon)));
  }

  Doubles forward(std::span<const double> x, std::span<const double> weight) const {
    Doubles y(x.size());
    for (int64_t i = 0; i < n; ++i) {
      const double r = rstd(x, i);
      for (int64_t j = 0; j < c; ++j) y[i * c + j] = x[i * c + j] * r * weight[j];
    }
    return y;
  }

  struct Gradients {
    Doubles dx, dweight;
  };

  // From the quotient rule: d rstd / dx_k = -rstd^3 x_k / C.
  Gradients backward(std::span<const double> x, std::span<const double> weight, std::span<const double> dy) const {
    Gradients g{Doubles(x.size()), Doubles(c)};
    for (int64_t i = 0; i < n; ++i) {
      const double r = rstd(x, i);
      double sum = 0.0;
      for (int64_t j = 0; j < c; ++j) {
        sum += dy[i * c + j] * weight[j] * x[i * c + j];
        g.dweight[j] += dy[i * c + j] * x[i * c + j] * r;
      }
      for (int64_t j = 0; j < c; ++j) {
        g.dx[i * c + j] = dy[i * c + j] * weight[j] * r - r * r * r * x[i * c + j] * sum / static_cast<double>(c);
      }
    }
    return g;
  }
};

void compare_rmsnorm(Stream& stream, Report& report, DType dtype, DType weights, int64_t n, int64_t c, double center) {
  const RmsNorm op{n, c};
  const Tensor x = Tensor::random(dtype, n * c, 1, 2.0, center), dy = Tensor::random(dtype, n * c, 2);
  const Tensor dresidual = Tensor::random(dtype, n * c, 3), weight = Tensor::random(weights, c, 4, 0.5, 1.0);
  Tensor y(dtype, n * c), rstd(DType::f32, n), dx(dtype, n * c), dweight = Tensor::random(DType::f32, c, 6);
  const Doubles dweight0 = dweight.values();
  ops::rmsnorm_forward(stream, n, c, static_cast<float>(kEpsilon), x.ref(), weight.ref(), y.ref(), rstd.as<float>());
  Workspace workspace(ops::rmsnorm_backward_workspace_bytes(n, c, stream.team().size()));
  ops::rmsnorm_backward(stream, n, c, x.ref(), weight.ref(), rstd.as<float>(), dy.ref(), dresidual.ref(), dx.ref(),
                        dweight.as<float>(), workspace.lent());

  const Doubles xs = x.values(), ws = weight.values(), dys = dy.values();
  const auto expected = op.backward(xs, ws, dys);
  Doubles statistics;
  for (int64_t i = 0; i < n; ++i) statistics.push_back(op.rstd(xs, i));
  report.compare("y", y, op.forward(xs, ws), tolerance(dtype));
  report.compare("rstd", rstd, statistics, 2e-6);
  report.compare("dx", dx, plus(expected.dx, dresidual.values()), tolerance(dtype));
  report.compare("dweight", dweight, plus(expected.dweight, dweight0), 2e-6);
  report.finite_differences(
      "dx", [&](auto at) { return dot(op.forward(at, ws), dys); }, xs, expected.dx);
  report.finite_differences(
      "dweight", [&](auto at) { return dot(op.forward(xs, at), dys); }, ws, expected.dweight);
}

struct NormSizes {
  int64_t n, c;
  double center;
};

// f(dtype, dtype of the weights, sizes, "N=… C=…") for each case.
template <typename F>
void for_each_case(F&& f) {
  for (const DType dtype : kStored) {
    for (const DType weights : kStored) {
      // Weights are f32, or x's dtype, or bf16 beside an f32 x.
      if (weights != dtype && (weights == DType::f16 || dtype == DType::f16) && weights != DType::f32) continue;
      for (const NormSizes& s : {NormSizes{1, 2, 0}, NormSizes{5, 37, 0}, NormSizes{33, 64, 0.5}, NormSizes{19, 131, 3},
                                 NormSizes{300, 96, 0}})
        f(dtype, weights, s, fmt::format("N={} C={} center={} weights={}", s.n, s.c, s.center, name_of(weights)));
    }
  }
}

void check_layernorm(Checks& checks) {
  for_each_case([&](DType dtype, DType weights, const NormSizes& s, const std::string& sizes) {
    checks.add(dtype, sizes, [=](Stream& stream, Report& report) {
      compare_layernorm(stream, report, dtype, weights, s.n, s.c, s.center);
    });
    checks.add(dtype, sizes + " no bias",
               [=](Stream& stream, Report& report) { compare_no_bias(stream, report, dtype, weights, s.n, s.c); });
  });
}

void check_rmsnorm(Checks& checks) {
  for_each_case([&](DType dtype, DType weights, const NormSizes& s, const std::string& sizes) {
    checks.add(dtype, sizes, [=](Stream& stream, Report& report) {
      compare_rmsnorm(stream, report, dtype, weights, s.n, s.c, s.center);
    });
  });
}

// Operands of the measured calls; backward reads x and dy and adds to the residual's gradient in place.
struct Measured {
  Ref x, y, dy, weight, bias;
  float *mean, *rstd, *dweight, *dbias;
  double bytes;  // of x

  Measured(Measurement& to, DType dtype)
      : x(to.buffer(kN * kC, dtype)),
        y(to.buffer(kN * kC, dtype)),
        dy(to.buffer(kN * kC, dtype)),
        weight(to.buffer(kC, dtype)),
        bias(to.buffer(kC, dtype)),
        mean(to.floats(kN)),
        rstd(to.floats(kN)),
        dweight(to.floats(kC)),
        dbias(to.floats(kC)),
        bytes(elements(kN, kC) * static_cast<double>(size_of(dtype))) {}
};

void measure_layernorm(Measurement& to) {
  Stream& stream = to.stream();
  const ops::Workspace scratch = to.workspace(ops::layernorm_backward_workspace_bytes(kN, kC, to.team_size()));
  for (const DType dtype : kMeasured) {
    const Measured m(to, dtype);
    to.add("layernorm_forward", dtype, 0, 2 * m.bytes,
           [=, &stream] { ops::layernorm_forward(stream, kN, kC, 1e-5F, m.x, m.weight, m.bias, m.y, m.mean, m.rstd); });
    to.add("layernorm_backward", dtype, 0, 4 * m.bytes, [=, &stream] {
      ops::layernorm_backward(stream, kN, kC, m.x, m.weight, m.mean, m.rstd, m.dy, m.y, m.y, m.dweight, m.dbias,
                              scratch);
    });
  }
}

void measure_rmsnorm(Measurement& to) {
  Stream& stream = to.stream();
  const ops::Workspace scratch = to.workspace(ops::rmsnorm_backward_workspace_bytes(kN, kC, to.team_size()));
  for (const DType dtype : kMeasured) {
    const Measured m(to, dtype);
    to.add("rmsnorm_forward", dtype, 0, 2 * m.bytes,
           [=, &stream] { ops::rmsnorm_forward(stream, kN, kC, 1e-5F, m.x, m.weight, m.y, m.rstd); });
    to.add("rmsnorm_backward", dtype, 0, 4 * m.bytes, [=, &stream] {
      ops::rmsnorm_backward(stream, kN, kC, m.x, m.weight, m.rstd, m.dy, m.y, m.y, m.dweight, scratch);
    });
  }
}

}  // namespace

void add_norm(std::vector<Operator>& list) {
  list.push_back({"layernorm", check_layernorm, measure_layernorm});
  list.push_back({"rmsnorm", check_rmsnorm, measure_rmsnorm});
}

}  // namespace ridgeline::operators

// Matrix products as a linear layer uses them: y = x W^T + b with its fused forms, dx = dy W, dW += dy^T x with db.
#include "ridgeline/ops/matmul.h"

#include <fmt/format.h>

#include <cmath>

#include "bench/operators/operator.h"
#include "ridgeline/device/cpu/worker_team.h"

namespace ridgeline::operators {
namespace {

using ops::Epilogue;
using ops::Layout;
using ops::Matmul;

struct MatmulSizes {
  int64_t m, n, k;
};

void run(Stream& stream, const Matmul& product) {
  Workspace workspace(ops::matmul_workspace_bytes(product, stream.team().size()));
  ops::matmul(stream, product, workspace.lent());
}

// y [M][N] = x [M][K] w^T + b, w [N][K].
std::vector<double> linear(MatmulSizes s, std::span<const double> x, std::span<const double> w,
                           std::span<const double> b) {
  std::vector<double> y(s.m * s.n);
  for (int64_t i = 0; i < s.m; ++i) {
    for (int64_t j = 0; j < s.n; ++j) {
      double sum = b.empty() ? 0.0 : b[j];
      for (int64_t k = 0; k < s.k; ++k) sum += x[i * s.k + k] * w[j * s.k + k];
      y[i * s.n + j] = sum;
    }
  }
  return y;
}

void check_forward(MatmulSizes s, DType dtype, Stream& stream, Report& report) {
  const Tensor x = Tensor::random(dtype, s.m * s.k, 1), w = Tensor::random(dtype, s.n * s.k, 2);
  const Tensor b = Tensor::random(DType::f32, s.n, 3), r = Tensor::random(dtype, s.m * s.n, 4);
  const std::vector<double> y = linear(s, x.values(), w.values(), b.values());
  Matmul product;
  product.m = s.m, product.n = s.n, product.k = s.k, product.ldc = s.n;
  product.a = {x.ref(), Layout::row_major, s.k};
  product.b = {w.ref(), Layout::column_major, s.k};
  product.bias = b.ref();

  Tensor plain(dtype, s.m * s.n);
  product.c = plain.ref();
  run(stream, product);
  report.compare("y", plain, y, tolerance(dtype));

  Tensor activated(dtype, s.m * s.n), before(dtype, s.m * s.n);
  product.epilogue = Epilogue::gelu;
  product.c = activated.ref();
  product.pre_activation = before.ref();
  run(stream, product);
  std::vector<double> expected(y.size());
  for (size_t i = 0; i < y.size(); ++i) expected[i] = gelu(y[i]);
  report.compare("before gelu", before, y, tolerance(dtype));
  report.compare("gelu", activated, expected, 2 * tolerance(dtype));  // rounded before and after

  Tensor sum(dtype, s.m * s.n);
  product.epilogue = Epilogue::residual;
  product.c = sum.ref();
  product.residual = r.ref();
  run(stream, product);
  const std::vector<double> residual = r.values();
  for (size_t i = 0; i < y.size(); ++i) expected[i] = y[i] + residual[i];
  report.compare("residual", sum, expected, 2 * tolerance(dtype));
}

void check_backward(MatmulSizes s, DType dtype, Stream& stream, Report& report) {
  const Tensor x = Tensor::random(dtype, s.m * s.k, 1), w = Tensor::random(dtype, s.n * s.k, 2);
  const Tensor dy = Tensor::random(dtype, s.m * s.n, 5), u = Tensor::random(dtype, s.m * s.k, 6, 2.0);
  const Tensor old_dw = Tensor::random(DType::f32, s.n * s.k, 7), old_db = Tensor::random(DType::f32, s.n, 8);
  const std::vector<double> xs = x.values(), ws = w.values(), dys = dy.values(), us = u.values();
  std::vector<double> dx(s.m * s.k), dw(s.n * s.k), db(s.n);
  for (int64_t i = 0; i < s.m; ++i) {
    for (int64_t j = 0; j < s.n; ++j) {
      const double d = dys[i * s.n + j];
      db[j] += d;
      for (int64_t k = 0; k < s.k; ++k) {
        dx[i * s.k + k] += d * ws[j * s.k + k];
        dw[j * s.k + k] += d * xs[i * s.k + k];
      }
    }
  }
  const auto loss_of_x = [&](std::span<const double> v) { return dot(linear(s, v, ws, {}), dys); };
  const auto loss_of_w = [&](std::span<const double> v) { return dot(linear(s, xs, v, {}), dys); };
  report.finite_differences("dx", loss_of_x, xs, dx);
  report.finite_differences("dw", loss_of_w, ws, dw);

  Tensor dx_out(dtype, s.m * s.k);
  Matmul product;
  product.m = s.m, product.n = s.k, product.k = s.n, product.ldc = s.k;
  product.a = {dy.ref(), Layout::row_major, s.n};
  product.b = {w.ref(), Layout::row_major, s.k};
  product.c = dx_out.ref();
  run(stream, product);
  report.compare("dx", dx_out, dx, tolerance(dtype));

  // dx through gelu at its input u.
  Tensor du_out(dtype, s.m * s.k);
  std::vector<double> du(dx.size());
  for (size_t i = 0; i < dx.size(); ++i) {
    constexpr double kStep = 1e-5;  // error 1e-10: far below the tolerance
    du[i] = dx[i] * (gelu(us[i] + kStep) - gelu(us[i] - kStep)) / (2 * kStep);
  }
  product.epilogue = Epilogue::gelu_grad;
  product.activation_input = u.ref();
  product.c = du_out.ref();
  run(stream, product);
  report.compare("du", du_out, du, 2 * tolerance(dtype));

  Tensor dw_out(DType::f32, old_dw.values()), db_out(DType::f32, old_db.values());
  const std::vector<double> dw0 = old_dw.values(), db0 = old_db.values();
  for (size_t i = 0; i < dw.size(); ++i) dw[i] += dw0[i];
  for (size_t i = 0; i < db.size(); ++i) db[i] += db0[i];
  Matmul gradient;
  gradient.m = s.n, gradient.n = s.k, gradient.k = s.m, gradient.ldc = s.k;
  gradient.a = {dy.ref(), Layout::column_major, s.n};
  gradient.b = {x.ref(), Layout::row_major, s.k};
  gradient.c = dw_out.ref();
  gradient.accumulate = true;
  gradient.row_sums_of_a = db_out.as<float>();
  run(stream, gradient);
  report.compare("dw", dw_out, dw, tolerance(DType::f32));
  report.compare("db", db_out, db, tolerance(DType::f32));
}

void check_matmul(Checks& checks) {
  for (const DType dtype : kStored) {
    for (const MatmulSizes s : {MatmulSizes{1, 50, 33}, {7, 129, 65}, {17, 5, 3}, {64, 96, 64}, {131, 47, 99}}) {
      checks.add(dtype, fmt::format("M={} N={} K={}", s.m, s.n, s.k), [=](Stream& stream, Report& report) {
        check_forward(s, dtype, stream, report);
        check_backward(s, dtype, stream, report);
      });
    }
  }
}

// ---- measured: the products of a block and of the head -----------------------------------------------------------

void add_product(Measurement& to, const std::string& name, DType dtype, const Matmul& m) {
  const ops::Workspace scratch = to.workspace(ops::matmul_workspace_bytes(m, to.team_size()));
  const double out = static_cast<double>(size_of(m.c.dtype)) * (m.accumulate ? 2 : 1);
  const double bytes =
      (elements(m.m, m.k) + elements(m.k, m.n)) * static_cast<double>(size_of(dtype)) + elements(m.m, m.n) * out;
  to.add(name, dtype, 2 * elements(m.m, m.n) * static_cast<double>(m.k), bytes,
         [&stream = to.stream(), m, scratch] { ops::matmul(stream, m, scratch); });
}

// How a weight is stored, [in][out] or [out][in].
enum class Stored { in_out, out_in };

struct Linear {
  const char* name;
  int64_t rows, in, out;
  Stored stored;
};

void measure_linear(Measurement& to, DType dtype, const Linear& s) {
  const bool in_out = s.stored == Stored::in_out;
  const int64_t ld = s.out == kV ? kLd : s.out;
  const Ref x = to.buffer(s.rows * s.in, dtype), w = to.buffer(s.in * s.out, dtype), y = to.buffer(s.rows * ld, dtype),
            dx = to.buffer(s.rows * s.in, dtype);
  const ops::Matrix weight{w, in_out ? Layout::row_major : Layout::column_major, in_out ? s.out : s.in};
  const ops::Matrix transposed{w, in_out ? Layout::column_major : Layout::row_major, in_out ? s.out : s.in};
  add_product(to, fmt::format("matmul_{}_forward", s.name), dtype,
              {.m = s.rows, .n = s.out, .k = s.in, .a = {x, Layout::row_major, s.in}, .b = weight, .c = y, .ldc = ld});
  add_product(
      to, fmt::format("matmul_{}_input_gradient", s.name), dtype,
      {.m = s.rows, .n = s.in, .k = s.out, .a = {y, Layout::row_major, ld}, .b = transposed, .c = dx, .ldc = s.in});
  Matmul gradient{.k = s.rows, .c = Ref(to.floats(s.in * s.out)), .accumulate = true};
  if (in_out) {
    gradient.m = s.in, gradient.n = gradient.ldc = s.out;
    gradient.a = {x, Layout::column_major, s.in}, gradient.b = {y, Layout::row_major, ld};
  } else {
    gradient.m = s.out, gradient.n = gradient.ldc = s.in;
    gradient.a = {y, Layout::column_major, ld}, gradient.b = {x, Layout::row_major, s.in};
  }
  add_product(to, fmt::format("matmul_{}_weight_gradient", s.name), dtype, gradient);
}

void measure_matmul(Measurement& to) {
  for (const DType dtype : kMeasured) {
    for (const Linear& s : {Linear{"qkv", kN, kC, 3 * kC, Stored::out_in}, Linear{"out", kN, kC, kC, Stored::in_out},
                            Linear{"up", kN, kC, kF, Stored::out_in}, Linear{"down", kN, kF, kC, Stored::in_out},
                            Linear{"head", kChunk, kC, kV, Stored::out_in}})
      measure_linear(to, dtype, s);
  }
}

}  // namespace

void add_matmul(std::vector<Operator>& list) {
  list.push_back({"matmul", check_matmul, measure_matmul});
}

}  // namespace ridgeline::operators

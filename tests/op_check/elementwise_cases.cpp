#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "case.h"
#include "ridgeline/base/random.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/ops/elementwise.h"

namespace ridgeline::op_check {
namespace {

using Doubles = std::vector<double>;

// ---- add, cast, zero --------------------------------------------------------------------------------------------

void check_add(Stream& stream, Report& report, DType dtype, int64_t count) {
  const Tensor a = Tensor::random(dtype, count, 1), b = Tensor::random(dtype, count, 2);
  Tensor out(dtype, count);
  ops::add(stream, count, a.ref(), b.ref(), out.ref());
  Doubles sum = a.values();
  const Doubles bs = b.values();
  for (size_t i = 0; i < sum.size(); ++i) sum[i] += bs[i];
  report.compare("out", out, sum, tolerance(dtype));
}

void check_cast(Stream& stream, Report& report, DType from, DType to, int64_t count) {
  const Tensor in = Tensor::random(from, count, 1, 3.0);
  Tensor out(to, count);
  ops::cast(stream, count, in.ref(), out.ref());
  // A conversion is one rounding: the same bits as the scalar one.
  report.compare("out", out, Tensor(to, in.values()).values(), 0.0);
}

void check_zero(Stream& stream, Report& report, DType dtype, int64_t count) {
  Tensor x = Tensor::random(dtype, count, 1);
  ops::zero(stream, x.ref().data, count * size_of(dtype));
  report.compare("x", x, Doubles(static_cast<size_t>(count)), 0.0);
}

// ---- column sums ------------------------------------------------------------------------------------------------

void check_column_sums(Stream& stream, Report& report, DType dtype, int64_t n, int64_t c, int64_t ld) {
  const Tensor x = Tensor::random(dtype, n * ld, 1, 1.0, 0.25);
  Tensor sums = Tensor::random(DType::f32, c, 2);
  Doubles expected = sums.values();
  const Doubles xs = x.values();
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < c; ++j) expected[j] += xs[i * ld + j];
  }
  Workspace workspace(ops::column_sums_workspace_bytes(n, c, stream.team().size()));
  ops::column_sums(stream, n, c, x.ref(), ld, sums.as<float>(), workspace.lent());
  report.compare("sums", sums, expected, tolerance(DType::f32));
}

// ---- dropout ----------------------------------------------------------------------------------------------------

struct Places {
  std::vector<uint32_t> samples;
  std::vector<int32_t> positions;
  explicit Places(int64_t n) : positions(random_integers(n, 2048, 9)) {
    for (const int32_t s : random_integers(n, 1 << 30, 8)) samples.push_back(static_cast<uint32_t>(s) * 3U);
  }
};

// The header's formula: 0 or 1 / (1 - p) for every element.
Doubles mask(const ops::Dropout& d, int64_t n, int64_t c) {
  Doubles result(static_cast<size_t>(n * c));
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < c; ++j) {
      const Philox4 words = philox(
          d.random_key,
          {static_cast<uint32_t>(j / 4), static_cast<uint32_t>(d.tokens.position[i]), d.site, d.tokens.sample[i]});
      const bool kept = static_cast<double>(words[j % 4]) >= static_cast<double>(d.probability) * 0x1p32;
      result[i * c + j] = kept ? 1.0 / (1.0 - static_cast<double>(d.probability)) : 0.0;
    }
  }
  return result;
}

void check_dropout(Stream& stream, Report& report, DType dtype, int64_t n, int64_t c, float probability) {
  const Places places(n);
  const ops::Dropout dropout{
      probability, random_key(7, 11, Purpose::dropout), 13, {places.samples.data(), places.positions.data()}};
  const Tensor x = Tensor::random(dtype, n * c, 1), residual = Tensor::random(dtype, n * c, 2);
  Tensor out(dtype, n * c), bare(dtype, n * c), dx(dtype, n * c);
  ops::dropout_forward(stream, n, c, dropout, x.ref(), residual.ref(), out.ref());
  ops::dropout_forward(stream, n, c, dropout, x.ref(), {}, bare.ref());
  ops::dropout_backward(stream, n, c, dropout, x.ref(), dx.ref());
  const Doubles xs = x.values(), rs = residual.values(), keep = mask(dropout, n, c), got = bare.values();
  Doubles dropped(xs.size()), sum(xs.size()), zeros_agree(xs.size());
  for (size_t i = 0; i < xs.size(); ++i) {
    dropped[i] = xs[i] * keep[i];
    sum[i] = dropped[i] + rs[i];
    zeros_agree[i] = (got[i] == 0.0) == (dropped[i] == 0.0) ? 0.0 : 1.0;
  }
  report.compare("dropped", bare, dropped, tolerance(dtype));
  report.compare("out", out, sum, tolerance(dtype));
  report.compare("dx", dx, dropped, tolerance(dtype));
  report.require("mask is the formula", norm(zeros_agree) == 0.0);
}

// ---- reductions -------------------------------------------------------------------------------------------------

void check_sums_of_squares(Stream& stream, Report& report, DType dtype, int64_t count, int64_t block) {
  const Tensor x = Tensor::random(dtype, count, 1, 100.0);
  const int64_t blocks = (count + block - 1) / block;
  Tensor partials(DType::f64, blocks);
  ops::sums_of_squares(stream, count, block, x.ref(), partials.as<double>());
  const Doubles xs = x.values();
  Doubles expected(static_cast<size_t>(blocks));
  for (int64_t i = 0; i < count; ++i) expected[i / block] += xs[i] * xs[i];
  report.compare("partials", partials, expected, 1e-12);

  Tensor bad(dtype, [&] {
    Doubles values = xs;
    values[static_cast<size_t>(count / 2)] = std::numeric_limits<double>::infinity();
    values.back() = std::numeric_limits<double>::quiet_NaN();
    return values;
  }());
  ops::sums_of_squares(stream, count, block, bad.ref(), partials.as<double>());
  report.require("infinity shows", !std::isfinite(partials.values()[count / 2 / block]));
  report.require("NaN shows", std::isnan(partials.values().back()));
  report.require("first non-finite", ops::first_non_finite(stream, count, bad.ref()) == count / 2);
  report.require("all finite", ops::first_non_finite(stream, count, x.ref()) == -1);
}

void add_dropout_and_reductions(std::vector<Case>& cases, DType dtype) {
  for (const auto& [n, c, p] :
       {std::tuple{1, 1, 0.5F}, {3, 31, 0.1F}, {7, 64, 0.0F}, {5, 101, 0.9F}, {130, 77, 0.2F}}) {
    cases.push_back({"dropout", dtype, fmt::format("N={} C={} p={}", n, c, p),
                     [=](Stream& stream, Report& report) { check_dropout(stream, report, dtype, n, c, p); }});
  }
  for (const auto& [count, block] : {std::pair{1, 16}, {1003, 64}, {70001, 4096}, {65536, 65536}}) {
    cases.push_back(
        {"sums_of_squares", dtype, fmt::format("count={} block={}", count, block),
         [=](Stream& stream, Report& report) { check_sums_of_squares(stream, report, dtype, count, block); }});
  }
}

}  // namespace

void add_elementwise_cases(std::vector<Case>& cases) {
  constexpr int64_t kCounts[] = {1, 37, 1024, 50003};
  for (const DType dtype : kStored) {
    for (const int64_t count : kCounts) {
      const std::string sizes = fmt::format("count={}", count);
      cases.push_back(
          {"add", dtype, sizes, [=](Stream& stream, Report& report) { check_add(stream, report, dtype, count); }});
      for (const DType to : kStored) {
        cases.push_back({"cast", dtype, fmt::format("{} to={}", sizes, name_of(to)),
                         [=](Stream& stream, Report& report) { check_cast(stream, report, dtype, to, count); }});
      }
      cases.push_back(
          {"zero", dtype, sizes, [=](Stream& stream, Report& report) { check_zero(stream, report, dtype, count); }});
    }
  }
  for (const DType dtype : kStored) {
    for (const auto& [n, c, ld] : {std::tuple{1, 1, 1}, {5, 33, 40}, {131, 70, 70}, {2100, 37, 37}}) {
      cases.push_back({"column_sums", dtype, fmt::format("N={} C={} ld={}", n, c, ld),
                       [=](Stream& stream, Report& report) { check_column_sums(stream, report, dtype, n, c, ld); }});
    }
  }
  for (const DType dtype : kStored) add_dropout_and_reductions(cases, dtype);
}

}  // namespace ridgeline::op_check

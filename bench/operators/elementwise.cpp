#include "ridgeline/ops/elementwise.h"

#include <fmt/format.h>

#include <cmath>
#include <functional>
#include <limits>
#include <memory>

#include "bench/operators/operator.h"
#include "ridgeline/base/exact_sum.h"
#include "ridgeline/base/random.h"
#include "ridgeline/device/cpu/worker_team.h"

namespace ridgeline::operators {
namespace {

using Doubles = std::vector<double>;

// ---- add, accumulate, cast, zero --------------------------------------------------------------------------------

void compare_add(Stream& stream, Report& report, DType dtype, int64_t count) {
  const Tensor a = Tensor::random(dtype, count, 1), b = Tensor::random(dtype, count, 2);
  Tensor out(dtype, count);
  ops::add(stream, count, a.ref(), b.ref(), out.ref());
  Doubles sum = a.values();
  const Doubles bs = b.values();
  for (size_t i = 0; i < sum.size(); ++i) sum[i] += bs[i];
  report.compare("out", out, sum, tolerance(dtype));
}

void compare_accumulate(Stream& stream, Report& report, DType dtype, int64_t count) {
  const Tensor x = Tensor::random(dtype, count, 1);
  Tensor sum = Tensor::random(DType::f32, count, 2);
  Doubles expected = sum.values();
  const Doubles xs = x.values();
  for (size_t i = 0; i < xs.size(); ++i) expected[i] += xs[i];
  ops::accumulate(stream, count, x.ref(), sum.as<float>());
  report.compare("sum", sum, expected, tolerance(DType::f32));
}

void compare_cast(Stream& stream, Report& report, DType from, DType to, int64_t count) {
  const Tensor in = Tensor::random(from, count, 1, 3.0);
  Tensor out(to, count);
  ops::cast(stream, count, in.ref(), out.ref());
  // A conversion is one rounding: the same bits as the scalar one.
  report.compare("out", out, Tensor(to, in.values()).values(), 0.0);
}

void compare_zero(Stream& stream, Report& report, DType dtype, int64_t count) {
  Tensor x = Tensor::random(dtype, count, 1);
  ops::zero(stream, x.ref().data, count * size_of(dtype));
  report.compare("x", x, Doubles(static_cast<size_t>(count)), 0.0);
}

// ---- column sums ------------------------------------------------------------------------------------------------

void compare_column_sums(Stream& stream, Report& report, DType dtype, int64_t n, int64_t c, int64_t ld) {
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

void compare_dropout(Stream& stream, Report& report, DType dtype, int64_t n, int64_t c, float probability) {
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

// The same bits as the sum of one element after the other, also when it is cut in two. Elements spread over `spread`
// powers of two.
void compare_squares(Stream& stream, Report& report, DType dtype, int64_t count, int spread) {
  Doubles values = Tensor::random(dtype, count, 1).values();
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = std::ldexp(values[i], static_cast<int>(i * 7919 % static_cast<size_t>(2 * spread + 1)) - spread);
  const Tensor x(dtype, values);
  ExactSum expected, whole, cut;
  for (const double value : x.values()) expected.add(value * value);
  ops::add_squares(stream, count, x.ref(), whole);
  const int64_t first = count / 3;
  ops::add_squares(stream, count - first, x.ref().at(first), cut);
  ops::add_squares(stream, first, x.ref(), cut);
  report.require("exact", whole.value() == expected.value());
  report.require("exact in two parts", cut.value() == expected.value());

  const auto with = [&](double value, int64_t at) {
    Doubles bad = x.values();
    bad[static_cast<size_t>(at)] = value;
    return Tensor(dtype, bad);
  };
  const Tensor infinite = with(-std::numeric_limits<double>::infinity(), count / 2);
  const Tensor nan = with(std::numeric_limits<double>::quiet_NaN(), count - 1);
  for (const Tensor* const bad : {&infinite, &nan}) {
    ExactSum sum;
    ops::add_squares(stream, count, bad->ref(), sum);
    report.require("a non-finite element shows", sum.non_finite() > 0 && std::isnan(sum.value()));
  }
  report.require("first non-finite", ops::first_non_finite(stream, count, infinite.ref()) == count / 2);
  report.require("all finite", ops::first_non_finite(stream, count, x.ref()) == -1);
}

// ---- the cases --------------------------------------------------------------------------------------------------

using Compare = void (*)(Stream&, Report&, DType, int64_t count);

// An operator that knows nothing but a number of elements.
std::function<void(Checks&)> by_count(Compare compare) {
  return [compare](Checks& checks) {
    for (const DType dtype : kStored) {
      for (const int64_t count : {1, 37, 1024, 50003}) {
        checks.add(dtype, fmt::format("count={}", count),
                   [=](Stream& stream, Report& report) { compare(stream, report, dtype, count); });
      }
    }
  };
}

void check_cast(Checks& checks) {
  for (const DType dtype : kStored) {
    for (const int64_t count : {1, 37, 1024, 50003}) {
      for (const DType to : kStored) {
        checks.add(dtype, fmt::format("count={} to={}", count, name_of(to)),
                   [=](Stream& stream, Report& report) { compare_cast(stream, report, dtype, to, count); });
      }
    }
  }
}

void check_column_sums(Checks& checks) {
  struct Sizes {
    int64_t n, c, ld;
  };
  for (const DType dtype : kStored) {
    for (const Sizes s : {Sizes{1, 1, 1}, {5, 33, 40}, {131, 70, 70}, {2100, 37, 37}}) {
      checks.add(dtype, fmt::format("N={} C={} ld={}", s.n, s.c, s.ld),
                 [=](Stream& stream, Report& report) { compare_column_sums(stream, report, dtype, s.n, s.c, s.ld); });
    }
  }
}

void check_dropout(Checks& checks) {
  struct Sizes {
    int64_t n, c;
    float p;
  };
  for (const DType dtype : kStored) {
    for (const Sizes s : {Sizes{1, 1, 0.5F}, {3, 31, 0.1F}, {7, 64, 0.0F}, {5, 101, 0.9F}, {130, 77, 0.2F}}) {
      checks.add(dtype, fmt::format("N={} C={} p={}", s.n, s.c, s.p),
                 [=](Stream& stream, Report& report) { compare_dropout(stream, report, dtype, s.n, s.c, s.p); });
    }
  }
}

void check_squares(Checks& checks) {
  for (const DType dtype : kStored) {
    // Down to subnormal numbers and up to almost the largest.
    for (const int spread : {0, dtype == DType::f16 ? 13 : 124}) {
      for (const int64_t count : {1, 37, 1003, 65536, 200001}) {
        checks.add(dtype, fmt::format("count={} spread={}", count, spread),
                   [=](Stream& stream, Report& report) { compare_squares(stream, report, dtype, count, spread); });
      }
    }
  }
}

// ---- measured ---------------------------------------------------------------------------------------------------

double bytes_of(int64_t count, DType dtype) {
  return static_cast<double>(count) * static_cast<double>(size_of(dtype));
}

void measure_add(Measurement& to) {
  for (const DType dtype : kMeasured) {
    const Ref x = to.buffer(kN * kC, dtype), y = to.buffer(kN * kC, dtype);
    to.add("add", dtype, 0, 3 * bytes_of(kN * kC, dtype),
           [=, &stream = to.stream()] { ops::add(stream, kN * kC, x, y, y); });
  }
}

void measure_accumulate(Measurement& to) {
  for (const DType dtype : kMeasured) {
    const Ref x = to.buffer(kN * kC, dtype);
    float* const sum = to.floats(kN * kC);
    to.add("accumulate", dtype, 0, bytes_of(kN * kC, dtype) + 2 * bytes_of(kN * kC, DType::f32),
           [=, &stream = to.stream()] { ops::accumulate(stream, kN * kC, x, sum); });
  }
}

// From f32: working copies of masters.
void measure_cast(Measurement& to) {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    const Ref in = to.buffer(kN * kC, DType::f32), out = to.buffer(kN * kC, dtype);
    to.add("cast", dtype, 0, bytes_of(kN * kC, DType::f32) + bytes_of(kN * kC, dtype),
           [=, &stream = to.stream()] { ops::cast(stream, kN * kC, in, out); });
  }
}

void measure_zero(Measurement& to) {
  const Ref x = to.buffer(kN * kC, DType::f32);
  to.add("zero", DType::f32, 0, bytes_of(kN * kC, DType::f32),
         [=, &stream = to.stream()] { ops::zero(stream, x.data, kN * kC * size_of(DType::f32)); });
}

void measure_column_sums(Measurement& to) {
  const ops::Workspace scratch = to.workspace(ops::column_sums_workspace_bytes(kN, kC, to.team_size()));
  for (const DType dtype : kMeasured) {
    const Ref x = to.buffer(kN * kC, dtype);
    float* const sums = to.floats(kC);
    to.add("column_sums", dtype, 0, bytes_of(kN * kC, dtype),
           [=, &stream = to.stream()] { ops::column_sums(stream, kN, kC, x, kC, sums, scratch); });
  }
}

void measure_dropout(Measurement& to) {
  const auto* const samples = reinterpret_cast<const uint32_t*>(to.numbers(kN, 1 << 30));
  const ops::Dropout dropout{0.1F, random_key(7, 11, Purpose::dropout), 13, {samples, to.numbers(kN, kT)}};
  for (const DType dtype : kMeasured) {
    const Ref x = to.buffer(kN * kC, dtype), residual = to.buffer(kN * kC, dtype), out = to.buffer(kN * kC, dtype);
    to.add("dropout_forward", dtype, 0, 3 * bytes_of(kN * kC, dtype),
           [=, &stream = to.stream()] { ops::dropout_forward(stream, kN, kC, dropout, x, residual, out); });
    to.add("dropout_backward", dtype, 0, 2 * bytes_of(kN * kC, dtype),
           [=, &stream = to.stream()] { ops::dropout_backward(stream, kN, kC, dropout, x, out); });
  }
}

void measure_squares(Measurement& to) {
  const Ref gradient(to.floats(kParameters));
  fill_normal(gradient.as<float>(), kParameters, 7, 0, 0.0F, 1e-3F);
  const auto sum = std::make_shared<ExactSum>();
  to.add("add_squares", DType::f32, 0, bytes_of(kParameters, DType::f32),
         [=, &stream = to.stream()] { ops::add_squares(stream, kParameters, gradient, *sum); });
}

}  // namespace

void add_elementwise(std::vector<Operator>& list) {
  list.push_back({"add", by_count(compare_add), measure_add});
  list.push_back({"accumulate", by_count(compare_accumulate), measure_accumulate});
  list.push_back({"cast", check_cast, measure_cast});
  list.push_back({"zero", by_count(compare_zero), measure_zero});
  list.push_back({"column_sums", check_column_sums, measure_column_sums});
  list.push_back({"dropout", check_dropout, measure_dropout});
  list.push_back({"add_squares", check_squares, measure_squares});
}

}  // namespace ridgeline::operators

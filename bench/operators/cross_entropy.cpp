#include "ridgeline/ops/cross_entropy.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "bench/operators/operator.h"
#include "ridgeline/device/cpu/worker_team.h"

namespace ridgeline::operators {
namespace {

using Doubles = std::vector<double>;

struct CrossEntropySizes {
  int64_t n, v, ld;
  double width;
};

struct CrossEntropyReference {
  CrossEntropySizes s;
  std::vector<int32_t> labels;
  double scale;

  double loss(std::span<const double> x, int64_t i) const {
    if (labels[i] == ops::kIgnoredLabel) return 0.0;
    const auto row = x.subspan(i * s.ld, s.v);
    const double highest = *std::max_element(row.begin(), row.end());
    double sum = 0.0;
    for (const double value : row) sum += std::exp(value - highest);
    return std::log(sum) + highest - row[labels[i]];
  }

  double total(std::span<const double> x) const {
    double sum = 0.0;
    for (int64_t i = 0; i < s.n; ++i) sum += scale * loss(x, i);
    return sum;
  }

  Doubles gradient(std::span<const double> x) const {
    Doubles g(static_cast<size_t>(s.n * s.ld));
    for (int64_t i = 0; i < s.n; ++i) {
      if (labels[i] == ops::kIgnoredLabel) continue;
      const double log_sum = loss(x, i) + x[i * s.ld + labels[i]];
      for (int64_t j = 0; j < s.v; ++j) {
        g[i * s.ld + j] = scale * (std::exp(x[i * s.ld + j] - log_sum) - (j == labels[i] ? 1.0 : 0.0));
      }
    }
    return g;
  }
};

void compare(Stream& stream, Report& report, DType dtype, CrossEntropySizes s) {
  CrossEntropyReference reference{s, random_integers(s.n, static_cast<int32_t>(s.v), 1), static_cast<double>(0.037F)};
  for (int64_t i = 2; i < s.n; i += 3) reference.labels[i] = ops::kIgnoredLabel;
  Tensor logits = Tensor::random(dtype, s.n * s.ld, 2, s.width);
  const Doubles xs = logits.values();
  Tensor losses(DType::f32, s.n), losses_only(DType::f32, s.n);
  const auto scale = static_cast<float>(reference.scale);
  ops::cross_entropy(stream, s.n, s.v, s.ld, logits.ref(), reference.labels.data(), scale, false,
                     losses_only.as<float>());
  report.require("evaluation leaves logits", logits.values() == xs);
  ops::cross_entropy(stream, s.n, s.v, s.ld, logits.ref(), reference.labels.data(), scale, true, losses.as<float>());

  Doubles expected;
  for (int64_t i = 0; i < s.n; ++i) expected.push_back(reference.loss(xs, i));
  const Doubles gradient = reference.gradient(xs), got = logits.values();
  report.compare("losses", losses, expected, 1e-6);
  report.require("same losses in evaluation", losses.values() == losses_only.values());
  report.compare("dlogits", logits, gradient, tolerance(dtype));
  // Columns beyond V (whatever they held) and ignored rows are exactly zero.
  bool zeros = true;
  for (int64_t i = 0; i < s.n; ++i) {
    const int64_t first = reference.labels[i] == ops::kIgnoredLabel ? 0 : s.v;
    for (int64_t j = first; j < s.ld; ++j) zeros = zeros && got[i * s.ld + j] == 0.0;
  }
  report.require("surplus and ignored are 0", zeros);
  report.finite_differences(
      "dlogits", [&](auto at) { return reference.total(at); }, xs, gradient);
}

void check_cross_entropy(Checks& checks) {
  for (const DType dtype : kStored) {
    for (const CrossEntropySizes s :
         {CrossEntropySizes{1, 2, 2, 1}, CrossEntropySizes{7, 37, 40, 3}, CrossEntropySizes{20, 515, 515, 30},
          CrossEntropySizes{3, 5003, 5056, 10}, CrossEntropySizes{65, 300, 304, 2}}) {
      checks.add(dtype, fmt::format("N={} V={} ld={} width={}", s.n, s.v, s.ld, s.width),
                 [=](Stream& stream, Report& report) { compare(stream, report, dtype, s); });
    }
  }
}

void measure_cross_entropy(Measurement& to) {
  const int32_t* const labels = to.numbers(kChunk, kV);
  float* const losses = to.floats(kChunk);
  for (const DType dtype : kMeasured) {
    const Ref logits = to.buffer(kChunk * kLd, dtype);
    to.add("cross_entropy", dtype, 0, 2 * elements(kChunk, kV) * static_cast<double>(size_of(dtype)),
           [=, &stream = to.stream()] {
             ops::cross_entropy(stream, kChunk, kV, kLd, logits, labels, 1e-3F, true, losses);
           });
  }
}

}  // namespace

void add_cross_entropy(std::vector<Operator>& list) {
  list.push_back({"cross_entropy", check_cross_entropy, measure_cross_entropy});
}

}  // namespace ridgeline::operators

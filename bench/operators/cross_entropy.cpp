#include "ridgeline/ops/cross_entropy.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

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

// ---- in steps, by slices of the vocabulary ----------------------------------------------------------------------

using ops::IndexRange;
using ops::RowStatistics;

// What a slice holds: its columns of the logits, and columns behind them that nobody may read.
struct SlicePart {
  SlicePart(const IndexRange& columns, DType dtype, int64_t n, std::span<const double> whole, int64_t whole_ld)
      : held(columns),
        ld(columns.count + columns.first % 4),
        logits(dtype, Doubles(static_cast<size_t>(n * ld), std::nan(""))),
        losses(DType::f32, n) {
    Doubles values = logits.values();
    for (int64_t i = 0; i < n; ++i) {
      std::copy_n(whole.begin() + i * whole_ld + held.first, held.count, values.begin() + i * ld);
    }
    logits = Tensor(dtype, values);
  }

  IndexRange held;
  int64_t ld;
  Tensor logits, losses;
};

// [rows], with guards.
struct StatisticsRows {
  explicit StatisticsRows(int64_t rows) : storage(DType::u8, rows * static_cast<int64_t>(sizeof(RowStatistics))) {}
  RowStatistics* data() { return storage.as<RowStatistics>(); }
  Tensor storage;
};

// Those of columns [held.first, held.first + held.count), with the reference's. `maxima` and `label_logits` are exact.
void compare_statistics(Report& report, const std::string& of, const CrossEntropyReference& reference,
                        const IndexRange& held, std::span<const double> x, StatisticsRows& rows) {
  Doubles sums;
  Tensor got_sums(DType::f64, reference.s.n);
  bool maxima = true, label_logits = true;
  for (int64_t i = 0; i < reference.s.n; ++i) {
    const int32_t label = reference.labels[i];
    const auto row = x.subspan(i * reference.s.ld + held.first, held.count);
    double highest = -std::numeric_limits<double>::infinity(), sum = 0.0;
    if (label != ops::kIgnoredLabel) {
      for (const double value : row) highest = std::max(highest, value);
      for (const double value : row) sum += std::exp(value - highest);
    }
    const RowStatistics& got = rows.data()[i];
    sums.push_back(sum);
    got_sums.as<double>()[i] = got.sum;
    maxima = maxima && static_cast<double>(got.max) == highest;
    const bool here = label >= held.first && label < held.first + held.count;
    label_logits = label_logits && static_cast<double>(got.label_logit) == (here ? x[i * reference.s.ld + label] : 0.0);
  }
  report.require("max" + of, maxima);
  report.require("label logit" + of, label_logits);
  // Where vectors have one lane, a thousand floats are added up one by one.
  report.compare("sum" + of, got_sums, sums, 2e-6);
  report.require("guards of the statistics" + of, rows.storage.guards_intact());
}

void compare_cross_entropy_slices(Stream& stream, Report& report, DType dtype, CrossEntropySizes s, int count) {
  // A scale that keeps most gradients above f16's subnormals.
  CrossEntropyReference reference{s, random_integers(s.n, static_cast<int32_t>(s.v), 1), 37.0};
  const std::vector<IndexRange> slices = uneven_ranges(s.v, count);
  // A third of the labels are the first or last of a slice, a third is ignored.
  for (int64_t i = 1; i < s.n; i += 3) {
    const IndexRange& at = slices[i / 3 % count];
    reference.labels[i] = static_cast<int32_t>(std::clamp(at.first + i % 2 * (at.count - 1), int64_t{0}, s.v - 1));
  }
  for (int64_t i = 2; i < s.n; i += 3) reference.labels[i] = ops::kIgnoredLabel;
  const int32_t* const labels = reference.labels.data();
  const auto scale = static_cast<float>(reference.scale);
  Tensor whole = Tensor::random(dtype, s.n * s.ld, 2, s.width);
  const Doubles xs = whole.values(), gradient = reference.gradient(xs);
  Doubles losses;
  for (int64_t i = 0; i < s.n; ++i) losses.push_back(reference.loss(xs, i));

  std::vector<SlicePart> parts;
  StatisticsRows of_slices(count * s.n), all(s.n);
  for (const IndexRange& held : slices) {
    const SlicePart& part = parts.emplace_back(held, dtype, s.n, xs, s.ld);
    StatisticsRows rows(s.n);
    ops::cross_entropy_statistics(stream, s.n, held, part.ld, part.logits.ref(), labels, rows.data());
    const std::string of = fmt::format(" [{}, {})", held.first, held.first + held.count);
    compare_statistics(report, of, reference, held, xs, rows);
    std::copy_n(rows.data(), s.n, of_slices.data() + (static_cast<int64_t>(parts.size()) - 1) * s.n);
  }
  ops::cross_entropy_combine(stream, s.n, count, of_slices.data(), all.data());
  compare_statistics(report, " of all", reference, IndexRange::all(s.v), xs, all);
  // In place.
  ops::cross_entropy_combine(stream, s.n, count, of_slices.data(), of_slices.data());
  report.require("in place",
                 std::equal(all.storage.bytes().begin(), all.storage.bytes().end(), of_slices.storage.bytes().begin()));

  for (SlicePart& part : parts) {
    const std::string of = fmt::format(" [{}, {})", part.held.first, part.held.first + part.held.count);
    const auto finish = [&](bool with_gradient) {
      ops::cross_entropy_finish(stream, s.n, part.held, part.ld, part.logits.ref(), labels, all.data(), scale,
                                with_gradient, part.losses.as<float>());
      return part.losses.values();
    };
    const std::vector<std::byte> before(part.logits.bytes().begin(), part.logits.bytes().end());
    const Doubles losses_only = finish(false);
    // Bytes: some are NaN.
    report.require("evaluation leaves" + of, std::ranges::equal(before, part.logits.bytes()));
    report.require("same losses in evaluation" + of, finish(true) == losses_only);
    report.require("same losses" + of, part.losses.values() == parts[0].losses.values());
    report.compare("losses" + of, part.losses, losses, 1e-6);
    Doubles expected(static_cast<size_t>(s.n * part.ld));
    for (int64_t i = 0; i < s.n; ++i) {
      std::copy_n(gradient.begin() + i * s.ld + part.held.first, part.held.count, expected.begin() + i * part.ld);
    }
    report.compare("dlogits" + of, part.logits, expected, tolerance(dtype), norm(gradient));
    const Doubles got = part.logits.values();
    bool zeros = true;
    for (int64_t i = 0; i < s.n; ++i) {
      const int64_t first = labels[i] == ops::kIgnoredLabel ? 0 : part.held.count;
      for (int64_t j = first; j < part.ld; ++j) zeros = zeros && got[i * part.ld + j] == 0.0;
    }
    report.require("surplus and ignored are 0" + of, zeros);
  }

  if (count > 1) return;
  Tensor whole_losses(DType::f32, s.n);
  ops::cross_entropy(stream, s.n, s.v, s.ld, whole.ref(), labels, scale, true, whole_losses.as<float>());
  const Doubles fused = whole.values(), steps = parts[0].logits.values();
  bool same = whole_losses.values() == parts[0].losses.values();
  for (int64_t i = 0; i < s.n; ++i) {
    for (int64_t j = 0; j < s.v; ++j) same = same && fused[i * s.ld + j] == steps[i * parts[0].ld + j];
  }
  report.require("one slice is cross_entropy", same);
}

void check_cross_entropy_slices(Checks& checks) {
  for (const DType dtype : kStored) {
    for (const CrossEntropySizes s :
         {CrossEntropySizes{1, 2, 2, 1}, CrossEntropySizes{7, 37, 40, 3}, CrossEntropySizes{20, 515, 515, 30},
          CrossEntropySizes{3, 10007, 10016, 10}, CrossEntropySizes{65, 300, 304, 2}}) {
      for (const int slices : {1, 2, 3, 5}) {
        checks.add(
            dtype, fmt::format("N={} V={} ld={} width={} slices={}", s.n, s.v, s.ld, s.width, slices),
            [=](Stream& stream, Report& report) { compare_cross_entropy_slices(stream, report, dtype, s, slices); });
      }
    }
  }
}

// The first of four slices.
void measure_cross_entropy_slices(Measurement& to) {
  constexpr int64_t kSlices = 4, kColumns = (kV + kSlices - 1) / kSlices, kColumnsLd = (kColumns + 15) / 16 * 16;
  constexpr IndexRange kHeld{0, kColumns, kV};
  const auto statistics = [&to](int64_t rows) {
    const auto floats = static_cast<int64_t>(sizeof(RowStatistics) / sizeof(float));
    return to.buffer(rows * floats, DType::f32).as<RowStatistics>();
  };
  Stream& stream = to.stream();
  const int32_t* const labels = to.numbers(kChunk, kV);
  float* const losses = to.floats(kChunk);
  RowStatistics* const rows = statistics(kChunk);
  const RowStatistics* const of_slices = statistics(kSlices * kChunk);
  for (const DType dtype : kMeasured) {
    const Ref logits = to.buffer(kChunk * kColumnsLd, dtype);
    const double bytes = elements(kChunk, kColumns) * static_cast<double>(size_of(dtype));
    to.add("cross_entropy_statistics", dtype, 0, bytes,
           [=, &stream] { ops::cross_entropy_statistics(stream, kChunk, kHeld, kColumnsLd, logits, labels, rows); });
    to.add("cross_entropy_finish", dtype, 0, 2 * bytes, [=, &stream] {
      ops::cross_entropy_finish(stream, kChunk, kHeld, kColumnsLd, logits, labels, rows, 1e-3F, true, losses);
    });
  }
  to.add("cross_entropy_combine", DType::f32, 0, elements(kSlices + 1, kChunk) * sizeof(RowStatistics),
         [=, &stream] { ops::cross_entropy_combine(stream, kChunk, kSlices, of_slices, rows); });
}

}  // namespace

void add_cross_entropy(std::vector<Operator>& list) {
  list.push_back({"cross_entropy", check_cross_entropy, measure_cross_entropy});
  list.push_back({"cross_entropy_slices", check_cross_entropy_slices, measure_cross_entropy_slices});
}

}  // namespace ridgeline::operators

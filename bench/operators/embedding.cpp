#include "ridgeline/ops/embedding.h"

#include <fmt/format.h>

#include "bench/operators/operator.h"
#include "ridgeline/device/cpu/worker_team.h"

namespace ridgeline::operators {
namespace {

using Doubles = std::vector<double>;
using ops::IndexRange;

struct EmbeddingSizes {
  int64_t n, c, v, p;
};

void compare(Stream& stream, Report& report, DType dtype, DType out_dtype, EmbeddingSizes s) {
  // Few distinct tokens in many places: rows that are repeated.
  const std::vector<int32_t> tokens = random_integers(s.n, static_cast<int32_t>(s.v), 1);
  const std::vector<int32_t> positions = random_integers(s.n, static_cast<int32_t>(s.p), 2);
  const Tensor table = Tensor::random(dtype, s.v * s.c, 3), positions_table = Tensor::random(dtype, s.p * s.c, 4);
  Tensor out(out_dtype, s.n * s.c), bare(out_dtype, s.n * s.c);
  ops::embedding_forward(stream, s.n, s.c, IndexRange::all(s.v), s.p, tokens.data(), positions.data(), table.ref(),
                         positions_table.ref(), out.ref());
  ops::embedding_forward(stream, s.n, s.c, IndexRange::all(s.v), 0, tokens.data(), nullptr, table.ref(), {},
                         bare.ref());

  const Tensor dout = Tensor::random(out_dtype, s.n * s.c, 5);
  Tensor dtable = Tensor::random(DType::f32, s.v * s.c, 6);
  const Doubles ts = table.values(), ps = positions_table.values(), ds = dout.values();
  Doubles sum(static_cast<size_t>(s.n * s.c)), rows(sum.size()), gradient(static_cast<size_t>(s.v * s.c)),
      accumulated = dtable.values();
  for (int64_t i = 0; i < s.n; ++i) {
    for (int64_t j = 0; j < s.c; ++j) {
      rows[i * s.c + j] = ts[tokens[i] * s.c + j];
      sum[i * s.c + j] = rows[i * s.c + j] + ps[positions[i] * s.c + j];
      gradient[tokens[i] * s.c + j] += ds[i * s.c + j];
      accumulated[tokens[i] * s.c + j] += ds[i * s.c + j];
    }
  }
  Workspace workspace(ops::embedding_backward_workspace_bytes(s.n, s.v, stream.team().size()));
  ops::embedding_backward(stream, s.n, s.c, IndexRange::all(s.v), tokens.data(), dout.ref(), dtable.as<float>(),
                          workspace.lent());
  report.compare("out", out, sum, tolerance(out_dtype));
  report.compare("out without positions", bare, rows, tolerance(out_dtype));
  report.compare("dtable", dtable, accumulated, 2e-6);
  const auto weighted = [&](std::span<const double> at) {
    double total = 0.0;
    for (int64_t i = 0; i < s.n; ++i) {
      for (int64_t j = 0; j < s.c; ++j) total += at[tokens[i] * s.c + j] * ds[i * s.c + j];
    }
    return total;
  };
  report.finite_differences("dtable", weighted, ts, gradient);
}

// The rows that a slice holds, in memory of their own: whoever reads or writes another row leaves it.
Tensor rows_of(const IndexRange& held, const Tensor& whole, int64_t c) {
  const Doubles values = whole.values();
  return {whole.dtype(), std::span(values).subspan(held.first * c, held.count * c)};
}

// What slices give, beside the double-precision reference, must add up to what the whole table gives.
void compare_embedding_slices(Stream& stream, Report& report, DType dtype, DType out_dtype, EmbeddingSizes s,
                              int count) {
  const std::vector<int32_t> tokens = random_integers(s.n, static_cast<int32_t>(s.v), 1);
  const std::vector<int32_t> positions = random_integers(s.n, static_cast<int32_t>(s.p), 2);
  const Tensor table = Tensor::random(dtype, s.v * s.c, 3), positions_table = Tensor::random(dtype, s.p * s.c, 4);
  const Tensor dout = Tensor::random(out_dtype, s.n * s.c, 5), before = Tensor::random(DType::f32, s.v * s.c, 6);
  Tensor whole(out_dtype, s.n * s.c), whole_bare(out_dtype, s.n * s.c), whole_gradient(DType::f32, before.values());
  ops::embedding_forward(stream, s.n, s.c, IndexRange::all(s.v), s.p, tokens.data(), positions.data(), table.ref(),
                         positions_table.ref(), whole.ref());
  ops::embedding_forward(stream, s.n, s.c, IndexRange::all(s.v), 0, tokens.data(), nullptr, table.ref(), {},
                         whole_bare.ref());
  Workspace workspace(ops::embedding_backward_workspace_bytes(s.n, s.v, stream.team().size()));
  ops::embedding_backward(stream, s.n, s.c, IndexRange::all(s.v), tokens.data(), dout.ref(), whole_gradient.as<float>(),
                          workspace.lent());

  const Doubles ts = table.values(), ps = positions_table.values(), ds = dout.values(), old = before.values();
  Doubles sum(static_cast<size_t>(s.n * s.c)), sum_bare(sum.size()), gradients;
  const std::vector<IndexRange> slices = uneven_ranges(s.v, count);
  for (int k = 0; k < count; ++k) {
    const IndexRange& held = slices[k];
    const Tensor part = rows_of(held, table, s.c);
    // Something to be overwritten: rows of others' tokens are written too.
    Tensor out = Tensor::random(out_dtype, s.n * s.c, 7), bare = Tensor::random(out_dtype, s.n * s.c, 8);
    Tensor gradient = rows_of(held, before, s.c);
    const bool with_positions = k == count / 2;
    ops::embedding_forward(stream, s.n, s.c, held, with_positions ? s.p : 0, tokens.data(), positions.data(),
                           part.ref(), with_positions ? positions_table.ref() : ConstRef(), out.ref());
    ops::embedding_forward(stream, s.n, s.c, held, 0, tokens.data(), nullptr, part.ref(), {}, bare.ref());
    ops::embedding_backward(stream, s.n, s.c, held, tokens.data(), dout.ref(), gradient.as<float>(), workspace.lent());

    Doubles expected(sum.size()), expected_bare(sum.size());
    Doubles expected_gradient(old.begin() + held.first * s.c, old.begin() + (held.first + held.count) * s.c);
    bool zeros = true;
    const Doubles got_bare = bare.values(), got = out.values(), got_gradient = gradient.values();
    for (int64_t i = 0; i < s.n; ++i) {
      const int64_t row = tokens[i] - held.first;
      const bool here = row >= 0 && row < held.count;
      for (int64_t j = 0; j < s.c; ++j) {
        if (here) expected_bare[i * s.c + j] = ts[tokens[i] * s.c + j];
        expected[i * s.c + j] = expected_bare[i * s.c + j] + (with_positions ? ps[positions[i] * s.c + j] : 0.0);
        if (here) expected_gradient[row * s.c + j] += ds[i * s.c + j];
        zeros = zeros && (here || got_bare[i * s.c + j] == 0.0);
        sum[i * s.c + j] += got[i * s.c + j];
        sum_bare[i * s.c + j] += got_bare[i * s.c + j];
      }
    }
    const std::string of = fmt::format(" [{}, {})", held.first, held.first + held.count);
    report.compare("out" + of, out, expected, tolerance(out_dtype));
    report.compare("bare" + of, bare, expected_bare, tolerance(out_dtype));
    report.require("zeros" + of, zeros);
    report.compare("dtable" + of, gradient, expected_gradient, 2e-6);
    gradients.insert(gradients.end(), got_gradient.begin(), got_gradient.end());
  }
  report.require("sum of bare is the whole", sum_bare == whole_bare.values());
  // Otherwise each addend is rounded to what out holds before the sum is.
  if (out_dtype == DType::f32 || out_dtype == dtype) {
    report.require("sum of out is the whole", Tensor(out_dtype, sum).values() == whole.values());
  }
  report.require("dtables are the whole", gradients == whole_gradient.values());
}

void check_embedding(Checks& checks) {
  for (const DType dtype : kStored) {
    for (const DType out : kStored) {
      for (const EmbeddingSizes s : {EmbeddingSizes{1, 3, 1, 1}, EmbeddingSizes{50, 37, 11, 5},
                                     EmbeddingSizes{129, 260, 17, 129}, EmbeddingSizes{70, 400, 1, 3}}) {
        checks.add(dtype, fmt::format("N={} C={} V={} P={} out={}", s.n, s.c, s.v, s.p, name_of(out)),
                   [=](Stream& stream, Report& report) { compare(stream, report, dtype, out, s); });
      }
      for (const EmbeddingSizes s : {EmbeddingSizes{50, 37, 11, 5}, EmbeddingSizes{129, 260, 17, 129}}) {
        for (const int slices : {1, 2, 3, 5}) {
          checks.add(
              dtype, fmt::format("N={} C={} V={} P={} out={} slices={}", s.n, s.c, s.v, s.p, name_of(out), slices),
              [=](Stream& stream, Report& report) { compare_embedding_slices(stream, report, dtype, out, s, slices); });
        }
      }
    }
  }
}

void measure_embedding(Measurement& to) {
  Stream& stream = to.stream();
  const int32_t *const tokens = to.numbers(kN, kV), *const positions = to.numbers(kN, kT);
  const ops::Workspace scratch = to.workspace(ops::embedding_backward_workspace_bytes(kN, kV, to.team_size()));
  for (const DType dtype : kMeasured) {
    const auto e = static_cast<double>(size_of(dtype));
    const Ref table = to.buffer(kV * kC, dtype), position_table = to.buffer(kT * kC, dtype);
    const Ref out = to.buffer(kN * kC, dtype), dout = to.buffer(kN * kC, dtype);
    float* const dtable = to.floats(kV * kC);
    to.add("embedding_forward", dtype, 0, 3 * elements(kN, kC) * e, [=, &stream] {
      ops::embedding_forward(stream, kN, kC, IndexRange::all(kV), kT, tokens, positions, table, position_table, out);
    });
    to.add("embedding_backward", dtype, 0, elements(kN, kC) * (e + 8), [=, &stream] {
      ops::embedding_backward(stream, kN, kC, IndexRange::all(kV), tokens, dout, dtable, scratch);
    });
  }
}

}  // namespace

void add_embedding(std::vector<Operator>& list) {
  list.push_back({"embedding", check_embedding, measure_embedding});
}

}  // namespace ridgeline::operators

#include "ridgeline/ops/embedding.h"

#include <fmt/format.h>

#include "bench/operators/operator.h"
#include "ridgeline/device/cpu/worker_team.h"

namespace ridgeline::operators {
namespace {

using Doubles = std::vector<double>;

struct EmbeddingSizes {
  int64_t n, c, v, p;
};

void compare(Stream& stream, Report& report, DType dtype, DType out_dtype, EmbeddingSizes s) {
  // Few distinct tokens in many places: rows that are repeated.
  const std::vector<int32_t> tokens = random_integers(s.n, static_cast<int32_t>(s.v), 1);
  const std::vector<int32_t> positions = random_integers(s.n, static_cast<int32_t>(s.p), 2);
  const Tensor table = Tensor::random(dtype, s.v * s.c, 3), positions_table = Tensor::random(dtype, s.p * s.c, 4);
  Tensor out(out_dtype, s.n * s.c), bare(out_dtype, s.n * s.c);
  ops::embedding_forward(stream, s.n, s.c, s.v, s.p, tokens.data(), positions.data(), table.ref(),
                         positions_table.ref(), out.ref());
  ops::embedding_forward(stream, s.n, s.c, s.v, 0, tokens.data(), nullptr, table.ref(), {}, bare.ref());

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
  ops::embedding_backward(stream, s.n, s.c, s.v, tokens.data(), dout.ref(), dtable.as<float>(), workspace.lent());
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

void check_embedding(Checks& checks) {
  for (const DType dtype : kStored) {
    for (const DType out : kStored) {
      for (const EmbeddingSizes s : {EmbeddingSizes{1, 3, 1, 1}, EmbeddingSizes{50, 37, 11, 5},
                                     EmbeddingSizes{129, 260, 17, 129}, EmbeddingSizes{70, 400, 1, 3}}) {
        checks.add(dtype, fmt::format("N={} C={} V={} P={} out={}", s.n, s.c, s.v, s.p, name_of(out)),
                   [=](Stream& stream, Report& report) { compare(stream, report, dtype, out, s); });
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
      ops::embedding_forward(stream, kN, kC, kV, kT, tokens, positions, table, position_table, out);
    });
    to.add("embedding_backward", dtype, 0, elements(kN, kC) * (e + 8),
           [=, &stream] { ops::embedding_backward(stream, kN, kC, kV, tokens, dout, dtable, scratch); });
  }
}

}  // namespace

void add_embedding(std::vector<Operator>& list) {
  list.push_back({"embedding", check_embedding, measure_embedding});
}

}  // namespace ridgeline::operators

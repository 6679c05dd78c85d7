#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "bench/operators/attention_reference.h"
#include "bench/operators/operator.h"
#include "ridgeline/device/cpu/worker_team.h"

namespace ridgeline::operators {
namespace {

using ops::test::Reference;

struct AttentionSizes {
  int64_t b, queries, keys, h, kv, d;
  float dropout = 0.0F;
  int64_t document = 0;  // tokens of a document; 0: samples are not cut
};

// The first key of every query's document, where samples are cut into documents of `document` tokens, the first of
// sample b into fewer.
std::vector<int32_t> first_keys(int64_t batch, int64_t tokens, int64_t document) {
  std::vector<int32_t> first;
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t i = 0; i < tokens; ++i) {
      const int64_t before = b * 7 % document;
      first.push_back(static_cast<int32_t>(std::max<int64_t>((i + before) / document * document - before, 0)));
    }
  }
  return first;
}

constexpr uint32_t kSamples[] = {5, 4000000001U};
constexpr uint32_t kMeasuredSamples[kB] = {0, 1, 2, 3};

ops::Attention shape_of(const AttentionSizes& z) {
  ops::Attention s;
  s.batch = z.b, s.queries = z.queries, s.keys = z.keys, s.heads = z.h, s.kv_heads = z.kv, s.head_width = z.d;
  s.query_start = z.keys - z.queries;
  s.scale = 1.0F / std::sqrt(static_cast<float>(z.d));
  s.dropout = {z.dropout, random_key(1, 2, Purpose::attention_dropout), 3, kSamples};
  s.q_stride = s.out_stride = z.h * z.d;
  s.kv_stride = z.kv * z.d;
  return s;
}

void check_differences(Report& report, const Reference& reference) {
  const auto loss = [&](std::vector<double> Reference::*input) {
    return [&, input](std::span<const double> at) {
      Reference moved = reference;
      moved.*input = {at.begin(), at.end()};
      moved.dout.clear();
      moved.run();
      return dot(moved.out, reference.dout);
    };
  };
  // With few tokens dq and dk nearly vanish against dv.
  const double unit = norm(reference.dv);
  report.finite_differences("dq", loss(&Reference::q), reference.q, reference.dq, 1e-6, unit);
  report.finite_differences("dk", loss(&Reference::k), reference.k, reference.dk, 1e-6, unit);
  report.finite_differences("dv", loss(&Reference::v), reference.v, reference.dv, 1e-6, unit);
}

void compare(Stream& stream, Report& report, DType dtype, const AttentionSizes& z) {
  ops::Attention shape = shape_of(z);
  std::vector<int32_t> first;
  if (z.document > 0) {
    first = first_keys(z.b, z.queries, z.document);
    shape.first_keys = first.data();
  }
  const int64_t q_count = z.b * z.queries * z.h * z.d, kv_count = z.b * z.keys * z.kv * z.d;
  const Tensor q = Tensor::random(dtype, q_count, 1, 2.0), k = Tensor::random(dtype, kv_count, 2, 2.0);
  const Tensor v = Tensor::random(dtype, kv_count, 3), dout = Tensor::random(dtype, q_count, 4);
  Tensor out(dtype, q_count), lse(DType::f32, z.b * z.h * z.queries);
  Workspace workspace(ops::attention_workspace_bytes(shape, dtype, stream.team().size()));
  ops::attention_forward(stream, shape, q.ref(), k.ref(), v.ref(), out.ref(), lse.as<float>(), workspace.lent());

  const bool backward = z.queries == z.keys;
  Reference reference{shape, q.values(), k.values(), v.values(), backward ? dout.values() : std::vector<double>{},
                      {},    {},         {},         {},         {}};
  reference.run();
  report.compare("out", out, reference.out, tolerance(dtype));
  report.compare("lse", lse, reference.lse, 2e-6);
  if (!backward) return;

  Tensor dq(dtype, q_count), dk(dtype, kv_count), dv(dtype, kv_count);
  Workspace scratch(ops::attention_workspace_bytes(shape, dtype, stream.team().size()));
  ops::attention_backward(stream, shape, q.ref(), k.ref(), v.ref(), out.ref(), dout.ref(), lse.as<float>(), dq.ref(),
                          dk.ref(), dv.ref(), scratch.lent());
  // bf16: P and dS are rounded before their products and delta comes from the rounded output; dS is a difference of
  // terms larger than itself. Three times the tolerance of one stored result.
  const double limit = dtype == DType::bf16 ? 3 * tolerance(dtype) : tolerance(dtype);
  const double unit = norm(reference.dv);
  report.compare("dq", dq, reference.dq, limit, unit);
  report.compare("dk", dk, reference.dk, limit, unit);
  report.compare("dv", dv, reference.dv, limit, unit);
  if (z.b * z.queries * z.h * z.d <= 4096) check_differences(report, reference);
}

void check_attention(Checks& checks) {
  constexpr AttentionSizes kSizes[] = {
      {1, 1, 1, 1, 1, 1},
      {2, 7, 7, 3, 3, 5},
      {1, 64, 64, 2, 2, 64},
      {2, 45, 45, 3, 3, 17},
      {1, 261, 261, 1, 1, 64},
      {1, 131, 131, 4, 2, 80},
      {2, 9, 9, 4, 2, 6},
      {2, 9, 9, 2, 2, 6, 0.3F},
      {1, 150, 150, 6, 2, 40, 0.1F},
      {1, 40, 40, 1, 1, 256},
      {2, 1, 83, 4, 4, 64},
      {1, 3, 50, 4, 1, 13},
      {1, 37, 300, 2, 2, 64},
      {2, 3, 3, 1, 1, 8, 0, 2},
      {2, 20, 20, 2, 1, 8, 0.2F, 6},
      {1, 330, 330, 1, 1, 64, 0, 101},
  };
  for (const DType dtype : kStored) {
    for (const AttentionSizes& z : kSizes) {
      checks.add(dtype,
                 fmt::format("B={} Tq={} Tk={} H={} KV={} D={} dropout={}{}", z.b, z.queries, z.keys, z.h, z.kv, z.d,
                             z.dropout, z.document > 0 ? fmt::format(" documents of {}", z.document) : ""),
                 [=](Stream& stream, Report& report) { compare(stream, report, dtype, z); });
    }
  }
}

// Rows "<name>_forward" and "<name>_backward", of documents of `document` tokens (0: samples are not cut).
void measure_in(Measurement& to, DType dtype, const std::string& name, float dropout, int64_t document) {
  ops::Attention shape{.batch = kB,
                       .queries = kT,
                       .keys = kT,
                       .heads = kH,
                       .kv_heads = kH,
                       .head_width = kD,
                       .scale = 0.125F,
                       .dropout = {dropout, random_key(1, 2, Purpose::attention_dropout), 0, kMeasuredSamples},
                       .q_stride = 3 * kC,
                       .kv_stride = 3 * kC,
                       .out_stride = kC};
  double pairs = elements(kB, kT) * static_cast<double>(kT + 1) / 2;
  if (document > 0) {
    const std::vector<int32_t> first = first_keys(kB, kT, document);
    for (const int32_t before : first) pairs -= before;
    shape.first_keys = to.numbers(first);
  }
  const Ref qkv = to.buffer(kN * 3 * kC, dtype), out = to.buffer(kN * kC, dtype), dqkv = to.buffer(kN * 3 * kC, dtype),
            dout = to.buffer(kN * kC, dtype);
  float* const lse = to.floats(kB * kH * kT);
  const ops::Workspace scratch = to.workspace(ops::attention_workspace_bytes(shape, dtype, to.team_size()));
  const double forward = 4 * pairs * static_cast<double>(kH * kD);
  Stream& stream = to.stream();
  to.add(name + "_forward", dtype, forward, 0,
         [=, &stream] { ops::attention_forward(stream, shape, qkv, qkv.at(kC), qkv.at(2 * kC), out, lse, scratch); });
  to.add(name + "_backward", dtype, 2 * forward, 0, [=, &stream] {
    ops::attention_backward(stream, shape, qkv, qkv.at(kC), qkv.at(2 * kC), out, dout, lse, dqkv, dqkv.at(kC),
                            dqkv.at(2 * kC), scratch);
  });
}

void measure_attention(Measurement& to) {
  for (const DType dtype : kMeasured) {
    measure_in(to, dtype, "attention", 0.0F, 0);
    measure_in(to, dtype, "attention_dropout", 0.1F, 0);
    measure_in(to, dtype, "attention_documents", 0.0F, 256);
  }
}

}  // namespace

void add_attention(std::vector<Operator>& list) {
  list.push_back({"attention", check_attention, measure_attention});
}

}  // namespace ridgeline::operators

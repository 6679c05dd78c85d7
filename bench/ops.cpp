#include "bench/ops.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <functional>
#include <memory>

#include "bench/machine.h"
#include "ridgeline/base/random.h"
#include "ridgeline/device/arena.h"
#include "ridgeline/ops/adam.h"
#include "ridgeline/ops/attention.h"
#include "ridgeline/ops/cross_entropy.h"
#include "ridgeline/ops/elementwise.h"
#include "ridgeline/ops/embedding.h"
#include "ridgeline/ops/matmul.h"
#include "ridgeline/ops/norm.h"

namespace ridgeline::bench {
namespace {

constexpr int64_t kB = 4, kT = 1024, kN = kB * kT, kC = 768, kH = 12, kF = 3072, kD = kC / kH, kV = 50257, kLd = 50272,
                  kChunk = 1024;
constexpr int64_t kParameters = 12 * 7'087'872;  // of the blocks: what one pass of the optimizer sees at most here

// One operator: its work and how to run it.
struct Case {
  std::string name;
  double flops = 0, bytes = 0;
  DType dtype = DType::f32;
  std::function<void()> run;
  std::vector<double> seconds;
};

class Bench {
 public:
  explicit Bench(int threads) : team_(threads), stream_(team_), pool_(int64_t{3} << 30, &team_) {
    // Random contents: zero pages and zero operands are faster than real ones.
    auto* const values = reinterpret_cast<float*>(pool_.data());
    team_.parallel_for(pool_.size() / 4, 1 << 16, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; i += 4) {
        const Philox4 bits = philox(1, {static_cast<uint32_t>(i), static_cast<uint32_t>(i >> 32), 0, 0});
        for (int64_t j = i; j < std::min(i + 4, last); ++j) {
          // 0.75 … 1.5 with a random sign, and the same when its halves are read as bf16.
          const uint32_t word = bits[static_cast<size_t>(j - i)];
          values[j] = std::bit_cast<float>((word & 0x80FF80FFU) | 0x3F003F00U);
        }
      }
    });
  }

  // A buffer of `elements`, fresh for every operand of a case, so that data come from memory as in a step.
  Ref buffer(int64_t elements, DType dtype) {
    const int64_t bytes = (elements * size_of(dtype) + 4095) / 4096 * 4096;
    if (used_ + bytes > pool_.size()) used_ = 0;
    std::byte* const address = pool_.data() + used_;
    used_ += bytes;
    return {address, dtype};
  }
  float* floats(int64_t elements) { return buffer(elements, DType::f32).as<float>(); }
  int32_t* numbers(int64_t count, int64_t limit) {
    int32_t* const values = buffer(count, DType::i32).as<int32_t>();
    for (int64_t i = 0; i < count; ++i)
      values[i] =
          static_cast<int32_t>(philox(2, {static_cast<uint32_t>(i), 0, 0, 0})[0] % static_cast<uint64_t>(limit));
    return values;
  }

  void add(std::string name, DType dtype, double flops, double bytes, std::function<void()> run) {
    cases_.push_back({fmt::format("{}_{}", name, name_of(dtype)), flops, bytes, dtype, std::move(run), {}});
  }

  void add_products(DType dtype);
  void add_attention(DType dtype);
  void add_rest(DType dtype);
  void add_optimizer();

  std::vector<Row> rows(int rounds, const std::string& filter) {
    std::erase_if(cases_, [&](const Case& c) { return c.name.find(filter) == std::string::npos; });
    for (Case& c : cases_) c.run();
    for (int round = 0; round < rounds; ++round) {
      for (Case& c : cases_) {
        const auto begin = std::chrono::steady_clock::now();
        c.run();
        c.seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
      }
    }
    const Machine machine = measure_machine(team_);
    std::vector<Row> result;
    for (const Case& c : cases_) {
      const Statistics seconds = statistics(c.seconds);
      const double floor = std::max(c.flops / machine.flops(c.dtype), c.bytes / machine.adam);
      result.push_back({.name = c.name,
                        .value = seconds.median * 1e3,
                        .unit = "ms",
                        .floor = floor * 1e3,
                        .fraction = floor / seconds.median,
                        .spread = seconds.spread});
    }
    return result;
  }

 private:
  ops::Workspace workspace(int64_t bytes) { return {buffer(bytes, DType::u8).data, bytes}; }
  void product(const std::string& name, DType dtype, ops::Matmul m) {
    const ops::Workspace scratch = workspace(ops::matmul_workspace_bytes(m, team_.size()));
    const double out = static_cast<double>(size_of(m.c.dtype)) * (m.accumulate ? 2 : 1);
    const auto count = [](int64_t a, int64_t b) { return static_cast<double>(a) * static_cast<double>(b); };
    const double bytes =
        (count(m.m, m.k) + count(m.k, m.n)) * static_cast<double>(size_of(dtype)) + count(m.m, m.n) * out;
    add(name, dtype, 2 * count(m.m, m.n) * static_cast<double>(m.k), bytes,
        [this, m, scratch] { ops::matmul(stream_, m, scratch); });
  }

  device::WorkerTeam team_;
  device::Stream stream_;
  device::Arena pool_;
  int64_t used_ = 0;
  std::vector<Case> cases_;
};

void Bench::add_products(DType dtype) {
  using ops::Layout;
  struct Shape {
    const char* name;
    int64_t rows, in, out;
  };
  for (const Shape s : {Shape{"qkv", kN, kC, 3 * kC}, Shape{"out", kN, kC, kC}, Shape{"up", kN, kC, kF},
                        Shape{"down", kN, kF, kC}, Shape{"head", kChunk, kC, kV}}) {
    const bool in_out = std::string(s.name) == "out" || std::string(s.name) == "down";  // how the weight is stored
    const int64_t ld = s.out == kV ? kLd : s.out;
    const Ref x = buffer(s.rows * s.in, dtype), w = buffer(s.in * s.out, dtype), y = buffer(s.rows * ld, dtype),
              dx = buffer(s.rows * s.in, dtype);
    const ops::Matrix weight{w, in_out ? Layout::row_major : Layout::column_major, in_out ? s.out : s.in};
    const ops::Matrix transposed{w, in_out ? Layout::column_major : Layout::row_major, in_out ? s.out : s.in};
    product(fmt::format("matmul_{}_forward", s.name), dtype,
            {.m = s.rows, .n = s.out, .k = s.in, .a = {x, Layout::row_major, s.in}, .b = weight, .c = y, .ldc = ld});
    product(
        fmt::format("matmul_{}_input_gradient", s.name), dtype,
        {.m = s.rows, .n = s.in, .k = s.out, .a = {y, Layout::row_major, ld}, .b = transposed, .c = dx, .ldc = s.in});
    const Ref dw(floats(s.in * s.out));
    if (in_out) {
      product(fmt::format("matmul_{}_weight_gradient", s.name), dtype,
              {.m = s.in,
               .n = s.out,
               .k = s.rows,
               .a = {x, Layout::column_major, s.in},
               .b = {y, Layout::row_major, ld},
               .c = dw,
               .ldc = s.out,
               .accumulate = true});
    } else {
      product(fmt::format("matmul_{}_weight_gradient", s.name), dtype,
              {.m = s.out,
               .n = s.in,
               .k = s.rows,
               .a = {y, Layout::column_major, ld},
               .b = {x, Layout::row_major, s.in},
               .c = dw,
               .ldc = s.in,
               .accumulate = true});
    }
  }
}

void Bench::add_attention(DType dtype) {
  const ops::Attention shape{.batch = kB,
                             .queries = kT,
                             .keys = kT,
                             .heads = kH,
                             .kv_heads = kH,
                             .head_width = kD,
                             .scale = 0.125F,
                             .q_stride = 3 * kC,
                             .kv_stride = 3 * kC,
                             .out_stride = kC};
  const Ref qkv = buffer(kN * 3 * kC, dtype), out = buffer(kN * kC, dtype), dqkv = buffer(kN * 3 * kC, dtype),
            dout = buffer(kN * kC, dtype);
  float* const lse = floats(kB * kH * kT);
  const ops::Workspace scratch = workspace(ops::attention_workspace_bytes(shape, dtype, team_.size()));
  const double pairs = static_cast<double>(kB * kH) * static_cast<double>(kT) * static_cast<double>(kT + 1) / 2;
  const double forward = 4 * pairs * static_cast<double>(kD);
  add("attention_forward", dtype, forward, 0,
      [=, this] { ops::attention_forward(stream_, shape, qkv, qkv.at(kC), qkv.at(2 * kC), out, lse, scratch); });
  add("attention_backward", dtype, 2 * forward, 0, [=, this] {
    ops::attention_backward(stream_, shape, qkv, qkv.at(kC), qkv.at(2 * kC), out, dout, lse, dqkv, dqkv.at(kC),
                            dqkv.at(2 * kC), scratch);
  });
}

void Bench::add_rest(DType dtype) {
  const double e = static_cast<double>(size_of(dtype)), nc = static_cast<double>(kN * kC),
               nf = static_cast<double>(kN * kF);
  const Ref x = buffer(kN * kC, dtype), y = buffer(kN * kC, dtype), dy = buffer(kN * kC, dtype),
            weight = buffer(kC, dtype), bias = buffer(kC, dtype);
  float *const mean = floats(kN), *const rstd = floats(kN), *const dw = floats(kC), *const db = floats(kC);
  const ops::Workspace norm_scratch = workspace(ops::layernorm_backward_workspace_bytes(kN, kC, team_.size()));
  add("layernorm_forward", dtype, 0, 2 * nc * e,
      [=, this] { ops::layernorm_forward(stream_, kN, kC, 1e-5F, x, weight, bias, y, mean, rstd); });
  add("layernorm_backward", dtype, 0, 4 * nc * e,
      [=, this] { ops::layernorm_backward(stream_, kN, kC, x, weight, mean, rstd, dy, y, y, dw, db, norm_scratch); });
  const Ref wide = buffer(kN * kF, dtype), wide2 = buffer(kN * kF, dtype);
  add("gelu_forward", dtype, 0, 2 * nf * e, [=, this] { ops::gelu_forward(stream_, kN * kF, wide, wide2); });
  add("gelu_backward", dtype, 0, 3 * nf * e, [=, this] { ops::gelu_backward(stream_, kN * kF, wide, wide2, wide2); });
  add("add", dtype, 0, 3 * nc * e, [=, this] { ops::add(stream_, kN * kC, x, y, y); });
  const ops::Workspace sums_scratch = workspace(ops::column_sums_workspace_bytes(kN, kC, team_.size()));
  add("column_sums", dtype, 0, nc * e, [=, this] { ops::column_sums(stream_, kN, kC, x, kC, db, sums_scratch); });
  const int32_t *const tokens = numbers(kN, kV), *const positions = numbers(kN, kT);
  const Ref table = buffer(kV * kC, dtype), position_table = buffer(kT * kC, dtype);
  float* const dtable = floats(kV * kC);
  const ops::Workspace embedding_scratch = workspace(ops::embedding_backward_workspace_bytes(kN, kV, team_.size()));
  add("embedding_forward", dtype, 0, 3 * nc * e,
      [=, this] { ops::embedding_forward(stream_, kN, kC, kV, kT, tokens, positions, table, position_table, y); });
  add("embedding_backward", dtype, 0, nc * (e + 8),
      [=, this] { ops::embedding_backward(stream_, kN, kC, kV, tokens, dy, dtable, embedding_scratch); });
  const Ref logits = buffer(kChunk * kLd, dtype);
  const int32_t* const labels = numbers(kChunk, kV);
  float* const losses = floats(kChunk);
  add("cross_entropy", dtype, 0, 2 * static_cast<double>(kChunk * kV) * e,
      [=, this] { ops::cross_entropy(stream_, kChunk, kV, kLd, logits, labels, 1e-3F, true, losses); });
}

void Bench::add_optimizer() {
  const double p = static_cast<double>(kParameters);
  float *const master = floats(kParameters), *const m = floats(kParameters), *const v = floats(kParameters);
  const Ref gradient(floats(kParameters)), copy = buffer(kParameters, DType::bf16);
  // Second moments must not be negative.
  for (int64_t i = 0; i < kParameters; ++i) v[i] = v[i] < 0 ? -v[i] : v[i];
  static const ops::AdamScalars scalars{.learning_rate = 1e-9F, .correction1 = 0.5F, .correction2 = 0.5F};
  const ops::Adam settings{.weight_decay = 0.1F, .zero_gradient = false};
  add("adamw", DType::f32, 0, 28 * p, [=, this] {
    ops::adam(stream_, kParameters, settings, &scalars, master, gradient, m, v, Ref(nullptr, DType::bf16));
  });
  add("adamw_with_copy", DType::bf16, 0, 30 * p,
      [=, this] { ops::adam(stream_, kParameters, settings, &scalars, master, gradient, m, v, copy); });
  double* const partials = buffer(kParameters / 4096 + 1, DType::f64).as<double>();
  add("sums_of_squares", DType::f32, 0, 4 * p,
      [=, this] { ops::sums_of_squares(stream_, kParameters, 4096, gradient, partials); });
}

}  // namespace

std::vector<Row> op_rows(int threads, int rounds, const std::string& filter) {
  Bench bench(threads);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    bench.add_products(dtype);
    bench.add_attention(dtype);
    bench.add_rest(dtype);
  }
  bench.add_optimizer();
  return bench.rows(rounds, filter);
}

}  // namespace ridgeline::bench

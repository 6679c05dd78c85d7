// Operators check the workspace that they are lent: too little of it was once written over by a second thread.
#include "ridgeline/ops/workspace.h"

#include <gtest/gtest.h>

#include "../lent_memory.h"
#include "fixture.h"
#include "ridgeline/ops/attention.h"
#include "ridgeline/ops/elementwise.h"
#include "ridgeline/ops/matmul.h"
#include "ridgeline/ops/norm.h"

namespace ridgeline::ops {
namespace {

constexpr int64_t kN = 64, kC = 64;

struct Buffers {
  std::vector<float> x = random_values<float>(kN * 3 * kC, 1), y = std::vector<float>(kN * 3 * kC),
                     sums = std::vector<float>(kC), bias = std::vector<float>(kC), rows = std::vector<float>(kN);
};

// The same with the bytes for a team of one, and of two but for the last byte, on a team of two.
template <typename Run>
void expect_checked(int64_t one, int64_t two, Run&& run) {
  LentMemory memory(two);
  Workspace lent = memory.all();
  run(lent);
  EXPECT_DEATH(run({lent.data, two - 1}), "bytes of workspace on a team of 2, but was lent");
  if (one < two) {
    EXPECT_DEATH(run({lent.data, one}), "bytes of workspace on a team of 2, but was lent");
  }
  EXPECT_DEATH(run({static_cast<std::byte*>(lent.data) + 4, two}), "not aligned to 64 bytes");
  EXPECT_DEATH(run({nullptr, two}), "not aligned to 64 bytes");
}

TEST(WorkspaceDeathTest, OfAMatrixProductIsChecked) {
  TwoThreads two;
  Buffers b;
  const auto run = [&](int64_t rows, Workspace lent) {
    matmul(two.stream,
           {.m = rows,
            .n = kC,
            .k = kC,
            .a = {b.x.data(), Layout::row_major, kC},
            .b = {b.x.data(), Layout::row_major, kC},
            .c = b.y.data(),
            .ldc = kC},
           lent);
  };
  for (const int64_t rows : {kN, int64_t{1}}) {
    const Matmul product{.m = rows,
                         .n = kC,
                         .k = kC,
                         .a = {b.x.data(), Layout::row_major, kC},
                         .b = {b.x.data(), Layout::row_major, kC},
                         .c = b.y.data(),
                         .ldc = kC};
    expect_checked(matmul_workspace_bytes(product, 1), matmul_workspace_bytes(product, 2),
                   [&](Workspace lent) { run(rows, lent); });
  }
}

TEST(WorkspaceDeathTest, OfAttentionIsChecked) {
  TwoThreads two;
  Buffers b;
  const Attention shape{.batch = 1,
                        .queries = kN,
                        .keys = kN,
                        .heads = 2,
                        .kv_heads = 2,
                        .head_width = kC / 2,
                        .q_stride = 3 * kC,
                        .kv_stride = 3 * kC,
                        .out_stride = kC};
  const float* const qkv = b.x.data();
  std::vector<float> out(kN * kC), lse(2 * kN);
  const int64_t one = attention_workspace_bytes(shape, DType::f32, 1),
                both = attention_workspace_bytes(shape, DType::f32, 2);
  expect_checked(one, both, [&](Workspace lent) {
    attention_forward(two.stream, shape, qkv, qkv + kC, qkv + 2 * kC, out.data(), lse.data(), lent);
  });
  expect_checked(one, both, [&](Workspace lent) {
    attention_backward(two.stream, shape, qkv, qkv + kC, qkv + 2 * kC, out.data(), out.data(), lse.data(), b.y.data(),
                       b.y.data() + kC, b.y.data() + 2 * kC, lent);
  });
}

TEST(WorkspaceDeathTest, OfSumsOverRowsIsChecked) {
  TwoThreads two;
  Buffers b;
  const int64_t layer = layernorm_backward_workspace_bytes(kN, kC, 2),
                rms = rmsnorm_backward_workspace_bytes(kN, kC, 2), columns = column_sums_workspace_bytes(kN, kC, 2);
  std::vector<float> dx(kN * kC);
  expect_checked(layer, layer, [&](Workspace lent) {
    layernorm_backward(two.stream, kN, kC, b.x.data(), b.bias.data(), b.rows.data(), b.rows.data(), b.x.data(), {},
                       dx.data(), b.sums.data(), b.bias.data(), lent);
  });
  expect_checked(rms, rms, [&](Workspace lent) {
    rmsnorm_backward(two.stream, kN, kC, b.x.data(), b.bias.data(), b.rows.data(), b.x.data(), {}, dx.data(),
                     b.sums.data(), lent);
  });
  expect_checked(columns, columns,
                 [&](Workspace lent) { column_sums(two.stream, kN, kC, b.x.data(), kC, b.sums.data(), lent); });
}

}  // namespace
}  // namespace ridgeline::ops

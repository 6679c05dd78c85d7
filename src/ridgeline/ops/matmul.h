// Matrix product with fused epilogues.
//
//   S[m][n]   = sum_k A[m][k] B[k][n]                         (fp32 accumulation)
//   S        += C[m][n]                                       if `accumulate` (C must be f32)
//   S        += bias[n]                                       if `bias`
//   P         = round(S)                                      to C's dtype: "the value as stored"
//   plain:      C = P
//   gelu:       pre_activation = P,  C = round(gelu(P))       (tanh form, elementwise.h)
//   gelu_grad:  C = round(P * gelu'(activation_input[m][n]))
//   residual:   C = round(P + residual[m][n])
//
// Every epilogue computes from the value as stored, so that fused and unfused agree bitwise.
//
// Shapes: A [M][K], B [K][N], C, pre_activation, activation_input, residual [M][N] row-major with leading dimension
// `ldc` (the latter three may have their own), bias [N]. Dtypes: A and B both f32, both bf16 or both f16 (products of
// the narrow values with fp32 accumulation); C and bias each f32, bf16 or f16; pre_activation, activation_input and
// residual have C's dtype. Aliasing: residual may be C itself; nothing else may overlap C. A product of at most 16 rows
// reads B as it lies instead of packing it. Order of summation: a function of (M, N, K, dtypes,
// layouts, whether row sums are asked for) and the instruction set only, never of the team's size; K is never split
// between threads. On a CPU complete on return.
#pragma once

#include <cstdint>

#include "ridgeline/base/dtype.h"
#include "ridgeline/device/stream.h"
#include "ridgeline/ops/workspace.h"

namespace ridgeline::ops {

// How a matrix [rows][columns] lies in memory; `ld` elements between consecutive rows (row_major) or columns.
enum class Layout { row_major, column_major };

struct Matrix {
  ConstRef data;
  Layout layout = Layout::row_major;
  int64_t ld = 0;
};

enum class Epilogue { plain, gelu, gelu_grad, residual };

struct Matmul {
  int64_t m = 0, n = 0, k = 0;
  Matrix a, b;
  Ref c;
  int64_t ldc = 0;
  bool accumulate = false;
  ConstRef bias;
  Epilogue epilogue = Epilogue::plain;
  Ref pre_activation;         // gelu: [M][N], ld = ldc
  ConstRef activation_input;  // gelu_grad: [M][N], ld = ldc
  ConstRef residual;          // residual: [M][N], ld = ldc
  // row_sums_of_a[m] += sum_k A[m][k] (f32, fixed order): the bias gradient when A = dY^T. May be null.
  float* row_sums_of_a = nullptr;
};

// Bytes of scratch that `matmul` needs for exactly this product on a team of `team_size` (packing buffers): a smaller
// product may need more. Only sizes, dtypes, layouts, epilogue and whether pointers are null matter. Pure.
int64_t matmul_workspace_bytes(const Matmul& product, int team_size);

// `workspace`: at least matmul_workspace_bytes(product, team size) bytes; checked.
void matmul(device::Stream& stream, const Matmul& product, Workspace workspace);

}  // namespace ridgeline::ops

// Matrix-product kernel in plain C++: any CPU.
#include "ridgeline/ops/cpu/matmul_generic.h"

namespace ridgeline::ops::cpu {
namespace {

constexpr int kRows = 4, kCols = 8;

void multiply_tile(int64_t k, const void* a_panel, const void* b_panel, float* sums, bool add) {
  const auto* a = static_cast<const float*>(a_panel);
  const auto* b = static_cast<const float*>(b_panel);
  float c[kRows][kCols] = {};
  for (int64_t i = 0; i < k; ++i, a += kRows, b += kCols) {
    for (int row = 0; row < kRows; ++row) {
      for (int col = 0; col < kCols; ++col) c[row][col] += a[row] * b[col];
    }
  }
  for (int row = 0; row < kRows; ++row) {
    for (int col = 0; col < kCols; ++col) {
      float& out = sums[row * kCols + col];
      out = add ? out + c[row][col] : c[row][col];
    }
  }
}

void multiply(const Strip& strip) {
  const char* b = static_cast<const char*>(strip.b);
  float* sums = strip.sums;
  for (int64_t j = 0; j < strip.columns; j += kCols, b += strip.b_stride, sums += kRows * kCols) {
    const int64_t columns = strip.columns - j < kCols ? strip.columns - j : kCols;
    multiply_tile(strip.k, strip.a, b, sums, strip.add);
    if (strip.finish != nullptr) finish_tile<kCols>(*strip.finish, strip.rows, j, columns, sums);
  }
}

constexpr MatmulKernel kKernel{.mr = kRows,
                               .nr = kCols,
                               .k_unit = 1,
                               .packed_bytes = 4,
                               .mb = 64,
                               .nb = 128,
                               .b_bytes = 262144,
                               .kb = 256,
                               .kb_alone = 320,
                               .ahead_lanes = 0,
                               .begin = nullptr,
                               .end = nullptr,
                               .pack_a = pack_as_floats<kRows>,
                               .pack_b = pack_as_floats<kCols>,
                               .row_sums = row_sums_of_floats<kRows>,
                               .multiply = multiply,
                               .skinny = multiply_skinny,
                               .finish = finish_rows};

}  // namespace

const MatmulKernel& matmul_kernel_portable() {
  return kKernel;
}

}  // namespace ridgeline::ops::cpu

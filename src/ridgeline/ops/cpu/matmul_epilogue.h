// What happens to rows of C once their sums are complete: bias, rounding, residual, activation (matmul.h has the
// formulas). The kernel does what it can while it writes C (Finish); what it cannot (f16, activations) is done here, on
// rows that are still in the first-level cache, by the element-wise operators on the calling thread alone
// (elementwise_rows.h): the fused forms are the unfused ones, so their bits are too.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ridgeline/ops/cpu/matmul_plan.h"

namespace ridgeline::ops::cpu {

// Where a member keeps a few rows of C in f32 before they are rounded to f16, a bias widened from f16, a row of f16.
struct Stage {
  Stage() = default;
  // In a member's memory.
  Stage(const MatmulPlan& plan, std::byte* memory)
      : rows(reinterpret_cast<float*>(memory + plan.stage_offset)),
        ld(plan.nb),
        bias(rows + plan.kernel->mr * ld),
        rounded(reinterpret_cast<f16*>(bias + ld)) {}
  float* rows = nullptr;
  int64_t ld = 0;
  float* bias = nullptr;
  f16* rounded = nullptr;
};

class MatmulEpilogue {
 public:
  // `workspace` begins at a page; all must outlive it.
  MatmulEpilogue(const Matmul& product, const MatmulPlan& plan, std::byte* workspace)
      : p_(product), plan_(plan), carry_(plan.carry ? reinterpret_cast<float*>(workspace) : nullptr) {}

  // Before the first row of a block of columns.
  void begin_columns(int64_t column, int64_t columns, const Stage& stage) const;
  // The kernel's part for C from (row, column) on, after `chunk` of k.
  Finish finish_of(int64_t chunk, int64_t row, int64_t column, const Stage& stage) const;
  // After the last chunk's finish: the rest.
  void complete(int64_t row, int64_t column, int64_t rows, int64_t columns, const Stage& stage) const;

 private:
  Finish sums_between_chunks(int64_t chunk, int64_t row, int64_t column) const;
  void round_rows(int64_t row, int64_t column, int64_t rows, int64_t columns, const Stage& stage) const;
  void activate(int64_t row, int64_t column, int64_t rows, int64_t columns) const;

  const Matmul& p_;
  const MatmulPlan& plan_;
  float* carry_;  // [m][n]; null where C itself holds the sums between chunks
};

}  // namespace ridgeline::ops::cpu

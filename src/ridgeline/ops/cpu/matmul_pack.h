// Operands of a matrix product on their way into panels (matmul_kernel.h). Kernels know f32 and bf16: f16 passes
// through f32.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ridgeline/ops/cpu/matmul_plan.h"

namespace ridgeline::ops::cpu {

// Panels [first, last) of a slab.
struct PanelRange {
  int64_t first = 0, last = 0;
};

class MatmulPacking {
 public:
  // Both must outlive it.
  MatmulPacking(const Matmul& product, const MatmulPlan& plan)
      : product_(product), plan_(plan), kernel_(*plan.kernel) {}

  // Panels of a slab of A, and their part of the product's row sums.
  void pack_a(const Slab& slab, PanelRange panels) const;
  // Columns [first, last) of B, over the slab's k.
  void pack_b(const Slab& slab, int64_t first, int64_t last, std::byte* panels) const;
  // The whole of A as f32 [m][k]: what a skinny product multiplies by.
  void widen_a(float* to) const;

  std::byte* a_panel(const Slab& slab, int64_t panel) const {
    return slab.panels + panel * plan_.a_panel_bytes(slab.k);
  }

 private:
  friend class PackingAhead;

  // One operand seen from its panels. A lane is a row of A or a column of B.
  struct Operand {
    const Matrix& matrix;
    bool k_contiguous;
    int64_t tile;  // lanes of a panel
    void (*pack)(const PanelSource& source, void* panel);

    // Of element (lane, k), in elements.
    int64_t offset(int64_t lane, int64_t k) const { return k_contiguous ? lane * matrix.ld + k : k * matrix.ld + lane; }
    // So many panels are packed together.
    int64_t group() const;
  };
  Operand rows_of_a() const;
  Operand columns_of_b() const;

  void pack(const Operand& operand, const Slab& slab, int64_t first, int64_t last, std::byte* panels) const;
  void pack_widened(const Operand& operand, const Slab& slab, int64_t first, int64_t last, std::byte* panels) const;
  void add_row_sums(const Slab& slab, PanelRange panels) const;

  const Matmul& product_;
  const MatmulPlan& plan_;
  const MatmulKernel& kernel_;
};

// A member's panels of the next slab of A in f32, packed piece by piece between the steps of the product, in the order
// of MatmulPacking: `step` rows of k of one panel, the same of its neighbours, and so on. A panel that lacks lanes is
// left to finish().
class PackingAhead {
 public:
  // `packing` and `slab` must outlive it.
  PackingAhead(const MatmulPacking& packing, const Slab& slab, PanelRange panels, int64_t step);

  // The piece that is being packed; null when all are.
  PackAhead* piece();
  // Packs what is left, and adds the row sums of all its panels.
  void finish();

 private:
  int64_t next() const;  // where it lies in A

  const MatmulPacking& packing_;
  const Slab& slab_;
  const PanelRange panels_;
  const int64_t step_;
  const MatmulPacking::Operand rows_;
  int64_t whole_, panel_, group_, k_ = 0;  // end of the panels with all lanes; what comes next
  PackAhead piece_{};
};

}  // namespace ridgeline::ops::cpu

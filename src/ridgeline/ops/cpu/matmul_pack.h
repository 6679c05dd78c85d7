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

class PackingAhead;

class MatmulPacking {
 public:
  // Both must outlive it.
  MatmulPacking(const Matmul& product, const MatmulPlan& plan)
      : product_(product), plan_(plan), kernel_(*plan.kernel) {}

  // Panels of a slab of A, and their part of the product's row sums.
  void pack_a(const Slab& slab, PanelRange panels) const;
  // Columns [first, last) of B, over the slab's k.
  void pack_b(const Slab& slab, int64_t first, int64_t last, std::byte* panels) const;
  // The same while about `strips` strips are multiplied. Row sums are left to add_row_sums().
  PackingAhead a_ahead(const Slab& slab, PanelRange panels, int64_t strips) const;
  PackingAhead b_ahead(const Slab& slab, int64_t first, int64_t last, std::byte* panels, int64_t strips) const;
  // Adds what packed panels hold to the product's row sums, if these are wanted.
  void add_row_sums(const Slab& slab, PanelRange panels) const;
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
    int64_t tile;         // lanes of a panel
    int64_t ahead_lanes;  // of them at once in what is packed ahead
    void (*pack)(const PanelSource& source, void* panel);

    // Of element (lane, k), in elements.
    int64_t offset(int64_t lane, int64_t k) const { return k_contiguous ? lane * matrix.ld + k : k * matrix.ld + lane; }
    // So many panels are packed together.
    int64_t group() const;
  };
  Operand rows_of_a() const;
  Operand columns_of_b() const;

  // Lanes [first, last) over the slab's k from `k_from` on (a multiple of the kernel's unit); `panels` is where the
  // panel of `first` begins.
  void pack(const Operand& operand, const Slab& slab, int64_t first, int64_t last, std::byte* panels,
            int64_t k_from = 0) const;
  void pack_widened(const Operand& operand, const Slab& slab, int64_t first, int64_t last, std::byte* panels) const;

  const Matmul& product_;
  const MatmulPlan& plan_;
  const MatmulKernel& kernel_;
};

// Lanes of an operand that a member packs piece by piece between the steps of a product, in the order of MatmulPacking:
// a few rows of k of a few lanes, the same of their neighbours, and so on. A panel that lacks lanes is left to
// finish().
class PackingAhead {
 public:
  // What comes next; null when nothing is left but what finish() does.
  PackAhead* piece();
  // Packs what is left.
  void finish();

 private:
  friend class MatmulPacking;
  // Pieces of `step` rows of k. `packing` and `slab` must outlive it.
  PackingAhead(const MatmulPacking& packing, MatmulPacking::Operand operand, const Slab& slab, int64_t first,
               int64_t last, std::byte* panels, int64_t strips);
  int64_t next() const;  // where it lies in the matrix
  int64_t pieces_of_panel() const { return operand_.tile / operand_.ahead_lanes; }
  int64_t group_pieces() const;

  const MatmulPacking& packing_;
  const MatmulPacking::Operand operand_;
  const Slab& slab_;
  const int64_t first_, last_;
  std::byte* const panels_;
  const int64_t whole_;                    // pieces of panels that have all their lanes
  int64_t step_ = 0;                       // rows of k
  int64_t piece_ = 0, group_ = 0, k_ = 0;  // what comes next, its group's first piece
  int64_t begun_group_ = 0, begun_k_ = 0;  // of `now_`
  PackAhead now_{};
};

}  // namespace ridgeline::ops::cpu

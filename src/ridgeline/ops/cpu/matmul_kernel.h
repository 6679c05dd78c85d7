// What a matrix-product kernel of one instruction set offers to the driver (matmul.cpp).
//
// This header is included by translation units compiled with instruction sets that the running CPU may lack, so it
// holds plain data only, as does what it includes: no inline function, no standard template. A weak copy of either,
// compiled with AVX-512, could be the one that the linker keeps for the whole program.
#pragma once

#include <cstdint>

#include "ridgeline/base/dtype_enum.h"

namespace ridgeline::ops::cpu {

// Part of an operand before packing. A lane is a row of A or a column of B; element (lane, k) lies at lane * ld + k
// when `k_contiguous`, else at k * ld + lane.
struct PanelSource {
  const void* data;
  int64_t ld;
  bool k_contiguous;
  DType dtype;    // f32 or bf16
  int64_t lanes;  // the panel's missing lanes are filled with zeros
  int64_t k;      // filled with zeros up to a multiple of the kernel's k_unit
};

// Lanes that are packed between the steps of a product, as pack_a() and pack_b() do: a panel of A, or `ahead_lanes` of
// a panel of B, all of them there, over whole units of k. The kernel packs what it can, k ascending, and leaves the
// rest in `source` and `panel`.
struct PackAhead {
  PanelSource source;
  void* panel;          // where the first lane goes
  int64_t panel_lanes;  // of the whole panel: mr or nr
  int64_t soon;         // from its elements to those of the next such panel, to be brought near
};

// The last step for rows of C: S = sums + carry + bias; P = round(S); out = residual ? round(P + residual) : P.
struct Finish {
  const float* carry;  // may be null; may be `out`
  int64_t ld_carry;
  const void* bias;      // may be null
  DType bias_dtype;      // f32 or bf16
  const void* residual;  // may be null; may be `out`; dtype and leading dimension of `out`
  const void* soon;      // may be null: what an activation will touch afterwards, to be brought near; as `residual`
  void* out;
  int64_t ld_out;
  DType out_dtype;  // f32 or bf16
};

// One A panel, which stays in L1, times consecutive B panels, which stream past it from L2, over a block of k: a row of
// tiles [mr][nr] of C.
struct Strip {
  int64_t k;  // a multiple of k_unit
  const void* a;
  const void* b;
  int64_t b_stride;       // bytes from one B panel to the next
  int64_t rows, columns;  // of C; rows <= mr
  float* sums;            // [tiles][mr * nr], the kernel's own layout; holds the earlier blocks of k if `add`
  bool add;
  void* scratch;         // kScratchBytes, page-aligned
  const Finish* finish;  // at the last block of k: write C; else null: leave the sums
  const void* next;      // the A panel after this one: to be brought near
  int64_t next_bytes;
  PackAhead* ahead;  // may be null, and is where the kernel does not pack ahead
};
constexpr int64_t kScratchBytes = 16384;

// A few rows of A times columns of B as they lie in memory: sums [m][n].
struct Skinny {
  int64_t m, n, k;
  const float* a;  // [m][k]
  const void* b;
  DType b_dtype;  // f32, bf16 or f16
  int64_t ldb;
  bool b_k_contiguous;
  float* sums;
  int64_t ld_sums;
};

// Packed panels: A in panels of `mr` rows, B in panels of `nr` columns, each panel contiguous over k, so that a block
// of k (a multiple of k_unit) is a contiguous part of it. The layout inside belongs to the kernel.
struct MatmulKernel {
  int64_t mr, nr;        // register tile of `multiply`
  int64_t k_unit;        // k in panels is padded to a multiple of it
  int64_t packed_bytes;  // bytes per packed element
  int64_t mb, nb;        // rows (a multiple of mr) and most columns (of nr) of a block of C
  int64_t b_bytes;       // packed columns of a block over a chunk of k: what L2 holds beside the rest
  int64_t kb, kb_alone;  // longest block of k (multiples of k_unit): of several, and when all of k is one
  int64_t ahead_lanes;   // of B in a Strip::ahead: a divisor of nr, not mr; 0: `multiply` packs nothing ahead

  void (*begin)();  // on a member's thread before its first `multiply`; may be null
  void (*end)();    // after the last; may be null
  void (*pack_a)(const PanelSource& source, void* panel);
  void (*pack_b)(const PanelSource& source, void* panel);
  // sums[i] += sum over k of row i of a packed A panel holding k padded elements.
  void (*row_sums)(const void* a_panel, int64_t k, float* sums);
  void (*multiply)(const Strip& strip);
  void (*skinny)(const Skinny& product);
  // Rows of C from row-major sums.
  void (*finish)(const Finish& finish, int64_t rows, int64_t columns, const float* sums, int64_t ld_sums);
};

// One per instruction set, for A and B in f32 or bf16; the last two for bf16 alone.
const MatmulKernel& matmul_kernel_portable();
const MatmulKernel& matmul_kernel_avx2();
const MatmulKernel& matmul_kernel_avx512();
const MatmulKernel& matmul_kernel_avx512_bf16();
const MatmulKernel& matmul_kernel_amx_bf16();

}  // namespace ridgeline::ops::cpu

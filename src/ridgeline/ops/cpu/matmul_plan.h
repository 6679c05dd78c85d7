// How a matrix product is cut, and where its parts lie in the workspace: functions of the product and the kernel alone,
// so that the order of summation never depends on the team.
//
// k is cut into chunks, A's rows into slabs. A slab of one chunk is packed at a time, by the team together; blocks of C
// are tasks of its members. A chunk is cut into blocks of k so that an A panel fits the first-level cache.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ridgeline/device/cpu/features.h"
#include "ridgeline/ops/cpu/matmul_kernel.h"
#include "ridgeline/ops/matmul.h"

namespace ridgeline::ops::cpu {

constexpr int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
constexpr int64_t round_up(int64_t a, int64_t b) {
  return divide_up(a, b) * b;
}

constexpr int64_t kPage = 4096;      // kernels place panels and scratch relative to pages (matmul_amx.cpp)
constexpr int64_t kMemberLine = 64;  // bytes: what members tell each other and keep between slabs, a cache line each

// At most so many rows take B as it lies; beyond, packing it pays.
constexpr int64_t kSkinnyRows = 16, kSkinnyColumns = 64;

struct MatmulPlan {
  const MatmulKernel* kernel = nullptr;
  bool skinny = false;               // few rows of A by B as it lies: nothing is cut or packed, the rest stays as it is
  int64_t slab = 0, mb = 0, nb = 0;  // rows of a slab, rows and columns of a block: multiples of the kernel's tile
  int64_t k_chunk = 0, k_block = 0;  // multiples of the kernel's unit
  int64_t chunks = 1, slabs = 1;     // slabs of each chunk
  bool ahead = false;                // a slab is packed while the one before is multiplied
  int64_t b_sets = 1;                // 2: columns of B are packed while those before are multiplied
  bool carry = false;                // sums between chunks need memory of their own: the workspace's start
  int64_t slab_offset = 0, slab_bytes = 0, member_offset = 0;  // bytes in the workspace
  int64_t b_bytes = 0, sums_offset = 0, member_bytes = 0;      // of a set of B panels; in a member's memory; of that
  bool staged = false;       // C or the bias is f16: a member has a Stage (matmul_epilogue.h)
  int64_t stage_offset = 0;  // in a member's memory

  int64_t padded(int64_t k) const { return round_up(k, kernel->k_unit); }
  // Of a panel of `tile` lanes.
  int64_t panel_bytes(int64_t tile, int64_t k) const { return tile * padded(k) * kernel->packed_bytes; }
  int64_t a_panel_bytes(int64_t k) const { return panel_bytes(kernel->mr, k); }
  int64_t b_panel_bytes(int64_t k) const { return panel_bytes(kernel->nr, k); }
};

MatmulPlan plan_of(const Matmul& product, device::Isa isa);

// Up to a page of it is lost before the first whole one, where the plan's offsets count from.
int64_t workspace_bytes(const Matmul& product, const MatmulPlan& plan, int team_size);

// Rows of A by a chunk of k, and where they are packed.
struct Slab {
  int64_t chunk = 0, k_first = 0, k = 0;
  int64_t first = 0, rows = 0;
  std::byte* panels = nullptr;
};

// Slab number `stage` of the product, chunk after chunk; `workspace` begins at a page.
Slab slab_of(const Matmul& product, const MatmulPlan& plan, int64_t stage, std::byte* workspace);

}  // namespace ridgeline::ops::cpu

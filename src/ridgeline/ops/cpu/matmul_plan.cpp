#include "ridgeline/ops/cpu/matmul_plan.h"

#include <algorithm>

namespace ridgeline::ops::cpu {
namespace {

using device::Isa;

constexpr int64_t kRowsOfTwoSlabs = 768;           // with fewer, waiting for each other costs members more than packing
constexpr int64_t kSlabBytes = int64_t{26} << 20;  // of packed A, all slabs together: the last-level cache's share

// For operands as the kernels see them: f16 passes through f32 on its way.
const MatmulKernel& kernel_of(Isa isa, DType dtype) {
#if defined(__x86_64__)
  const bool bf16 = dtype == DType::bf16;
  switch (isa) {
    case Isa::portable:
      break;
    case Isa::avx2:
      return matmul_kernel_avx2();
    case Isa::avx512:
      return matmul_kernel_avx512();
    case Isa::avx512_bf16:
      return bf16 ? matmul_kernel_avx512_bf16() : matmul_kernel_avx512();
    case Isa::amx_bf16:
      return bf16 ? matmul_kernel_amx_bf16() : matmul_kernel_avx512();
  }
#else
  static_cast<void>(isa);
  static_cast<void>(dtype);
#endif
  return matmul_kernel_portable();
}

void cut_k(const Matmul& p, MatmulPlan& plan) {
  const MatmulKernel& kernel = *plan.kernel;
  const int64_t depth = plan.padded(p.k);
  const int64_t longest = std::max(kernel.kb_alone, kernel.b_bytes / (kernel.nb / 2 * kernel.packed_bytes));
  plan.k_chunk =
      std::max(kernel.k_unit, plan.padded(divide_up(depth, std::max<int64_t>(1, divide_up(depth, longest)))));
  plan.chunks = std::max<int64_t>(1, divide_up(depth, plan.k_chunk));
  const int64_t k_blocks = plan.k_chunk <= kernel.kb_alone ? 1 : divide_up(plan.k_chunk, kernel.kb);
  plan.k_block = plan.padded(divide_up(plan.k_chunk, k_blocks));
  // f32 C itself holds the sums between chunks, unless the residual may lie there.
  plan.carry = plan.chunks > 1 && (p.c.dtype != DType::f32 || p.epilogue == Epilogue::residual);
}

void cut_rows_and_columns(const Matmul& p, MatmulPlan& plan) {
  const MatmulKernel& kernel = *plan.kernel;
  plan.mb = std::min(kernel.mb, round_up(p.m, kernel.mr));
  const bool packs_ahead = kernel.ahead_lanes > 0 && p.a.data.dtype != DType::f16 && p.k % kernel.k_unit == 0;
  const auto cut_into_slabs = [&](int64_t bytes, int64_t least_slabs) {
    const int64_t blocks = std::max<int64_t>(1, bytes / (plan.mb * plan.k_chunk * kernel.packed_bytes));
    plan.slabs = std::max(divide_up(p.m, blocks * plan.mb), least_slabs);
    plan.slab = std::min(round_up(divide_up(p.m, plan.slabs), plan.mb), round_up(p.m, kernel.mr));
  };
  // Where nothing hides packing but the product itself, half of the rows are packed behind the other half.
  cut_into_slabs(kSlabBytes / 2, packs_ahead && p.m >= kRowsOfTwoSlabs && plan.chunks == 1 ? 2 : 1);
  plan.ahead = packs_ahead && plan.chunks * plan.slabs > 1;
  if (!plan.ahead) cut_into_slabs(kSlabBytes, 1);
  const int64_t fitting = kernel.b_bytes / (plan.k_chunk * kernel.packed_bytes) / kernel.nr * kernel.nr;
  const int64_t nb = std::clamp(fitting, kernel.nb / 2 / kernel.nr * kernel.nr, kernel.nb);
  plan.nb = std::min(nb, round_up(p.n, kernel.nr));
  plan.b_sets = packs_ahead && (plan.ahead || p.n > plan.nb) ? 2 : 1;
}

void lay_out(const Matmul& p, MatmulPlan& plan) {
  const MatmulKernel& kernel = *plan.kernel;
  plan.slab_offset = plan.carry ? round_up(p.m * p.n * 4, kPage) : 0;
  plan.slab_bytes = round_up(plan.slab / kernel.mr * plan.a_panel_bytes(plan.k_chunk), kPage);
  plan.member_offset = plan.slab_offset + (plan.ahead ? 2 : 1) * plan.slab_bytes;
  plan.b_bytes = round_up(plan.nb / kernel.nr * plan.b_panel_bytes(plan.k_chunk), kPage);
  plan.sums_offset = plan.b_sets * plan.b_bytes;
  plan.stage_offset = plan.sums_offset + round_up(plan.mb * plan.nb * 4, kPage);
  plan.staged = p.c.dtype == DType::f16 || p.bias.dtype == DType::f16;
  plan.member_bytes =
      plan.stage_offset + (plan.staged ? round_up((kernel.mr + 2) * plan.nb * 4, kPage) : 0) + kScratchBytes;
}

}  // namespace

MatmulPlan plan_of(const Matmul& product, Isa isa) {
  MatmulPlan plan;
  plan.kernel = &kernel_of(isa, product.a.data.dtype);
  plan.skinny = product.m <= kSkinnyRows && product.row_sums_of_a == nullptr;
  if (plan.skinny) return plan;
  cut_k(product, plan);
  cut_rows_and_columns(product, plan);
  lay_out(product, plan);
  return plan;
}

int64_t workspace_bytes(const Matmul& product, const MatmulPlan& plan, int team_size) {
  if (plan.skinny) return kPage + round_up(product.m * product.k * 4, kPage);
  return kPage + plan.member_offset + team_size * (plan.member_bytes + kMemberLine);
}

Slab slab_of(const Matmul& product, const MatmulPlan& plan, int64_t stage, std::byte* workspace) {
  Slab slab;
  slab.chunk = stage / plan.slabs;
  slab.k_first = slab.chunk * plan.k_chunk;
  slab.k = std::min(plan.k_chunk, product.k - slab.k_first);
  slab.first = stage % plan.slabs * plan.slab;
  slab.rows = std::min(plan.slab, product.m - slab.first);
  slab.panels = workspace + plan.slab_offset + (plan.ahead ? stage % 2 * plan.slab_bytes : 0);
  return slab;
}

}  // namespace ridgeline::ops::cpu

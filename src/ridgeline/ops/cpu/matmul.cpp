// The matrix product's driver: which blocks of C are computed by whom.
//
// The team packs one slab of one chunk of A together: the shared panels (matmul_plan.h says what these are). Then the
// members compute blocks of C: a member packs the B panels of its block's columns into its own memory, where they stay
// in its L2 cache while all A panels of the slab pass by. Where the kernel can, the next slab is packed meanwhile, a
// few elements between the steps of the product, and so costs next to nothing. Sums over the blocks of k are kept in
// fp32 in the member's memory, over the chunks in C (or, where C cannot hold them, in the workspace). Kernels know f32
// and bf16: operands in f16 pass through f32 on their way into panels (matmul_pack.h), rows of C in f16 are staged in
// f32 and rounded when they are finished (matmul_epilogue.h).
#include "ridgeline/ops/matmul.h"

#include <algorithm>
#include <atomic>

#include "ridgeline/base/error.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/ops/cpu/matmul_epilogue.h"
#include "ridgeline/ops/cpu/matmul_isa.h"
#include "ridgeline/ops/cpu/matmul_pack.h"
#include "ridgeline/ops/cpu/matmul_plan.h"
#include "ridgeline/ops/cpu/require.h"

namespace ridgeline::ops {
namespace cpu {
namespace {

using device::Isa;
using device::WorkerTeam;

constexpr int64_t kAheadSteps = 16;  // of k, or a multiple: what of a panel is packed ahead at once

void check(const Matmul& p) {
  RL_CHECK(p.m, >=, 0);
  RL_CHECK(p.n, >=, 0);
  RL_CHECK(p.k, >=, 0);
  const DType dtype = p.a.data.dtype;
  RL_REQUIRE(is_float(dtype), "matmul: A has dtype {}", name_of(dtype));
  RL_REQUIRE(p.b.data.dtype == dtype, "matmul: A has dtype {}, B {}", name_of(dtype), name_of(p.b.data.dtype));
  RL_REQUIRE(is_float(p.c.dtype), "matmul: C has dtype {}", name_of(p.c.dtype));
  RL_REQUIRE(!p.bias || is_float(p.bias.dtype), "matmul: bias has dtype {}", name_of(p.bias.dtype));
  RL_REQUIRE(!p.accumulate || p.c.dtype == DType::f32, "matmul: accumulation into {}", name_of(p.c.dtype));
  RL_CHECK(p.ldc, >=, p.n);
  RL_CHECK(p.a.ld, >=, (p.a.layout == Layout::row_major ? p.k : p.m));
  RL_CHECK(p.b.ld, >=, (p.b.layout == Layout::row_major ? p.n : p.k));
  const auto same = [&](ConstRef ref, const char* name) {
    RL_REQUIRE(ref && ref.dtype == p.c.dtype, "matmul: {} is missing or not of C's dtype", name);
  };
  if (p.epilogue == Epilogue::gelu) same(p.pre_activation, "pre_activation");
  if (p.epilogue == Epilogue::gelu_grad) same(p.activation_input, "activation_input");
  if (p.epilogue == Epilogue::residual) same(p.residual, "residual");
}

// One matmul call: the plan and where everything lies.
class Run {
 public:
  Run(const Matmul& product, const MatmulPlan& plan, std::byte* workspace)
      : p_(product),
        plan_(plan),
        kernel_(*plan.kernel),
        workspace_(workspace),
        packing_(product, plan),
        epilogue_(product, plan, workspace) {}

  // Columns in fixed groups; every sum is its own, so who computes which group changes nothing.
  void execute_skinny(WorkerTeam& team) {
    auto* a = reinterpret_cast<float*>(workspace_);
    packing_.widen_a(a);
    team.parallel_for(p_.n, kSkinnyColumns, [&](int64_t first, int64_t last) {
      float sums[kSkinnyRows * kSkinnyColumns], staged[kSkinnyRows * kSkinnyColumns], bias[kSkinnyColumns];
      f16 rounded[kSkinnyColumns];
      Stage stage;
      stage.rows = staged, stage.ld = kSkinnyColumns, stage.bias = bias, stage.rounded = rounded;
      for (int64_t column = first; column < last; column += kSkinnyColumns) {
        const int64_t columns = std::min(kSkinnyColumns, last - column);
        const bool k_contiguous = p_.b.layout == Layout::column_major;
        kernel_.skinny({.m = p_.m,
                        .n = columns,
                        .k = p_.k,
                        .a = a,
                        .b = p_.b.data.at(k_contiguous ? column * p_.b.ld : column).data,
                        .b_dtype = p_.b.data.dtype,
                        .ldb = p_.b.ld,
                        .b_k_contiguous = k_contiguous,
                        .sums = sums,
                        .ld_sums = kSkinnyColumns});
        epilogue_.begin_columns(column, columns, stage);
        kernel_.finish(epilogue_.finish_of(0, 0, column, stage), p_.m, columns, sums, kSkinnyColumns);
        epilogue_.complete(0, column, p_.m, columns, stage);
      }
    });
  }

  void execute(WorkerTeam& team) {
    const int64_t stages = plan_.chunks * plan_.slabs;
    Slab slab = slab_of(p_, plan_, 0, workspace_);
    for (int64_t stage = 0; stage < stages; ++stage) {
      const Slab next = stage + 1 < stages ? slab_of(p_, plan_, stage + 1, workspace_) : Slab();
      const int64_t tasks = divide_up(slab.rows, plan_.mb) * divide_up(p_.n, plan_.nb);
      for (int member = 0; member < team.size(); ++member) next_task(team, member) = tasks * member / team.size();
      if (stage == 0 || !plan_.ahead)
        team.run([&](int member) { packing_.pack_a(slab, share_of(slab, team, member)); });
      team.run([&](int member) { compute(team, member, tasks, slab, plan_.ahead ? next : Slab()); });
      slab = next;
    }
  }

 private:
  PanelRange share_of(const Slab& slab, const WorkerTeam& team, int member) const {
    const int64_t panels = divide_up(slab.rows, kernel_.mr);
    return {panels * member / team.size(), panels * (member + 1) / team.size()};
  }

  // The first task of a member's share that nobody has begun, on a cache line of its own.
  int64_t& next_task(const WorkerTeam& team, int member) const {
    std::byte* counters = workspace_ + plan_.member_offset + team.size() * plan_.member_bytes;
    return *reinterpret_cast<int64_t*>(counters + member * kCounterBytes);
  }

  // Tasks are blocks of C, numbered down the slab first. Every member begins with a share of its own, so that it packs
  // the B panels of few columns, and then helps the others finish theirs: blocks cost differently at the edges, and a
  // core may be held up by something else.
  void compute(const WorkerTeam& team, int member, int64_t tasks, const Slab& slab, const Slab& next_slab) const {
    std::byte* memory = workspace_ + plan_.member_offset + member * plan_.member_bytes;
    auto* sums = reinterpret_cast<float*>(memory + plan_.b_bytes);
    const Stage stage = plan_.staged ? Stage(plan_, memory) : Stage();
    void* scratch = memory + plan_.member_bytes - kScratchBytes;
    if (kernel_.begin != nullptr) kernel_.begin();
    const int64_t row_blocks = divide_up(slab.rows, plan_.mb);
    // Every strip packs its part of this member's panels.
    const PanelRange mine = share_of(next_slab, team, member);
    const int64_t strips = divide_up(tasks, team.size()) * divide_up(plan_.mb, kernel_.mr);
    const int64_t steps = divide_up((mine.last - mine.first) * next_slab.k, std::max<int64_t>(1, strips));
    PackingAhead ahead(packing_, next_slab, mine, std::max(kAheadSteps, round_up(steps, kAheadSteps)));
    int64_t packed = -1;
    for (int i = 0; i < team.size(); ++i) {
      const int owner = (member + i) % team.size();
      const std::atomic_ref<int64_t> next(next_task(team, owner));
      const int64_t end = tasks * (owner + 1) / team.size();
      for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < end;) {
        const int64_t column = task / row_blocks * plan_.nb, row = task % row_blocks * plan_.mb;
        if (column != packed) packing_.pack_b(slab, column, std::min(p_.n, column + plan_.nb), memory);
        packed = column;
        compute_block(slab, row, column, memory, sums, stage, scratch, ahead);
      }
    }
    ahead.finish();
    if (kernel_.end != nullptr) kernel_.end();
  }

  // Rows [row, row + mb) of the slab.
  void compute_block(const Slab& slab, int64_t row, int64_t column, const std::byte* b, float* sums, const Stage& stage,
                     void* scratch, PackingAhead& ahead) const {
    const int64_t rows = std::min(plan_.mb, slab.rows - row), columns = std::min(plan_.nb, p_.n - column);
    const int64_t a_bytes = plan_.a_panel_bytes(slab.k), depth = plan_.padded(slab.k);
    Strip strip{};
    strip.columns = columns;
    strip.b_stride = plan_.b_panel_bytes(slab.k);
    strip.scratch = scratch;
    epilogue_.begin_columns(column, columns, stage);
    int64_t k = 0;
    do {
      strip.k = std::min(plan_.k_block, depth - k);
      strip.add = k > 0;
      strip.sums = sums;
      strip.b = b + k * kernel_.nr * kernel_.packed_bytes;
      const bool last = k + strip.k == depth;
      const std::byte* a = packing_.a_panel(slab, row / kernel_.mr) + k * kernel_.mr * kernel_.packed_bytes;
      for (int64_t i = 0; i < rows; i += kernel_.mr, a += a_bytes) {
        const Finish finish = epilogue_.finish_of(slab.chunk, slab.first + row + i, column, stage);
        strip.a = a;
        strip.rows = std::min(kernel_.mr, rows - i);
        strip.finish = last ? &finish : nullptr;
        const bool more = row + i + kernel_.mr < slab.rows;
        strip.next = more ? a + a_bytes : a;
        strip.next_bytes = more ? strip.k * kernel_.mr * kernel_.packed_bytes : 0;
        strip.ahead = ahead.piece();
        kernel_.multiply(strip);
        if (last && slab.chunk + 1 == plan_.chunks)
          epilogue_.complete(slab.first + row + i, column, strip.rows, columns, stage);
        if (strip.k < depth) strip.sums += round_up(columns, kernel_.nr) * kernel_.mr;
      }
      k += strip.k;
    } while (k < depth);
  }

  const Matmul& p_;
  const MatmulPlan& plan_;
  const MatmulKernel& kernel_;
  std::byte* workspace_;
  const MatmulPacking packing_;
  const MatmulEpilogue epilogue_;
};

}  // namespace

int64_t matmul_workspace_bytes(const Matmul& product, int team_size, Isa isa) {
  return workspace_bytes(product, plan_of(product, isa), team_size);
}

void matmul(WorkerTeam& team, const Matmul& product, Workspace workspace, Isa isa) {
  check(product);
  if (product.m == 0 || product.n == 0) return;
  const MatmulPlan plan = plan_of(product, isa);
  std::byte* const memory = workspace.require(workspace_bytes(product, plan, team.size()), "matmul", team.size());
  const auto address = reinterpret_cast<int64_t>(memory);
  std::byte* const first_page = memory + (round_up(address, kPage) - address);
  Run run(product, plan, first_page);
  if (plan.skinny) {
    run.execute_skinny(team);
  } else {
    run.execute(team);
  }
}

}  // namespace cpu

int64_t matmul_workspace_bytes(const Matmul& product, int team_size) {
  return cpu::matmul_workspace_bytes(product, team_size, device::isa());
}

void matmul(device::Stream& stream, const Matmul& product, Workspace workspace) {
  cpu::matmul(stream.team(), product, workspace, device::isa());
}

}  // namespace ridgeline::ops

// The matrix product's driver: which blocks of C are computed by whom.
//
// The team packs one slab of one chunk of A together: the shared panels (matmul_plan.h says what these are). Then the
// members compute blocks of C: a member packs the B panels of its block's columns into its own memory, where they stay
// in its L2 cache while all A panels of the slab pass by. Where the kernel can, the next slab, and the columns of B
// that a member comes to next, are packed meanwhile, a few elements between the steps of the product, and so cost next
// to nothing. Sums over the blocks of k are kept in fp32 in the member's memory, over the chunks in C (or, where C
// cannot hold them, in the workspace). Kernels know f32 and bf16: operands in f16 pass through f32 on their way into
// panels (matmul_pack.h), rows of C in f16 are staged in f32 and rounded when they are finished (matmul_epilogue.h).
#include "ridgeline/ops/matmul.h"

#include <algorithm>
#include <atomic>
#include <optional>

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
      for (int member = 0; member < team.size(); ++member) {
        Member& state = state_of(team, member);
        if (stage == 0) state = Member();
        state.next_task = tasks * member / team.size();
      }
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

  // What a member has, on cache lines of its own, and what of it outlasts a slab.
  struct Member {
    int64_t next_task;   // the first task of its share that nobody has begun
    int64_t columns[2];  // which columns its two sets of B panels hold (columns_key)
    int64_t set;         // the one in use
  };
  static_assert(sizeof(Member) <= kMemberLine);

  Member& state_of(const WorkerTeam& team, int member) const {
    std::byte* states = workspace_ + plan_.member_offset + team.size() * plan_.member_bytes;
    return *reinterpret_cast<Member*>(states + member * kMemberLine);
  }

  // Not 0.
  int64_t columns_key(const Slab& slab, int64_t column) const { return 1 + slab.chunk * p_.n + column; }

  // What a member packs while it multiplies: its panels of the next slab of A, and the columns of B that it will come
  // to next, in turns.
  struct Ahead {
    std::optional<PackingAhead> rows, columns;
    int64_t key = 0;            // of `columns`
    bool of_next_slab = false;  // these
    bool turn = false;

    PackAhead* piece() {
      turn = !turn;
      std::optional<PackingAhead>&first = turn ? columns : rows, &second = turn ? rows : columns;
      PackAhead* piece = first ? first->piece() : nullptr;
      return piece == nullptr && second ? second->piece() : piece;
    }
  };

  // What a member does of a slab: its own share of the tasks is those below `end` that nobody else has taken.
  struct Work {
    const WorkerTeam& team;
    const int member;
    const Slab &slab, &next_slab;
    const int64_t end;
    std::byte* const memory;
    Member& state;
    Ahead ahead{};
  };

  // Tasks are blocks of C, numbered down the slab first. Every member begins with a share of its own, so that it packs
  // the B panels of few columns, and then helps the others finish theirs: blocks cost differently at the edges, and a
  // core may be held up by something else.
  void compute(const WorkerTeam& team, int member, int64_t tasks, const Slab& slab, const Slab& next_slab) const {
    std::byte* memory = workspace_ + plan_.member_offset + member * plan_.member_bytes;
    auto* sums = reinterpret_cast<float*>(memory + plan_.sums_offset);
    const Stage stage = plan_.staged ? Stage(plan_, memory) : Stage();
    void* scratch = memory + plan_.member_bytes - kScratchBytes;
    if (kernel_.begin != nullptr) kernel_.begin();
    const int64_t row_blocks = divide_up(slab.rows, plan_.mb);
    Member& state = state_of(team, member);
    Work work{team, member, slab, next_slab, tasks * (member + 1) / team.size(), memory, state};
    Ahead& ahead = work.ahead;
    const PanelRange mine = share_of(next_slab, team, member);
    // Every strip of this member's share packs a part, or every second one.
    const int64_t strips = divide_up(tasks, team.size()) * strips_of_task();
    if (next_slab.rows > 0) ahead.rows.emplace(packing_.a_ahead(next_slab, mine, divide_up(strips, 2)));
    for (int i = 0; i < team.size(); ++i) {
      const int owner = (member + i) % team.size();
      const std::atomic_ref<int64_t> next(state_of(team, owner).next_task);
      const int64_t end = tasks * (owner + 1) / team.size();
      for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < end;) {
        const int64_t column = task / row_blocks * plan_.nb, row = task % row_blocks * plan_.mb;
        if (state.columns[state.set] != columns_key(slab, column)) take_columns(work, column);
        if (owner == member && plan_.b_sets == 2 && !ahead.columns) begin_columns(work, task);
        compute_block(slab, row, column, memory + state.set * plan_.b_bytes, sums, stage, scratch, ahead);
      }
    }
    if (ahead.rows) {
      ahead.rows->finish();
      packing_.add_row_sums(next_slab, mine);
    }
    if (ahead.columns && ahead.of_next_slab) {
      ahead.columns->finish();
      state.columns[1 - state.set] = ahead.key;
    }
    if (kernel_.end != nullptr) kernel_.end();
  }

  int64_t strips_of_task() const {
    return divide_up(plan_.mb, kernel_.mr) * divide_up(plan_.padded(plan_.k_chunk), plan_.k_block);
  }

  // The B panels of a member's next block of columns: the set that holds them, or is filled with them now.
  void take_columns(Work& work, int64_t column) const {
    Member& state = work.state;
    Ahead& ahead = work.ahead;
    const int64_t key = columns_key(work.slab, column), other = 1 - state.set;
    if (ahead.columns && ahead.key == key) {
      ahead.columns->finish();
      ahead.columns.reset();
      state.columns[other] = key;
    }
    if (state.columns[other] == key) {
      state.set = other;
      return;
    }
    packing_.pack_b(work.slab, column, std::min(p_.n, column + plan_.nb), work.memory + state.set * plan_.b_bytes);
    state.columns[state.set] = key;
    // Somebody else had taken what was to come next.
    if (!ahead.of_next_slab) ahead.columns.reset();
  }

  // While a task of its own share is computed: the columns after its own, or the first of the next slab.
  void begin_columns(Work& work, int64_t task) const {
    Member& state = work.state;
    Ahead& ahead = work.ahead;
    const int64_t column_blocks = divide_up(p_.n, plan_.nb), row_blocks = divide_up(work.slab.rows, plan_.mb);
    int64_t block = task / row_blocks + 1;
    const int64_t strips = (std::min(work.end, block * row_blocks) - task) * strips_of_task();
    ahead.of_next_slab = block * row_blocks >= work.end;
    if (ahead.of_next_slab) {
      if (work.next_slab.rows == 0) return;
      const int64_t rows = divide_up(work.next_slab.rows, plan_.mb);
      block = rows * column_blocks * work.member / work.team.size() / rows;
    }
    const Slab& of = ahead.of_next_slab ? work.next_slab : work.slab;
    const int64_t column = block * plan_.nb, other = 1 - state.set;
    ahead.key = columns_key(of, column);
    if (state.columns[state.set] == ahead.key || state.columns[other] == ahead.key) return;
    state.columns[other] = 0;
    ahead.columns.emplace(packing_.b_ahead(of, column, std::min(p_.n, column + plan_.nb),
                                           work.memory + other * plan_.b_bytes, divide_up(strips, 2)));
  }

  // Rows [row, row + mb) of the slab.
  void compute_block(const Slab& slab, int64_t row, int64_t column, const std::byte* b, float* sums, const Stage& stage,
                     void* scratch, Ahead& ahead) const {
    const int64_t rows = std::min(plan_.mb, slab.rows - row), columns = std::min(plan_.nb, p_.n - column);
    const int64_t a_bytes = plan_.a_panel_bytes(slab.k), depth = plan_.padded(slab.k);
    Strip strip{};
    strip.columns = columns;
    strip.b_stride = plan_.b_panel_bytes(slab.k);
    strip.scratch = scratch;
    epilogue_.begin_columns(column, columns, stage);
    // The next block is likely to be the one below.
    const std::byte* const a_of_block = packing_.a_panel(slab, row / kernel_.mr);
    const std::byte* const after = packing_.a_panel(slab, row + rows < slab.rows ? (row + rows) / kernel_.mr : 0);
    const int64_t a_step = kernel_.mr * kernel_.packed_bytes;
    int64_t k = 0;
    do {
      strip.k = std::min(plan_.k_block, depth - k);
      strip.add = k > 0;
      strip.sums = sums;
      strip.b = b + k * kernel_.nr * kernel_.packed_bytes;
      const bool last = k + strip.k == depth;
      const std::byte* a = a_of_block + k * a_step;
      for (int64_t i = 0; i < rows; i += kernel_.mr, a += a_bytes) {
        const Finish finish = epilogue_.finish_of(slab.chunk, slab.first + row + i, column, stage);
        strip.a = a;
        strip.rows = std::min(kernel_.mr, rows - i);
        strip.finish = last ? &finish : nullptr;
        strip.next = i + kernel_.mr < rows ? a + a_bytes : last ? after : a_of_block + (k + strip.k) * a_step;
        strip.next_bytes = strip.k * a_step;
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

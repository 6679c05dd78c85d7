// The matrix product's driver: which blocks of C are computed by whom, and where packed panels lie.
//
// k is cut into chunks, A's rows into slabs. The team packs one slab of one chunk of A together: the shared panels.
// Then the members compute blocks of C: a member packs the B panels of its block's columns into its own memory, where
// they stay in its L2 cache while all A panels of the slab pass by; a chunk is cut into blocks of k so that an A panel
// fits L1. Where the kernel can, the next slab is packed meanwhile, a few elements between the steps of the product,
// and so costs next to nothing. Sums over the blocks of k are kept in fp32 in the member's memory, over the chunks in C
// (or, where C cannot hold them, in the workspace). Kernels know f32 and bf16: operands in f16 pass through f32 on
// their way into panels, rows of C in f16 are staged in f32 and rounded when they are finished. All cuts depend on the
// product and the kernel alone, never on the team.
#include "ridgeline/ops/matmul.h"

#include <algorithm>
#include <atomic>

#include "ridgeline/base/error.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/ops/cpu/elementwise_rows.h"
#include "ridgeline/ops/cpu/matmul_isa.h"
#include "ridgeline/ops/cpu/matmul_kernel.h"
#include "ridgeline/ops/cpu/require.h"
#include "ridgeline/ops/elementwise.h"

namespace ridgeline::ops {
namespace cpu {
namespace {

using device::Isa;
using device::WorkerTeam;

const MatmulKernel& kernel_of(Isa isa, bool bf16) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::portable:
      break;
    case Isa::avx2:
      return matmul_kernel_avx2(bf16);
    case Isa::avx512:
      return matmul_kernel_avx512(bf16);
    case Isa::avx512_bf16:
      return bf16 ? matmul_kernel_avx512_bf16() : matmul_kernel_avx512(false);
    case Isa::amx_bf16:
      return bf16 ? matmul_kernel_amx_bf16() : matmul_kernel_avx512(false);
  }
#else
  static_cast<void>(isa);
#endif
  return matmul_kernel_portable(bf16);
}

constexpr int64_t kPage = 4096;  // kernels place panels and scratch relative to pages (matmul_amx.cpp)

constexpr int64_t kPackedTogether = 96, kPackedRows = 128;  // lanes; rows: a multiple of every kernel's k_unit

constexpr int64_t kCounterBytes = 64;  // per member: its share of the tasks

int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
int64_t round_up(int64_t a, int64_t b) {
  return divide_up(a, b) * b;
}

constexpr int64_t kSlabBytes = int64_t{26} << 20;  // of packed A, all slabs together: the last-level cache's share
constexpr int64_t kAheadSteps = 16;                // of k, or a multiple: what of a panel is packed ahead at once

// At most so many rows take B as it lies; beyond, packing it pays.
constexpr int64_t kSkinnyRows = 16, kSkinnyColumns = 64;
bool is_skinny(const Matmul& p) {
  return p.m <= kSkinnyRows && p.row_sums_of_a == nullptr;
}

// How much of an operand in f16 is widened at once: lanes next to each other (panels together) by k, or a panel's lanes
// by contiguous k.
constexpr int64_t kWidenedTogether = 4, kWidenedRows = 32, kWidenedRun = 128;
constexpr int64_t kMostLanes = 64;  // of a panel

struct Plan {
  const MatmulKernel* kernel = nullptr;
  int64_t slab = 0, mb = 0, nb = 0;  // rows of a slab, rows and columns of a block: multiples of the kernel's tile
  int64_t k_chunk = 0, k_block = 0;  // multiples of the kernel's unit
  int64_t chunks = 0, slabs = 0;     // slabs of each chunk
  bool ahead = false;                // a slab is packed while the one before is multiplied
  bool carry = false;                // sums between chunks need memory of their own
  int64_t slab_offset = 0, slab_bytes = 0, member_offset = 0;  // bytes in the workspace
  int64_t b_bytes = 0, member_bytes = 0;
  bool staged = false;
  int64_t stage_offset = 0;  // in a member's memory, where C or the bias is f16: see Stage

  int64_t padded(int64_t k) const { return round_up(k, kernel->k_unit); }
  int64_t a_panel_bytes(int64_t k) const { return kernel->mr * padded(k) * kernel->packed_bytes; }
  int64_t b_panel_bytes(int64_t k) const { return kernel->nr * padded(k) * kernel->packed_bytes; }
};

Plan plan_of(const Matmul& p, Isa isa) {
  Plan plan;
  plan.kernel = &kernel_of(isa, p.a.data.dtype == DType::bf16);
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

  plan.mb = std::min(kernel.mb, round_up(p.m, kernel.mr));
  const auto cut_into_slabs = [&](int64_t bytes) {
    const int64_t blocks = std::max<int64_t>(1, bytes / (plan.mb * plan.k_chunk * kernel.packed_bytes));
    plan.slabs = divide_up(p.m, blocks * plan.mb);
    plan.slab = std::min(round_up(divide_up(p.m, plan.slabs), plan.mb), round_up(p.m, kernel.mr));
  };
  cut_into_slabs(kSlabBytes / 2);
  plan.ahead = kernel.packs_ahead && p.a.data.dtype == DType::f32 && plan.chunks * plan.slabs > 1;
  if (!plan.ahead) cut_into_slabs(kSlabBytes);
  const int64_t fitting = kernel.b_bytes / (plan.k_chunk * kernel.packed_bytes) / kernel.nr * kernel.nr;
  const int64_t nb = std::clamp(fitting, kernel.nb / 2 / kernel.nr * kernel.nr, kernel.nb);
  plan.nb = std::min(nb, round_up(p.n, kernel.nr));

  plan.slab_offset = plan.carry ? round_up(p.m * p.n * 4, kPage) : 0;
  plan.slab_bytes = round_up(plan.slab / kernel.mr * plan.a_panel_bytes(plan.k_chunk), kPage);
  plan.member_offset = plan.slab_offset + (plan.ahead ? 2 : 1) * plan.slab_bytes;
  plan.b_bytes = round_up(plan.nb / kernel.nr * plan.b_panel_bytes(plan.k_chunk), kPage);
  plan.stage_offset = plan.b_bytes + round_up(plan.mb * plan.nb * 4, kPage);
  plan.staged = p.c.dtype == DType::f16 || p.bias.dtype == DType::f16;
  plan.member_bytes =
      plan.stage_offset + (plan.staged ? round_up((kernel.mr + 2) * plan.nb * 4, kPage) : 0) + kScratchBytes;
  return plan;
}

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

// Element-wise ops on the calling thread alone: the fused forms are the unfused ones, so their bits are too.
device::Stream& calling_thread() {
  static WorkerTeam team(1);
  static device::Stream stream(team);
  return stream;
}

// Where a member keeps a few rows of C in f32 before they are rounded to f16, a bias widened from f16, a row of f16.
struct Stage {
  Stage() = default;
  Stage(const Plan& plan, std::byte* memory)
      : rows(reinterpret_cast<float*>(memory + plan.stage_offset)),
        ld(plan.nb),
        bias(rows + plan.kernel->mr * ld),
        rounded(reinterpret_cast<f16*>(bias + ld)) {}
  float* rows = nullptr;
  int64_t ld = 0;
  float* bias = nullptr;
  f16* rounded = nullptr;
};

// One matmul call: the plan and where everything lies.
class Run {
 public:
  Run(const Matmul& product, const Plan& plan, std::byte* workspace)
      : p_(product), plan_(plan), kernel_(*plan.kernel), workspace_(workspace) {}

  // Columns in fixed groups; every sum is its own, so who computes which group changes nothing.
  void execute_skinny(WorkerTeam& team) {
    auto* a = reinterpret_cast<float*>(workspace_);
    const DType dtype = p_.a.data.dtype;
    for (int64_t row = 0; row < p_.m; ++row) widen_row_of_a(row, a + row * p_.k);
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
                        .ldb = p_.b.ld,
                        .b_k_contiguous = k_contiguous,
                        .bf16 = dtype == DType::bf16,
                        .f16 = dtype == DType::f16,
                        .sums = sums,
                        .ld_sums = kSkinnyColumns});
        widen_bias(column, columns, stage);
        kernel_.finish(finish_of(0, 0, column, stage), p_.m, columns, sums, kSkinnyColumns);
        round_rows(0, column, p_.m, columns, stage);
        activate(0, column, p_.m, columns);
      }
    });
  }

  void execute(WorkerTeam& team) {
    const int64_t stages = plan_.chunks * plan_.slabs;
    Slab slab = slab_of(0);
    for (int64_t stage = 0; stage < stages; ++stage) {
      const Slab next = stage + 1 < stages ? slab_of(stage + 1) : Slab();
      const int64_t tasks = divide_up(slab.rows, plan_.mb) * divide_up(p_.n, plan_.nb);
      for (int member = 0; member < team.size(); ++member) next_task(team, member) = tasks * member / team.size();
      if (stage == 0 || !plan_.ahead) team.run([&](int member) { pack_a(slab, share_of(slab, team, member)); });
      team.run([&](int member) { compute(team, member, tasks, slab, plan_.ahead ? next : Slab()); });
      slab = next;
    }
  }

 private:
  // Rows of A by a chunk of k, and where they are packed.
  struct Slab {
    int64_t chunk = 0, k_first = 0, k = 0;
    int64_t first = 0, rows = 0;
    std::byte* panels = nullptr;
  };
  Slab slab_of(int64_t stage) const {
    Slab slab;
    slab.chunk = stage / plan_.slabs;
    slab.k_first = slab.chunk * plan_.k_chunk;
    slab.k = std::min(plan_.k_chunk, p_.k - slab.k_first);
    slab.first = stage % plan_.slabs * plan_.slab;
    slab.rows = std::min(plan_.slab, p_.m - slab.first);
    slab.panels = workspace_ + plan_.slab_offset + (plan_.ahead ? stage % 2 * plan_.slab_bytes : 0);
    return slab;
  }

  // Panels [first, last) of a slab.
  struct Panels {
    int64_t first = 0, last = 0;
  };
  Panels share_of(const Slab& slab, const WorkerTeam& team, int member) const {
    const int64_t panels = divide_up(slab.rows, kernel_.mr);
    return {panels * member / team.size(), panels * (member + 1) / team.size()};
  }

  void widen_row_of_a(int64_t row, float* to) const {
    const ConstRef a = p_.a.data;
    if (p_.a.layout == Layout::row_major) return cast(calling_thread(), p_.k, a.at(row * p_.a.ld), to);
    for (int64_t k = 0; k < p_.k; ++k) {
      const int64_t at = k * p_.a.ld + row;
      to[k] = a.dtype == DType::f32    ? a.as<float>()[at]
              : a.dtype == DType::bf16 ? static_cast<float>(a.as<bf16>()[at])
                                       : static_cast<float>(a.as<f16>()[at]);
    }
  }

  std::byte* a_panel(const Slab& slab, int64_t panel) const {
    return slab.panels + panel * plan_.a_panel_bytes(slab.k);
  }

  // So many panels are packed together.
  static int64_t group_of(int64_t tile, bool k_contiguous) {
    return k_contiguous ? 1 : std::max<int64_t>(8, kPackedTogether / tile);
  }

  // Packs lanes [first, last), columns of B or rows of A, into consecutive panels. Where lanes are contiguous, a few
  // rows of k at a time for several panels: a panel alone would read a line here and there.
  void pack(bool b, const Slab& slab, int64_t first, int64_t last, std::byte* panels) const {
    const Matrix& matrix = b ? p_.b : p_.a;
    const bool k_contiguous = (matrix.layout == Layout::column_major) == b;
    const int64_t tile = b ? kernel_.nr : kernel_.mr;
    const int64_t bytes = b ? plan_.b_panel_bytes(slab.k) : plan_.a_panel_bytes(slab.k);
    if (matrix.data.dtype == DType::f16) return pack_halves(b, slab, first, last, panels);
    const int64_t group = group_of(tile, k_contiguous), k_step = k_contiguous ? slab.k : kPackedRows;
    for (int64_t lane0 = first; lane0 < last; lane0 += group * tile, panels += group * bytes) {
      for (int64_t k = 0; k < slab.k; k += k_step) {
        std::byte* panel = panels + k * tile * kernel_.packed_bytes;
        for (int64_t lane = lane0; lane < std::min(last, lane0 + group * tile); lane += tile, panel += bytes) {
          const int64_t row = slab.k_first + k;
          const PanelSource source{
              .data = matrix.data.at(k_contiguous ? lane * matrix.ld + row : row * matrix.ld + lane).data,
              .ld = matrix.ld,
              .k_contiguous = k_contiguous,
              .bf16 = matrix.data.dtype == DType::bf16,
              .lanes = std::min(tile, last - lane),
              .k = std::min(k_step, slab.k - k)};
          (b ? kernel_.pack_b : kernel_.pack_a)(source, panel);
        }
      }
    }
  }

  // The same for f16: a few lanes by a few k become a matrix of floats, which is packed.
  void pack_halves(bool b, const Slab& slab, int64_t first, int64_t last, std::byte* panels) const {
    const Matrix& matrix = b ? p_.b : p_.a;
    const bool k_contiguous = (matrix.layout == Layout::column_major) == b;
    const int64_t tile = b ? kernel_.nr : kernel_.mr;
    RL_CHECK(tile, <=, kMostLanes);
    const int64_t bytes = b ? plan_.b_panel_bytes(slab.k) : plan_.a_panel_bytes(slab.k);
    const int64_t group = k_contiguous ? 1 : kWidenedTogether, k_step = k_contiguous ? kWidenedRun : kWidenedRows;
    const int64_t ld = k_contiguous ? kWidenedRun : kWidenedTogether * tile;
    alignas(64) float wide[kMostLanes * kWidenedRun];
    static_assert(kWidenedTogether * kWidenedRows <= kWidenedRun);
    for (int64_t lane0 = first; lane0 < last; lane0 += group * tile, panels += group * bytes) {
      const int64_t end = std::min(last, lane0 + group * tile);
      for (int64_t k = 0; k < slab.k; k += k_step) {
        const int64_t count = std::min(k_step, slab.k - k), row = slab.k_first + k;
        const int64_t lines = k_contiguous ? end - lane0 : count, length = k_contiguous ? count : end - lane0;
        for (int64_t line = 0; line < lines; ++line) {
          const int64_t at = k_contiguous ? (lane0 + line) * matrix.ld + row : (row + line) * matrix.ld + lane0;
          cast(calling_thread(), length, matrix.data.at(at), wide + line * ld);
        }
        std::byte* panel = panels + k * tile * kernel_.packed_bytes;
        for (int64_t lane = lane0; lane < end; lane += tile, panel += bytes) {
          const PanelSource source{.data = wide + (lane - lane0) * (k_contiguous ? ld : 1),
                                   .ld = ld,
                                   .k_contiguous = k_contiguous,
                                   .bf16 = false,
                                   .lanes = std::min(tile, end - lane),
                                   .k = count};
          (b ? kernel_.pack_b : kernel_.pack_a)(source, panel);
        }
      }
    }
  }

  void pack_a(const Slab& slab, Panels panels) const {
    if (panels.first >= panels.last) return;
    const int64_t row = slab.first + panels.first * kernel_.mr;
    pack(false, slab, row, std::min(slab.first + slab.rows, slab.first + panels.last * kernel_.mr),
         a_panel(slab, panels.first));
    add_row_sums(slab, panels);
  }

  void add_row_sums(const Slab& slab, Panels panels) const {
    if (p_.row_sums_of_a == nullptr) return;
    constexpr int64_t kMostRows = 64;
    RL_CHECK(kernel_.mr, <=, kMostRows);
    for (int64_t panel = panels.first; panel < panels.last; ++panel) {
      float sums[kMostRows] = {};
      kernel_.row_sums(a_panel(slab, panel), plan_.padded(slab.k), sums);
      const int64_t row = panel * kernel_.mr, rows = std::min(kernel_.mr, slab.rows - row);
      for (int64_t i = 0; i < rows; ++i) p_.row_sums_of_a[slab.first + row + i] += sums[i];
    }
  }

  // A member's panels of the next slab, packed piece by piece in the order of pack(): `step` rows of k of one panel,
  // the same of its neighbours, and so on. A panel that lacks lanes is left to finish().
  class Ahead {
   public:
    Ahead(const Run& run, const Slab& slab, Panels panels, int64_t step)
        : run_(run), slab_(slab), panels_(panels), step_(step), matrix_(run.p_.a) {
      whole_ = std::min(panels.last, slab.rows / run.kernel_.mr);
      panel_ = group_ = panels.first;
      piece_.source.ld = matrix_.ld;
      piece_.source.k_contiguous = k_contiguous();
      piece_.source.lanes = run.kernel_.mr;
    }

    // The piece that is being packed; null when all are.
    PackAhead* piece() {
      if (piece_.source.k > 0) return &piece_;
      if (group_ >= whole_) return nullptr;
      const int64_t from = next();
      piece_.source.data = matrix_.data.as<float>() + from;
      piece_.source.k = std::min(step_, slab_.k - k_);
      piece_.panel = reinterpret_cast<float*>(run_.a_panel(slab_, panel_)) + k_ * run_.kernel_.mr;
      const int64_t end = std::min(whole_, group_ + group_of(run_.kernel_.mr, k_contiguous()));
      if (++panel_ == end) {
        panel_ = group_, k_ += step_;
        if (k_ >= slab_.k) panel_ = group_ = end, k_ = 0;
      }
      piece_.soon = next() - from;
      return &piece_;
    }

    void finish() {
      while (const PackAhead* rest = piece()) {
        run_.kernel_.pack_a(rest->source, rest->panel);
        piece_.source.k = 0;
      }
      run_.add_row_sums(slab_, {panels_.first, whole_});
      if (whole_ < panels_.last) run_.pack_a(slab_, {whole_, panels_.last});
    }

   private:
    bool k_contiguous() const { return matrix_.layout == Layout::row_major; }
    int64_t next() const {  // where it lies in A
      const int64_t lane = slab_.first + panel_ * run_.kernel_.mr, row = slab_.k_first + k_;
      return k_contiguous() ? lane * matrix_.ld + row : row * matrix_.ld + lane;
    }

    const Run& run_;
    const Slab& slab_;
    const Panels panels_;
    const int64_t step_;
    const Matrix& matrix_;
    int64_t whole_, panel_, group_, k_ = 0;  // end of the panels with all lanes; what comes next
    PackAhead piece_{};
  };

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
    const Panels mine = share_of(next_slab, team, member);
    const int64_t strips = divide_up(tasks, team.size()) * divide_up(plan_.mb, kernel_.mr);
    const int64_t steps = divide_up((mine.last - mine.first) * next_slab.k, std::max<int64_t>(1, strips));
    Ahead ahead(*this, next_slab, mine, std::max(kAheadSteps, round_up(steps, kAheadSteps)));
    int64_t packed = -1;
    for (int i = 0; i < team.size(); ++i) {
      const int owner = (member + i) % team.size();
      const std::atomic_ref<int64_t> next(next_task(team, owner));
      const int64_t end = tasks * (owner + 1) / team.size();
      for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < end;) {
        const int64_t column = task / row_blocks * plan_.nb, row = task % row_blocks * plan_.mb;
        if (column != packed) pack(true, slab, column, std::min(p_.n, column + plan_.nb), memory);
        packed = column;
        compute_block(slab, row, column, memory, sums, stage, scratch, ahead);
      }
    }
    ahead.finish();
    if (kernel_.end != nullptr) kernel_.end();
  }

  // Rows [row, row + mb) of the slab.
  void compute_block(const Slab& slab, int64_t row, int64_t column, const std::byte* b, float* sums, Stage stage,
                     void* scratch, Ahead& ahead) const {
    const int64_t rows = std::min(plan_.mb, slab.rows - row), columns = std::min(plan_.nb, p_.n - column);
    const int64_t a_bytes = plan_.a_panel_bytes(slab.k), depth = plan_.padded(slab.k);
    Strip strip{};
    strip.columns = columns;
    strip.b_stride = plan_.b_panel_bytes(slab.k);
    strip.scratch = scratch;
    widen_bias(column, columns, stage);
    int64_t k = 0;
    do {
      strip.k = std::min(plan_.k_block, depth - k);
      strip.add = k > 0;
      strip.sums = sums;
      strip.b = b + k * kernel_.nr * kernel_.packed_bytes;
      const bool last = k + strip.k == depth;
      const std::byte* a = a_panel(slab, row / kernel_.mr) + k * kernel_.mr * kernel_.packed_bytes;
      for (int64_t i = 0; i < rows; i += kernel_.mr, a += a_bytes) {
        const Finish finish = finish_of(slab.chunk, slab.first + row + i, column, stage);
        strip.a = a;
        strip.rows = std::min(kernel_.mr, rows - i);
        strip.finish = last ? &finish : nullptr;
        const bool more = row + i + kernel_.mr < slab.rows;
        strip.next = more ? a + a_bytes : a;
        strip.next_bytes = more ? strip.k * kernel_.mr * kernel_.packed_bytes : 0;
        strip.ahead = ahead.piece();
        kernel_.multiply(strip);
        if (last && slab.chunk + 1 == plan_.chunks) {
          round_rows(slab.first + row + i, column, strip.rows, columns, stage);
          activate(slab.first + row + i, column, strip.rows, columns);
        }
        if (strip.k < depth) strip.sums += round_up(columns, kernel_.nr) * kernel_.mr;
      }
      k += strip.k;
    } while (k < depth);
  }

  void widen_bias(int64_t column, int64_t columns, Stage stage) const {
    if (!p_.bias || p_.bias.dtype != DType::f16) return;
    cast(calling_thread(), columns, p_.bias.at(column), stage.bias);
  }

  // P of rows of C in f16, and the sum with the residual, from the sums in the stage.
  void round_rows(int64_t row, int64_t column, int64_t rows, int64_t columns, Stage stage) const {
    if (p_.c.dtype != DType::f16) return;
    device::Stream& stream = calling_thread();
    int64_t at = row * p_.ldc + column;
    for (int64_t i = 0; i < rows; ++i, at += p_.ldc) {
      const float* sums = stage.rows + i * stage.ld;
      if (p_.epilogue == Epilogue::residual) {
        cast(stream, columns, sums, stage.rounded);
        add(stream, columns, stage.rounded, p_.residual.at(at), p_.c.at(at));
      } else {
        cast(stream, columns, sums, p_.epilogue == Epilogue::gelu ? p_.pre_activation.at(at) : p_.c.at(at));
      }
    }
  }

  Finish finish_of(int64_t chunk, int64_t row, int64_t column, Stage stage) const {
    const int64_t at = row * p_.ldc + column;
    float* carry = plan_.carry ? reinterpret_cast<float*>(workspace_) + row * p_.n + column : nullptr;
    Finish finish{.carry = nullptr,
                  .ld_carry = p_.ldc,
                  .bias = nullptr,
                  .bias_bf16 = p_.bias.dtype == DType::bf16,
                  .residual = nullptr,
                  .soon = nullptr,
                  .out = p_.c.at(at).data,
                  .ld_out = p_.ldc,
                  .out_bf16 = p_.c.dtype == DType::bf16};
    if (chunk > 0 && plan_.carry) {
      finish.carry = carry;
      finish.ld_carry = p_.n;
    } else if (chunk > 0 || p_.accumulate) {
      finish.carry = p_.c.as<float>() + at;
    }
    if (chunk + 1 < plan_.chunks) {
      if (plan_.carry) {
        finish.out = carry;
        finish.ld_out = p_.n;
      }
      finish.out_bf16 = false;
      return finish;
    }
    if (p_.bias) finish.bias = p_.bias.dtype == DType::f16 ? stage.bias : p_.bias.at(column).data;
    if (p_.c.dtype == DType::f16) {
      finish.out = stage.rows;
      finish.ld_out = stage.ld;
      return finish;
    }
    if (p_.epilogue == Epilogue::residual) finish.residual = p_.residual.at(at).data;
    if (p_.epilogue == Epilogue::gelu) {
      finish.out = p_.pre_activation.at(at).data;
      finish.soon = p_.c.at(at).data;
    }
    if (p_.epilogue == Epilogue::gelu_grad) finish.soon = p_.activation_input.at(at).data;
    return finish;
  }

  // The activation of finished rows of C, from the values as stored, which are still in the first-level cache.
  void activate(int64_t row, int64_t column, int64_t rows, int64_t columns) const {
    const bool gelu = p_.epilogue == Epilogue::gelu;
    if (!gelu && p_.epilogue != Epilogue::gelu_grad) return;
    const int64_t at = row * p_.ldc + column;
    if (gelu) {
      gelu_forward_rows(rows, columns, p_.ldc, p_.pre_activation.at(at), p_.c.at(at));
    } else {
      gelu_backward_rows(rows, columns, p_.ldc, p_.activation_input.at(at), p_.c.at(at), p_.c.at(at));
    }
  }

  const Matmul& p_;
  const Plan& plan_;
  const MatmulKernel& kernel_;
  std::byte* workspace_;
};

}  // namespace

namespace {

// Up to a page is lost before the first one in the workspace.
int64_t workspace_bytes(const Matmul& product, const Plan& plan, int team_size) {
  if (is_skinny(product)) return kPage + round_up(product.m * product.k * 4, kPage);
  return kPage + plan.member_offset + team_size * (plan.member_bytes + kCounterBytes);
}

}  // namespace

int64_t matmul_workspace_bytes(const Matmul& product, int team_size, Isa isa) {
  return workspace_bytes(product, plan_of(product, isa), team_size);
}

void matmul(WorkerTeam& team, const Matmul& product, Workspace workspace, Isa isa) {
  check(product);
  if (product.m == 0 || product.n == 0) return;
  Plan plan = plan_of(product, isa);
  std::byte* const memory = workspace.require(workspace_bytes(product, plan, team.size()), "matmul", team.size());
  if (is_skinny(product)) plan.chunks = 1;
  const auto address = reinterpret_cast<int64_t>(memory);
  std::byte* const first_page = memory + (round_up(address, kPage) - address);
  Run run(product, plan, first_page);
  if (is_skinny(product)) {
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

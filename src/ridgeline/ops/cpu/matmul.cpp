// The matrix product's driver: which blocks of C are computed by whom, and where packed panels lie.
//
// The operand with fewer lanes (rows of A, or columns of B) is packed once by the whole team: the shared operand. The
// other one is cut into blocks; the member that owns a block packs it into its own memory, sized for its L2 cache, and
// multiplies it with every block of the shared operand. A block of C is summed in fp32 in the member's memory over all
// blocks of k, then finished row by row while it is in cache. Blocks depend on the product and the kernel alone, never
// on the team.
#include "ridgeline/ops/matmul.h"

#include <algorithm>

#include "ridgeline/base/error.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/ops/cpu/matmul_isa.h"
#include "ridgeline/ops/cpu/matmul_kernel.h"
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
constexpr int64_t kSharedBytes = int64_t{16} << 20;  // the shared operand should stay in the last-level cache

int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
int64_t round_up(int64_t a, int64_t b) {
  return divide_up(a, b) * b;
}

// One side of the product: A's rows or B's columns.
struct Side {
  int64_t lanes = 0, tile = 0, block = 0;  // block: lanes in a block of C, a multiple of tile
  int64_t blocks() const { return divide_up(lanes, block); }
  int64_t panels() const { return divide_up(lanes, tile); }
};

struct Plan {
  const MatmulKernel* kernel = nullptr;
  bool share_b = false;  // the shared operand is B, the owned one A
  Side rows, columns;
  int64_t k_chunk = 0, chunks = 0;                                 // k is cut first into chunks, each packed at once
  bool carry = false;                                              // sums between chunks need memory of their own
  int64_t carry_offset = 0, shared_offset = 0, member_offset = 0;  // bytes in the workspace
  int64_t owned_bytes = 0, member_bytes = 0;

  const Side& shared() const { return share_b ? columns : rows; }
  const Side& owned() const { return share_b ? rows : columns; }
  int64_t padded(int64_t k) const { return round_up(k, kernel->k_unit); }
  int64_t panel_bytes(const Side& side, int64_t k) const { return side.tile * padded(k) * kernel->packed_bytes; }
};

Plan plan_of(const Matmul& p, Isa isa) {
  Plan plan;
  plan.kernel = &kernel_of(isa, p.a.data.dtype == DType::bf16);
  const MatmulKernel& kernel = *plan.kernel;
  plan.rows = {p.m, kernel.mr, std::min(kernel.mb, round_up(p.m, kernel.mr))};
  plan.columns = {p.n, kernel.nr, std::min(kernel.nb, round_up(p.n, kernel.nr))};
  plan.share_b = p.n <= p.m;

  const int64_t k_blocks = std::max<int64_t>(1, divide_up(p.k, kernel.kb));
  const int64_t block_bytes = plan.shared().panels() * plan.panel_bytes(plan.shared(), kernel.kb);
  const int64_t most = std::max<int64_t>(8, kSharedBytes / block_bytes);
  plan.chunks = divide_up(k_blocks, most);
  plan.k_chunk = std::min(divide_up(k_blocks, plan.chunks) * kernel.kb, plan.padded(p.k));
  plan.chunks = std::max<int64_t>(1, divide_up(p.k, std::max<int64_t>(1, plan.k_chunk)));
  // f32 C itself holds the sums between chunks, unless the residual may lie there.
  plan.carry = plan.chunks > 1 && (p.c.dtype != DType::f32 || p.epilogue == Epilogue::residual);

  plan.carry_offset = 0;
  plan.shared_offset = plan.carry ? round_up(p.m * p.n * 4, kPage) : 0;
  plan.member_offset =
      plan.shared_offset + round_up(plan.shared().panels() * plan.panel_bytes(plan.shared(), plan.k_chunk), kPage);
  plan.owned_bytes =
      round_up(plan.owned().block / plan.owned().tile * plan.panel_bytes(plan.owned(), plan.k_chunk), kPage);
  plan.member_bytes = plan.owned_bytes + round_up(plan.rows.block * plan.columns.block * 4, kPage) + kScratchBytes;
  return plan;
}

void check(const Matmul& p) {
  RL_CHECK(p.m, >=, 0);
  RL_CHECK(p.n, >=, 0);
  RL_CHECK(p.k, >=, 0);
  const DType dtype = p.a.data.dtype;
  RL_REQUIRE(dtype == DType::f32 || dtype == DType::bf16, "matmul: A has dtype {}", name_of(dtype));
  RL_REQUIRE(p.b.data.dtype == dtype, "matmul: A has dtype {}, B {}", name_of(dtype), name_of(p.b.data.dtype));
  RL_REQUIRE(p.c.dtype == DType::f32 || p.c.dtype == DType::bf16, "matmul: C has dtype {}", name_of(p.c.dtype));
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

// One matmul call: the plan and where everything lies.
class Run {
 public:
  Run(const Matmul& product, const Plan& plan, std::byte* workspace)
      : p_(product), plan_(plan), kernel_(*plan.kernel), workspace_(workspace) {}

  void execute(WorkerTeam& team) {
    const int64_t panels = plan_.shared().panels();
    const int64_t tasks = plan_.owned().blocks() * plan_.shared().blocks();
    for (chunk_ = 0; chunk_ < plan_.chunks; ++chunk_) {
      k_first_ = chunk_ * plan_.k_chunk;
      k_count_ = std::min(plan_.k_chunk, p_.k - k_first_);
      team.run([&](int member) {
        for (int64_t i = panels * member / team.size(); i < panels * (member + 1) / team.size(); ++i) pack_shared(i);
      });
      team.run([&](int member) { compute(member, tasks * member / team.size(), tasks * (member + 1) / team.size()); });
    }
  }

 private:
  std::byte* shared_panel(int64_t panel) const {
    return workspace_ + plan_.shared_offset + panel * plan_.panel_bytes(plan_.shared(), k_count_);
  }

  void pack(bool b, int64_t lane, void* panel) const {
    const Matrix& matrix = b ? p_.b : p_.a;
    const Side& side = b ? plan_.columns : plan_.rows;
    const bool k_contiguous = (matrix.layout == Layout::column_major) == b;
    const int64_t offset = k_contiguous ? lane * matrix.ld + k_first_ : k_first_ * matrix.ld + lane;
    const PanelSource source{.data = matrix.data.at(offset).data,
                             .ld = matrix.ld,
                             .k_contiguous = k_contiguous,
                             .bf16 = matrix.data.dtype == DType::bf16,
                             .lanes = std::min(side.tile, side.lanes - lane),
                             .k = k_count_};
    (b ? kernel_.pack_b : kernel_.pack_a)(source, panel);
  }

  void sum_rows(int64_t row, const void* panel) const {
    if (p_.row_sums_of_a == nullptr) return;
    constexpr int64_t kMostRows = 64;
    RL_CHECK(kernel_.mr, <=, kMostRows);
    float sums[kMostRows] = {};
    const int64_t rows = std::min(kernel_.mr, p_.m - row);
    kernel_.row_sums(panel, plan_.padded(k_count_), sums);
    for (int64_t i = 0; i < rows; ++i) p_.row_sums_of_a[row + i] += sums[i];
  }

  void pack_shared(int64_t panel) const {
    const int64_t lane = panel * plan_.shared().tile;
    pack(plan_.share_b, lane, shared_panel(panel));
    if (!plan_.share_b) sum_rows(lane, shared_panel(panel));
  }

  // Tasks are blocks of C, numbered along the shared operand first.
  void compute(int member, int64_t first, int64_t last) const {
    if (first >= last) return;
    std::byte* memory = workspace_ + plan_.member_offset + member * plan_.member_bytes;
    auto* sums = reinterpret_cast<float*>(memory + plan_.owned_bytes);
    void* scratch = memory + plan_.member_bytes - kScratchBytes;
    if (kernel_.begin != nullptr) kernel_.begin();
    const int64_t shared_blocks = plan_.shared().blocks();
    int64_t packed = -1;
    for (int64_t task = first; task < last; ++task) {
      const int64_t owned = task / shared_blocks, shared = task % shared_blocks;
      if (owned != packed) pack_owned(owned, memory, task == owned * shared_blocks);
      packed = owned;
      const std::byte* shared_block = shared_panel(shared * (plan_.shared().block / plan_.shared().tile));
      if (plan_.share_b) {
        compute_block(owned, shared, memory, shared_block, sums, scratch);
      } else {
        compute_block(shared, owned, shared_block, memory, sums, scratch);
      }
    }
    if (kernel_.end != nullptr) kernel_.end();
  }

  // A block that two members share is packed by both; its row sums are added by the one that has its first task.
  void pack_owned(int64_t block, std::byte* memory, bool with_row_sums) const {
    const Side& side = plan_.owned();
    const int64_t first = block * side.block, last = std::min(side.lanes, first + side.block);
    for (int64_t lane = first; lane < last; lane += side.tile) {
      pack(!plan_.share_b, lane, memory);
      if (plan_.share_b && with_row_sums) sum_rows(lane, memory);
      memory += plan_.panel_bytes(side, k_count_);
    }
  }

  void compute_block(int64_t row_block, int64_t column_block, const std::byte* a, const std::byte* b, float* sums,
                     void* scratch) const {
    const int64_t row0 = row_block * plan_.rows.block, column0 = column_block * plan_.columns.block;
    const int64_t rows = std::min(plan_.rows.block, p_.m - row0);
    const int64_t columns = std::min(plan_.columns.block, p_.n - column0);
    const int64_t a_bytes = plan_.panel_bytes(plan_.rows, k_count_);
    const int64_t depth = plan_.padded(k_count_);
    int64_t k = 0;
    do {
      Strip strip{.k = std::min(kernel_.kb, depth - k),
                  .a = a + k * kernel_.mr * kernel_.packed_bytes,
                  .b = b + k * kernel_.nr * kernel_.packed_bytes,
                  .b_stride = plan_.panel_bytes(plan_.columns, k_count_),
                  .rows = 0,
                  .columns = columns,
                  .sums = sums,
                  .add = k > 0,
                  .scratch = scratch,
                  .finish = nullptr};
      const bool last = k + strip.k == depth;
      for (int64_t i = 0; i < rows; i += kernel_.mr) {
        strip.rows = std::min(kernel_.mr, rows - i);
        const Finish finish = finish_of(row0 + i, column0);
        strip.finish = last ? &finish : nullptr;
        kernel_.multiply(strip);
        if (last && chunk_ + 1 == plan_.chunks) activate((row0 + i) * p_.ldc + column0, strip.rows, columns);
        strip.a = static_cast<const std::byte*>(strip.a) + a_bytes;
        strip.sums += kernel_.mr * plan_.columns.block;
      }
      k += strip.k;
    } while (k < depth);
  }

  Finish finish_of(int64_t row, int64_t column) const {
    const int64_t at = row * p_.ldc + column;
    float* carry =
        plan_.carry ? reinterpret_cast<float*>(workspace_ + plan_.carry_offset) + row * p_.n + column : nullptr;
    Finish finish{.carry = nullptr,
                  .ld_carry = p_.ldc,
                  .bias = nullptr,
                  .bias_bf16 = p_.bias.dtype == DType::bf16,
                  .residual = nullptr,
                  .out = p_.c.at(at).data,
                  .ld_out = p_.ldc,
                  .out_bf16 = p_.c.dtype == DType::bf16};
    if (chunk_ > 0 && plan_.carry) {
      finish.carry = carry;
      finish.ld_carry = p_.n;
    } else if (chunk_ > 0 || p_.accumulate) {
      finish.carry = p_.c.as<float>() + at;
    }
    if (chunk_ + 1 < plan_.chunks) {
      if (plan_.carry) {
        finish.out = carry;
        finish.ld_out = p_.n;
      }
      finish.out_bf16 = false;
      return finish;
    }
    if (p_.bias) finish.bias = p_.bias.at(column).data;
    if (p_.epilogue == Epilogue::residual) finish.residual = p_.residual.at(at).data;
    if (p_.epilogue == Epilogue::gelu) finish.out = p_.pre_activation.at(at).data;
    return finish;
  }

  void activate(int64_t at, int64_t rows, int64_t columns) const {
    if (p_.epilogue != Epilogue::gelu && p_.epilogue != Epilogue::gelu_grad) return;
    for (int64_t row = 0; row < rows; ++row, at += p_.ldc) {
      if (p_.epilogue == Epilogue::gelu) {
        gelu_forward(calling_thread(), columns, p_.pre_activation.at(at), p_.c.at(at));
      } else {
        gelu_backward(calling_thread(), columns, p_.activation_input.at(at), p_.c.at(at), p_.c.at(at));
      }
    }
  }

  const Matmul& p_;
  const Plan& plan_;
  const MatmulKernel& kernel_;
  std::byte* workspace_;
  int64_t chunk_ = 0, k_first_ = 0, k_count_ = 0;
};

}  // namespace

int64_t matmul_workspace_bytes(const Matmul& product, int team_size, Isa isa) {
  const Plan plan = plan_of(product, isa);
  return kPage + plan.member_offset + team_size * plan.member_bytes;
}

void matmul(WorkerTeam& team, const Matmul& product, void* workspace, Isa isa) {
  check(product);
  if (product.m == 0 || product.n == 0) return;
  const Plan plan = plan_of(product, isa);
  const auto address = reinterpret_cast<uintptr_t>(workspace);
  auto* first_page = static_cast<std::byte*>(workspace) +
                     (round_up(static_cast<int64_t>(address), kPage) - static_cast<int64_t>(address));
  Run(product, plan, first_page).execute(team);
}

}  // namespace cpu

int64_t matmul_workspace_bytes(const Matmul& product, int team_size) {
  return cpu::matmul_workspace_bytes(product, team_size, device::isa());
}

void matmul(device::Stream& stream, const Matmul& product, void* workspace) {
  cpu::matmul(stream.team(), product, workspace, device::isa());
}

}  // namespace ridgeline::ops

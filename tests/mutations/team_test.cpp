// A seeded fault of the memory: it is planned for a team of one, and a team of two works in it. The executor refuses
// it; where that is passed by, operators do; where they are lied to, guard mode ends the run; and without any of these,
// what lies behind is overwritten, so that the fault is one.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <tuple>

#include "../layouts/layout.h"
#include "ridgeline/device/arena.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/model/block.h"
#include "ridgeline/model/operators.h"
#include "ridgeline/ops/matmul.h"
#include "ridgeline/parallel/memory_guard.h"

namespace ridgeline::layouts {
namespace {

using parallel::Buffer;
using parallel::Inventory;

constexpr int64_t kPage = 4096, kRows = 96, kSequence = 11;

TEST(TeamMutationDeathTest, IsRefusedByTheExecutor) {
  Layout layout;
  layout.team = 2;
  layout.planned_team = 1;
  EXPECT_DEATH(run(layout, 1), "memory is planned for a team of 1, but a team of 2 runs on it");
  layout.planned_team = 2;
  layout.team = 1;
  EXPECT_DEATH(run(layout, 1), "memory is planned for a team of 2, but a team of 1 runs on it");
}

// A block whose scratch was carved for a team of one.
TEST(TeamMutationDeathTest, IsRefusedByOperators) {
  const model::TransformerConfig config = small_model("gpt2", 0.0F);
  const model::BatchShape shape{.batch = 1, .sequence = kSequence, .head_chunk = 7, .team_size = 1};
  const model::Segment segment = model::declare_block(config, 0);
  std::vector<float> weights(static_cast<size_t>(segment.count)), input(static_cast<size_t>(kSequence * config.width)),
      output = input;
  struct Carved {
    model::BlockSaved saved;
    model::BlockScratch scratch;
    int64_t used;
  };
  const auto carve = [&](void* base) {
    model::Carver carver(base);
    Carved carved{model::carve_block_saved(carver, {config, shape}),
                  model::carve_block_scratch(carver, {config, shape}, model::Pass::forward), 0};
    carved.used = carver.used();
    return carved;
  };
  const device::Arena memory(carve(nullptr).used, nullptr);
  const Carved carved = carve(memory.data());
  const auto forward = [&](int members) {
    device::WorkerTeam team(members);
    device::Stream stream(team);
    model::Operators operators(stream, carved.scratch.workspace);
    const model::Batch batch;
    const model::StepRandom random;
    model::block_forward(operators, {config, shape}, {0, batch, random},
                         model::block_weights({{&segment, ConstRef(weights.data())}}), ConstRef(input.data()),
                         carved.saved, Ref(output.data()), carved.scratch);
  };
  forward(1);
  EXPECT_DEATH(forward(2), "needs [0-9]+ bytes of workspace on a team of 2, but was lent [0-9]+");
}

// A product, and its workspace for a team of one.
struct Product {
  Product() {
    matmul.a = {left.data(), ops::Layout::row_major, kRows};
    matmul.b = {right.data(), ops::Layout::row_major, kRows};
    matmul.c = result.data();
  }
  std::vector<float> left = std::vector<float>(kRows * kRows, 1.0F), right = left, result = left;
  ops::Matmul matmul{.m = kRows, .n = kRows, .k = kRows, .ldc = kRows};
};

// Laid out as the inventory does for a guarded run: the workspace, and behind it what lives in other operations.
TEST(TeamMutationDeathTest, IsSeenByTheGuard) {
  Product product;
  const int64_t one = ops::matmul_workspace_bytes(product.matmul, 1),
                two = ops::matmul_workspace_bytes(product.matmul, 2);
  Inventory inventory;
  const auto add = [&](const char* name, int program, int64_t bytes) {
    const int64_t pages = (bytes + kPage - 1) / kPage * kPage;
    Buffer buffer{.program = program, .name = name, .bytes = bytes};
    buffer.offset = inventory.host_bytes + pages - bytes;
    inventory.buffers.push_back(buffer);
    inventory.host_bytes += pages + kPage;
  };
  add("packing and partial sums", -1, one);
  add("somebody's activations", 0, two);
  const device::Arena memory(inventory.host_bytes, nullptr);
  const auto address = [&](const Buffer& buffer) { return memory.data() + buffer.offset; };
  device::WorkerTeam team(2);
  device::Stream stream(team);
  const auto multiply = [&] {
    parallel::MemoryGuard guard(inventory, {}, address, 3);
    guard.begin(0);
    ops::matmul(stream, product.matmul, {address(inventory.buffers[0]), two});
  };
  EXPECT_DEATH(multiply(),
               "guard: rank 3, in no operation: access ([0-9]+ bytes past the end of 'packing and partial "
               "sums'|to 'somebody's activations', which is not alive)");
}

TEST(TeamMutation, OverwritesWhatLiesBehindWhereNobodyLooks) {
  Product product;
  const int64_t one = ops::matmul_workspace_bytes(product.matmul, 1),
                two = ops::matmul_workspace_bytes(product.matmul, 2);
  ASSERT_LT(one, two);
  const device::Arena memory(two, nullptr);
  std::memset(memory.data(), 0x55, static_cast<size_t>(two));
  device::WorkerTeam team(2);
  device::Stream stream(team);
  ops::matmul(stream, product.matmul, {memory.data(), two});
  EXPECT_TRUE(std::any_of(memory.data() + one, memory.data() + two, [](std::byte b) { return b != std::byte{0x55}; }));
}

}  // namespace
}  // namespace ridgeline::layouts

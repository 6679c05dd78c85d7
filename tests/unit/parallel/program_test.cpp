#include "ridgeline/parallel/program.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "ridgeline/parallel/simulator.h"
#include "support.h"

namespace ridgeline::parallel {
namespace {

Program step(const Sharding& sharding) {
  return lower(small(), schedule(1, sharding.micro_batches)[0], sharding);
}

// Every level, cadence, lifetime, wire and depth, for 1 … 4 ranks in every group size.
std::vector<Sharding> shardings() {
  std::vector<Sharding> list;
  for (const Shard level : {Shard::none, Shard::optimizer, Shard::gradients, Shard::parameters}) {
    for (const auto& [ranks, group] : {std::pair{1, 0}, {2, 0}, {4, 0}, {4, 2}, {4, 1}}) {
      for (const int micro_batches : {1, 2, 3}) {
        for (const Reduce reduce : {Reduce::last, Reduce::every}) {
          for (const Gather gather : {Gather::per_use, Gather::per_step}) {
            for (const int prefetch : {0, 1, 3}) {
              for (const DType wire : {DType::f32, DType::bf16})
                list.push_back({.level = level,
                                .mesh = comm::Mesh::of_data(ranks, group),
                                .reduce = reduce,
                                .gather = gather,
                                .prefetch = prefetch,
                                .wire = wire,
                                .weights = DType::bf16,
                                .micro_batches = micro_batches});
            }
          }
        }
      }
    }
  }
  return list;
}
// A few of them with all their parts: for tests that change every operation.
std::vector<Sharding> samples() {
  return {{.mesh = comm::Mesh::of_data(2), .micro_batches = 2},
          {.level = Shard::optimizer, .mesh = comm::Mesh::of_data(2), .wire = DType::bf16, .micro_batches = 2},
          {.level = Shard::parameters, .mesh = comm::Mesh::of_data(4, 2), .reduce = Reduce::every, .micro_batches = 2}};
}
std::vector<std::string> simulate_all(const Sharding& sharding, const Program& program) {
  return simulate(small(), sharding, std::vector<Program>(static_cast<size_t>(sharding.ranks()), program));
}

TEST(program, is_proved_complete_for_every_sharding) {
  for (const Sharding& sharding : shardings()) {
    const std::vector<std::string> wrong = simulate_all(sharding, step(sharding));
    ASSERT_TRUE(wrong.empty()) << wrong.front();
    const std::vector<std::string> wrong_evaluation = simulate_all(sharding, evaluation(small(), 2, sharding));
    ASSERT_TRUE(wrong_evaluation.empty()) << wrong_evaluation.front();
  }
}

TEST(program, gathers_ahead_and_keeps_the_last_block_for_its_backward) {
  const Sharding sharding{.level = Shard::parameters, .mesh = comm::Mesh::of_data(2)};
  const Program program = step(sharding);
  int gathers_of_last = 0, gathers_of_first = 0;
  for (size_t i = 0; i < program.ops.size(); ++i) {
    const Op& op = program.ops[i];
    gathers_of_last += op.kind == OpKind::gather && op.index == 4 ? 1 : 0;
    gathers_of_first += op.kind == OpKind::gather && op.index == 2 ? 1 : 0;
    if (op.kind != OpKind::forward || op.index < 0) continue;
    const int gather = program.gather_of(static_cast<int>(i), 2 + op.index);
    // Started before the computation in front of this one.
    const Op& between = program.ops[static_cast<size_t>(gather) + 1];
    EXPECT_TRUE(between.kind == OpKind::forward || between.kind == OpKind::gather) << op.name();
    EXPECT_LT(gather, static_cast<int>(i) - 1) << op.name();
  }
  EXPECT_EQ(gathers_of_last, 1);
  EXPECT_EQ(gathers_of_first, 2);
}

TEST(program, reduces_a_block_as_soon_as_its_last_backward_ends) {
  const Program program = step({.mesh = comm::Mesh::of_data(2), .micro_batches = 2});
  for (size_t i = 0; i < program.ops.size(); ++i) {
    if (program.ops[i].kind != OpKind::reduce || program.ops[i].index < 2 || program.ops[i].index > 4) continue;
    EXPECT_EQ(program.ops[i - 1].kind, OpKind::backward);
    EXPECT_EQ(program.ops[i - 1].index, program.ops[i].index - 2);
    EXPECT_EQ(program.ops[i - 1].micro, 1);
  }
}

// The simulator is only worth something when it notices: every single operation removed, doubled or swapped with its
// neighbour must either keep the program right or be reported.
TEST(simulator, notices_every_missing_operation) {
  for (const Sharding& sharding : samples()) {
    const Program good = step(sharding);
    for (size_t i = 0; i < good.ops.size(); ++i) {
      Program bad = good;
      bad.ops.erase(bad.ops.begin() + static_cast<std::ptrdiff_t>(i));
      for (Op& op : bad.ops) {
        std::erase(op.after, static_cast<int>(i));
        for (int& other : op.after) other -= other > static_cast<int>(i) ? 1 : 0;
      }
      EXPECT_FALSE(simulate_all(sharding, bad).empty()) << "without " << good.ops[i].name();
    }
  }
}

TEST(simulator, notices_a_forgotten_wait) {
  for (const Sharding& sharding : samples()) {
    const Program good = step(sharding);
    for (size_t i = 0; i < good.ops.size(); ++i) {
      if (good.ops[i].after.empty() || good.ops[i].kind == OpKind::agree) continue;
      Program bad = good;
      bad.ops[i].after.clear();
      // An operation before it on its stream may have waited for the same.
      const Order order(bad);
      const bool still_waits = std::all_of(good.ops[i].after.begin(), good.ops[i].after.end(),
                                           [&](int other) { return order.before(other, static_cast<int>(i)); });
      EXPECT_TRUE(still_waits || !simulate_all(sharding, bad).empty()) << good.ops[i].name();
    }
  }
}

TEST(simulator, notices_ranks_that_wait_for_each_other) {
  const Sharding sharding{.mesh = comm::Mesh::of_data(2)};
  std::vector<Program> programs(2, step(sharding));
  // The second rank reduces two segments in the other order.
  std::vector<size_t> reductions;
  for (size_t i = 0; i < programs[1].ops.size(); ++i) {
    if (programs[1].ops[i].kind == OpKind::reduce) reductions.push_back(i);
  }
  std::swap(programs[1].ops[reductions[0]].index, programs[1].ops[reductions[1]].index);
  EXPECT_FALSE(simulate(small(), sharding, programs).empty());
}

TEST(simulator, notices_micro_batches_out_of_order) {
  std::vector<ScheduleEntry> entries = schedule(1, 2)[0];
  std::swap_ranges(entries.begin(), entries.begin() + 3, entries.begin() + 3);
  const Sharding sharding{.micro_batches = 2};
  EXPECT_FALSE(simulate_all(sharding, lower(small(), entries, sharding)).empty());
}

}  // namespace
}  // namespace ridgeline::parallel

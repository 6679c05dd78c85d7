#include "ridgeline/parallel/program.h"

#include <gtest/gtest.h>

#include "ridgeline/parallel/simulator.h"

namespace ridgeline::parallel {
namespace {

model::TransformerConfig small() {
  model::TransformerConfig config;
  config.layers = 3;
  config.width = 8;
  config.heads = 2;
  config.kv_heads = 2;
  config.ffn = 32;
  config.vocab = 17;
  config.context = 16;
  return config;
}

Program step(int micro_batches) {
  return lower(small(), schedule(1, micro_batches)[0], Shard::none, Reduce::last);
}

TEST(program, is_proved_complete_for_any_number_of_micro_batches_and_ranks) {
  for (int micro_batches = 1; micro_batches <= 4; ++micro_batches) {
    for (int ranks = 1; ranks <= 3; ++ranks) {
      const std::vector<Program> programs(static_cast<size_t>(ranks), step(micro_batches));
      EXPECT_TRUE(simulate(small(), programs).empty()) << simulate(small(), programs).front();
    }
  }
  const std::vector<Program> programs(2, evaluation(small(), 2));
  EXPECT_TRUE(simulate(small(), programs).empty());
}

TEST(program, reduces_a_block_as_soon_as_its_last_backward_ends) {
  const Program program = step(2);
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
  const Program good = step(2);
  for (size_t i = 0; i < good.ops.size(); ++i) {
    Program bad = good;
    bad.ops.erase(bad.ops.begin() + static_cast<std::ptrdiff_t>(i));
    for (Op& op : bad.ops) {
      std::erase(op.after, static_cast<int>(i));
      for (int& other : op.after) other -= other > static_cast<int>(i) ? 1 : 0;
    }
    EXPECT_FALSE(simulate(small(), std::vector<Program>(2, bad)).empty()) << "without " << good.ops[i].name();
  }
}

TEST(simulator, notices_a_forgotten_wait) {
  const Program good = step(1);
  for (size_t i = 0; i < good.ops.size(); ++i) {
    if (good.ops[i].after.empty() || good.ops[i].kind == OpKind::agree) continue;
    Program bad = good;
    bad.ops[i].after.clear();
    EXPECT_FALSE(simulate(small(), std::vector<Program>(2, bad)).empty()) << good.ops[i].name();
  }
}

TEST(simulator, notices_ranks_that_wait_for_each_other) {
  std::vector<Program> programs(2, step(1));
  // The second rank reduces two units in the other order.
  std::vector<size_t> reductions;
  for (size_t i = 0; i < programs[1].ops.size(); ++i) {
    if (programs[1].ops[i].kind == OpKind::reduce) reductions.push_back(i);
  }
  std::swap(programs[1].ops[reductions[0]].index, programs[1].ops[reductions[1]].index);
  EXPECT_FALSE(simulate(small(), programs).empty());
}

TEST(simulator, notices_micro_batches_out_of_order) {
  std::vector<ScheduleEntry> entries = schedule(1, 2)[0];
  std::swap_ranges(entries.begin(), entries.begin() + 3, entries.begin() + 3);
  const Program program = lower(small(), entries, Shard::none, Reduce::last);
  EXPECT_FALSE(simulate(small(), std::vector<Program>(1, program)).empty());
}

}  // namespace
}  // namespace ridgeline::parallel

#include "ridgeline/parallel/inventory.h"

#include <gtest/gtest.h>

namespace ridgeline::parallel {
namespace {

RunShape small(int ranks, DType dtype) {
  RunShape run;
  run.config.layers = 4;
  run.config.width = 48;
  run.config.heads = 4;
  run.config.kv_heads = 4;
  run.config.ffn = 192;
  run.config.vocab = 331;
  run.config.context = 32;
  run.batch = {.batch = 3, .sequence = 17, .dtype = dtype, .head_chunk = 20, .team_size = 2};
  run.evaluation_batch = run.batch;
  run.data_parallel = ranks;
  return run;
}

std::vector<Program> programs(const RunShape& run, int micro_batches) {
  return {lower(run.config, schedule(1, micro_batches)[0], Shard::none, Reduce::last), evaluation(run.config, 1)};
}

TEST(inventory, never_lets_two_live_buffers_share_bytes) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const int micro_batches : {1, 3}) {
      const RunShape run = small(2, dtype);
      for (const Packing packing : {Packing::shared, Packing::separate}) {
        const Inventory inventory =
            make_inventory(run, model::declare(run.config), programs(run, micro_batches), packing);
        EXPECT_TRUE(overlapping(inventory).empty()) << overlapping(inventory).front();
      }
    }
  }
}

TEST(inventory, overlap_check_notices) {
  const RunShape run = small(1, DType::f32);
  Inventory inventory = make_inventory(run, model::declare(run.config), programs(run, 1));
  Buffer* first = nullptr;
  for (Buffer& buffer : inventory.buffers) {
    if (buffer.kind != BufferKind::saved || buffer.program != 0) continue;
    if (first == nullptr) {
      first = &buffer;
    } else {
      buffer.offset = first->offset + 64;
      break;
    }
  }
  EXPECT_FALSE(overlapping(inventory).empty());
}

TEST(inventory, accumulation_costs_no_activations) {
  const RunShape run = small(1, DType::bf16);
  const auto bytes = [&](int micro_batches) {
    const Inventory inventory = make_inventory(run, model::declare(run.config), programs(run, micro_batches));
    int64_t tokens = 0;
    for (const Buffer& buffer : inventory.buffers) {
      if (buffer.program == 0 && (buffer.kind == BufferKind::batch || buffer.kind == BufferKind::losses))
        tokens += buffer.bytes;
    }
    return inventory.total_bytes() - tokens;
  };
  EXPECT_NEAR(static_cast<double>(bytes(4)), static_cast<double>(bytes(1)), 64 * 16);
}

TEST(inventory, parameters_gradients_and_moments_take_what_the_closed_form_says) {
  for (const int ranks : {1, 2, 4}) {
    const RunShape run = small(ranks, DType::bf16);
    const std::vector<model::Unit> units = model::declare(run.config);
    const Inventory inventory = make_inventory(run, units, programs(run, 1));
    int64_t padded = 0, bytes = 0;
    for (const model::Unit& unit : units) padded += unit.padded(ranks);
    for (const Buffer& buffer : inventory.buffers) {
      if (buffer.program < 0 && buffer.kind != BufferKind::norm_partials) bytes += buffer.bytes;
    }
    EXPECT_EQ(bytes, 18 * padded);  // 4 master, 2 working, 4 gradient, 8 moments
  }
}

TEST(inventory, padding_is_smaller_than_a_norm_block_per_rank_and_unit) {
  const RunShape run = small(4, DType::f32);
  for (const model::Unit& unit : model::declare(run.config)) {
    EXPECT_LT(unit.padded(4) - unit.count, 4 * model::kNormBlock);
    EXPECT_EQ(unit.padded(4) % (4 * model::kNormBlock), 0);
  }
}

}  // namespace
}  // namespace ridgeline::parallel

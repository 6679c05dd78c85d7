#include "ridgeline/parallel/inventory.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "ridgeline/base/words.h"
#include "ridgeline/parallel/offload.h"
#include "support.h"

namespace ridgeline::parallel {
namespace {

RunShape small_run(const Sharding& sharding) {
  RunShape run;
  run.config = model::with_usual_sizes({.layers = 4, .width = 48, .heads = 4, .vocab = 331, .context = 32});
  run.batch = {.batch = 3, .sequence = 17, .dtype = sharding.weights, .head_chunk = 20, .team_size = 2};
  run.evaluation_batch = run.batch;
  run.sharding = sharding;
  return run;
}

constexpr Shard kLevels[] = {Shard::none, Shard::optimizer, Shard::gradients, Shard::parameters};

TEST(inventory, never_lets_two_live_buffers_share_bytes) {
  for (const Shard level : kLevels) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const int micro_batches : {1, 3}) {
        for (const int prefetch : {0, 1, 3}) {
          for (const Reduce reduce : {Reduce::last, Reduce::every}) {
            const RunShape run = small_run({.level = level,
                                            .mesh = comm::Mesh::of_data(4, 2),
                                            .reduce = reduce,
                                            .prefetch = prefetch,
                                            .wire = dtype,
                                            .weights = dtype,
                                            .micro_batches = micro_batches});
            for (const Packing packing : {Packing::shared, Packing::separate}) {
              const Inventory inventory = make_inventory(run, model::declare(run.config), programs(run), packing);
              const std::vector<std::string> wrong = overlapping(inventory, programs(run));
              EXPECT_TRUE(wrong.empty()) << wrong.front();
            }
          }
        }
      }
    }
  }
}

TEST(inventory, overlap_check_notices) {
  const RunShape run = small_run({});
  Inventory inventory = make_inventory(run, model::declare(run.config), programs(run));
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
  EXPECT_FALSE(overlapping(inventory, programs(run)).empty());
}

// Two buffers on different streams whose operations only the list orders, not the events.
TEST(inventory, overlap_check_knows_streams) {
  const RunShape run = small_run({.level = Shard::parameters, .mesh = comm::Mesh::of_data(2)});
  std::vector<Program> list = programs(run);
  const Inventory inventory = make_inventory(run, model::declare(run.config), list);
  EXPECT_TRUE(overlapping(inventory, list).empty());
  for (Op& op : list[0].ops) {
    if (op.kind == OpKind::gather) op.after.clear();
  }
  EXPECT_FALSE(overlapping(inventory, list).empty());
}

// A buffer that a transfer still reads is in use, although a computation that nobody waits for reads it later.
TEST(inventory, overlap_check_counts_the_last_use_on_every_stream) {
  Program program{.name = "step", .ops = {}};
  program.ops = {{OpKind::clear}, {OpKind::reduce, 0, 0, {0}}, {OpKind::measure}, {OpKind::clear, 1}};
  const Inventory inventory{.buffers = {{.kind = BufferKind::segment_gradient,
                                         .program = 0,
                                         .first = 0,
                                         .last = 2,
                                         .last_on = {2, -1, 1, -1, -1},
                                         .name = "first",
                                         .bytes = 64},
                                        {.kind = BufferKind::segment_gradient,
                                         .index = 1,
                                         .program = 0,
                                         .first = 3,
                                         .last = 3,
                                         .last_on = {3, -1, -1, -1, -1},
                                         .name = "second",
                                         .bytes = 64}},
                            .positions = {}};
  EXPECT_EQ(overlapping(inventory, {program}).size(), 1U);
  program.ops[3].after = {1};
  EXPECT_TRUE(overlapping(inventory, {program}).empty());
}

TEST(inventory, accumulation_costs_no_activations) {
  const auto bytes = [&](int micro_batches) {
    const RunShape run = small_run({.weights = DType::bf16, .micro_batches = micro_batches});
    const Inventory inventory = make_inventory(run, model::declare(run.config), programs(run));
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
  // Bytes per parameter that every rank has, and that are cut between the shards: 4 master, 2 working, 4 (or 2)
  // gradient, 8 moments in mixed precision; 4 weights, 4 gradient, 8 moments in fp32.
  struct Form {
    Shard level;
    DType weights, wire;
    int64_t whole, cut;
  };
  constexpr DType f32 = DType::f32, bf16 = DType::bf16;
  const Form forms[] = {{Shard::none, bf16, f32, 18, 0},       {Shard::optimizer, bf16, f32, 6, 12},
                        {Shard::gradients, bf16, f32, 2, 16},  {Shard::parameters, bf16, f32, 0, 18},
                        {Shard::none, bf16, bf16, 16, 0},      {Shard::optimizer, bf16, bf16, 4, 12},
                        {Shard::gradients, bf16, bf16, 2, 14}, {Shard::parameters, bf16, bf16, 0, 16},
                        {Shard::none, f32, f32, 16, 0},        {Shard::optimizer, f32, f32, 8, 8},
                        {Shard::gradients, f32, f32, 4, 12},   {Shard::parameters, f32, f32, 0, 16}};
  for (const Form& form : forms) {
    for (const auto& [ranks, group] : {std::pair{2, 0}, {4, 0}, {8, 0}, {8, 2}}) {
      const RunShape run = small_run(
          {.level = form.level, .mesh = comm::Mesh::of_data(ranks, group), .wire = form.wire, .weights = form.weights});
      const std::vector<model::Segment> segments = model::declare(run.config);
      const Inventory inventory = make_inventory(run, segments, programs(run));
      int64_t padded = 0, bytes = 0;
      for (const model::Segment& segment : segments) padded += segment.padded(ranks);
      for (const Buffer& buffer : inventory.buffers) {
        if (buffer.program < 0) bytes += buffer.bytes;
      }
      EXPECT_EQ(bytes, form.whole * padded + form.cut * padded / run.sharding.shards())
          << word_of(form.level) << " " << ranks << " ranks, groups of " << group;
    }
  }
}

// Bytes per element: what leaves memory is in the file, and the window no larger than asked for.
TEST(inventory, offload_moves_moments_and_masters_that_products_do_not_read) {
  struct Form {
    DType weights, masters, moments;
    int64_t element;
  };
  constexpr DType f32 = DType::f32, bf16 = DType::bf16, f16 = DType::f16;
  for (const Form& form : {Form{f32, f32, f32, 8}, Form{bf16, f32, f32, 12}, Form{f16, f32, f32, 12},
                           Form{bf16, f32, bf16, 8}, Form{bf16, bf16, f32, 8}, Form{bf16, bf16, bf16, 4}}) {
    for (const Shard level : kLevels) {
      for (const int group : {0, 2}) {
        RunShape run = small_run({.level = level,
                                  .mesh = comm::Mesh::of_data(4, group),
                                  .weights = form.weights,
                                  .masters = form.masters,
                                  .moments = form.moments});
        const std::vector<model::Segment> segments = model::declare(run.config);
        int64_t padded = 0;
        for (const model::Segment& segment : segments) padded += segment.padded(4) / run.sharding.shards();
        for (const Packing packing : {Packing::shared, Packing::separate}) {
          run.offload_window = 0;
          const Inventory plain = make_inventory(run, segments, programs(run), packing);
          EXPECT_EQ(plain.file_bytes, 0);
          for (const int64_t window : {int64_t{1}, int64_t{1} << 20, int64_t{64} << 20}) {
            run.offload_window = window;
            const Inventory inventory = make_inventory(run, segments, programs(run), packing);
            EXPECT_EQ(inventory.file_bytes, form.element * padded) << word_of(level) << " " << group;
            EXPECT_TRUE(overlapping(inventory, programs(run)).empty());
            const Buffer& memory = *inventory.find(BufferKind::offload_window, 0, 0, -1);
            EXPECT_EQ(memory.offset, 0);
            const int64_t least = 8 * form.element * model::kShardBlock;
            EXPECT_LE(memory.bytes, std::max(std::min(window, inventory.file_bytes), least));
            for (const Buffer& buffer : inventory.buffers) {
              if (buffer.space != Space::file) continue;
              EXPECT_EQ(buffer.offset % device::StateFile::kAlignment, 0) << buffer.name;
            }
            if (packing == Packing::separate) continue;
            // But for rounding up to a page.
            EXPECT_NEAR(static_cast<double>(plain.total_bytes() - inventory.total_bytes()),
                        static_cast<double>(form.element * padded - memory.bytes), 4096.0);
          }
        }
      }
    }
  }
}

// What passes is the file, once, in the order of the updates, and as much as the plan says.
TEST(inventory, offloaded_state_passes_whole_in_the_order_of_updates) {
  for (const Shard level : kLevels) {
    for (const int64_t window : {int64_t{1}, int64_t{2} << 20}) {
      RunShape run = small_run({.level = level, .mesh = comm::Mesh::of_data(4), .weights = DType::bf16});
      run.offload_window = window;
      const std::vector<model::Segment> segments = model::declare(run.config);
      const Inventory inventory = make_inventory(run, segments, programs(run));
      const Offload offload = offload_of(run, segments);
      const std::vector<OffloadChunk> chunks = chunks_of(offload, programs(run)[0], segments, run.sharding);
      std::vector<bool> pages(static_cast<size_t>(inventory.file_bytes / device::StateFile::kAlignment));
      int64_t bytes = 0;
      for (const device::FileStream::Chunk& chunk : ranges_of(offload, chunks, inventory)) {
        for (const device::FileStream::Range& range : chunk) {
          bytes += range.bytes;
          for (int64_t at = range.file; at < range.file + range.bytes; at += device::StateFile::kAlignment)
            pages[static_cast<size_t>(at / device::StateFile::kAlignment)] = true;
        }
      }
      EXPECT_EQ(bytes, inventory.file_bytes);
      EXPECT_EQ(std::count(pages.begin(), pages.end(), true), static_cast<int64_t>(pages.size()));
      OffloadChunk before{-1, 0, 0};
      for (const OffloadChunk& chunk : chunks) {
        EXPECT_EQ(chunk.first, chunk.segment == before.segment ? before.last : 0);
        EXPECT_GE(chunk.segment, before.segment);
        before = chunk;
      }
    }
  }
}

TEST(inventory, padding_is_smaller_than_a_block_per_rank_and_unit) {
  const RunShape run = small_run({.mesh = comm::Mesh::of_data(4)});
  for (const model::Segment& segment : model::declare(run.config)) {
    EXPECT_LT(segment.padded(4) - segment.count, 4 * model::kShardBlock);
    EXPECT_EQ(segment.padded(4) % (4 * model::kShardBlock), 0);
  }
}

}  // namespace
}  // namespace ridgeline::parallel

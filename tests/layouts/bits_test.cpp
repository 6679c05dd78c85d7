// Pairs of layouts that promise the same bits (design: engine, "same bits").
#include <gtest/gtest.h>

#include "draws.h"
#include "layout.h"

namespace ridgeline::layouts {
namespace {

using model::Recompute;
using parallel::Gather;
using parallel::Reduce;
using parallel::ScheduleKind;
using parallel::Shard;

// Three steps, so that clipping, updates and gathers after them are all seen.
void expect_same_bits(const Layout& layout, const Layout& reference) {
  EXPECT_EQ(bitwise_difference(run(layout, 3), run(reference, 3)), "")
      << layout.describe() << "\nagainst " << reference.describe();
}

// Calls f(layout) for every precision, and with what most easily breaks bits.
template <typename F>
void for_some_layouts(F&& f) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    for (const char* name : {"gpt2", "llama"}) {
      Layout layout;
      layout.family = name;
      layout.precision = dtype;
      layout.pure = dtype == DType::bf16 && layout.family == "llama";
      layout.moments = layout.pure ? DType::bf16 : DType::f32;
      layout.dropout = 0.1F;
      layout.micro_batch = 2;
      layout.sharding = {.mesh = comm::Mesh::of_data(3), .micro_batches = 2};
      f(layout);
    }
  }
}

TEST(same_bits, however_units_are_cut_into_segments) {
  for_some_layouts([](Layout layout) {
    for (const Shard shard : kLevels) {
      layout.sharding.level = shard;
      layout.sharding.segmentation = nullptr;
      const Layout whole = layout;
      for (const model::Segmentation segmentation : {&model::uncut_apart, &by_chance<3>, &by_chance<4>}) {
        layout.sharding.segmentation = segmentation;
        expect_same_bits(layout, whole);
      }
    }
  });
}

TEST(same_bits, the_same_layout_twice) {
  for_some_layouts([](Layout layout) {
    layout.sharding.level = Shard::parameters;
    expect_same_bits(layout, layout);
  });
}

TEST(same_bits, every_level_of_sharding) {
  for_some_layouts([](Layout layout) {
    for (const Reduce reduce : {Reduce::last, Reduce::every}) {
      layout.sharding.reduce = reduce;
      Layout plain = layout;
      for (const Shard shard : kLevels) {
        layout.sharding.level = shard;
        expect_same_bits(layout, plain);
      }
    }
  });
}

TEST(same_bits, prefetch_overlap_and_lifetime_of_gathered_weights) {
  for_some_layouts([](Layout layout) {
    layout.sharding.level = Shard::parameters;
    const Layout plain = layout;
    for (const int depth : {0, 2, 5}) {
      layout.sharding.prefetch = depth;
      expect_same_bits(layout, plain);
    }
    layout.sharding.gather = Gather::per_step;
    expect_same_bits(layout, plain);
    layout.overlap = false;
    expect_same_bits(layout, plain);
  });
}

TEST(same_bits, recomputation) {
  for_some_layouts([](Layout layout) {
    const Layout plain = layout;
    for (const Recompute what : {Recompute::selective, Recompute::full}) {
      for (const int every : {1, 2}) {
        layout.recompute = what;
        layout.recompute_every = every;
        expect_same_bits(layout, plain);
      }
    }
  });
}

TEST(same_bits, team_of_any_size) {
  for_some_layouts([](Layout layout) {
    layout.sharding.level = Shard::gradients;
    const Layout plain = layout;
    layout.team = 3;
    expect_same_bits(layout, plain);
  });
}

// Through a window that goes around several times in an update, and one that holds everything.
TEST(same_bits, offload_to_a_file) {
  for_some_layouts([](Layout layout) {
    for (const auto& [ranks, group] : {std::pair{1, 0}, {2, 0}, {4, 0}, {4, 2}}) {
      layout.sharding.mesh = comm::Mesh::of_data(ranks, group);
      for (const Shard shard : kLevels) {
        if (ranks == 1 && shard != Shard::none) continue;
        layout.sharding.level = shard;
        layout.offload_window = 0;
        const Outcome plain = run(layout, 3);
        for (const int64_t window : {1, 1 << 20}) {
          layout.offload_window = window;
          EXPECT_EQ(bitwise_difference(run(layout, 3), plain), "") << layout.describe();
        }
      }
    }
  });
}

TEST(same_bits, buffers_unreadable_outside_their_lifetime) {
  for_some_layouts([](Layout layout) {
    for (const Shard shard : kLevels) {
      layout.sharding.level = shard;
      layout.sharding.prefetch = 2;
      layout.recompute = Recompute::full;
      const Layout plain = layout;
      layout.guard = true;
      layout.offload_window = shard == Shard::gradients ? 1 : 0;
      expect_same_bits(layout, plain);
    }
  });
}

}  // namespace
}  // namespace ridgeline::layouts

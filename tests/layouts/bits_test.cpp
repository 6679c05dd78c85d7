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

constexpr Shard kLevels[] = {Shard::none, Shard::optimizer, Shard::gradients, Shard::parameters};
constexpr ScheduleKind kKinds[] = {ScheduleKind::gpipe, ScheduleKind::one_f_one_b, ScheduleKind::interleaved,
                                   ScheduleKind::zero_bubble};

// Three steps, so that clipping, updates and gathers after them are all seen.
constexpr int kSteps = 3;

// What several layouts are compared with, computed once.
struct Reference {
  explicit Reference(const Layout& layout) : name(layout.describe()), outcome(run(layout, kSteps)) {}

  std::string name;
  Outcome outcome;
};

void expect_same_bits(const Layout& layout, const Reference& reference) {
  EXPECT_EQ(bitwise_difference(run(layout, kSteps), reference.outcome), "")
      << layout.describe() << "\nagainst " << reference.name;
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
      const Reference whole(layout);
      for (const model::Segmentation segmentation : {kSegmentations[1], kSegmentations[2], kSegmentations[3]}) {
        layout.sharding.segmentation = segmentation;
        expect_same_bits(layout, whole);
      }
    }
  });
}

TEST(same_bits, the_same_layout_twice) {
  for_some_layouts([](Layout layout) {
    layout.sharding.level = Shard::parameters;
    expect_same_bits(layout, Reference(layout));
  });
}

TEST(same_bits, every_level_of_sharding) {
  for_some_layouts([](Layout layout) {
    for (const Reduce reduce : {Reduce::last, Reduce::every}) {
      layout.sharding.reduce = reduce;
      const Reference plain(layout);
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
    const Reference plain(layout);
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
    const Reference plain(layout);
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
    const Reference plain(layout);
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
        const Reference plain(layout);
        for (const int64_t window : {1, 1 << 20}) {
          layout.offload_window = window;
          expect_same_bits(layout, plain);
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
      const Reference plain(layout);
      layout.guard = true;
      layout.offload_window = shard == Shard::gradients ? 1 : 0;
      expect_same_bits(layout, plain);
    }
  });
}

// --------------------------------------------------------------------------------------------- slices and stages

// Two stages of two slices, or more of one kind, in every precision, alone and over several replicas and shards.
template <typename F>
void for_some_of_slices_and_stages(F&& f) {
  struct Case {
    const char* family;
    DType precision;
    bool pure, sequence;
    int stages, slices, data;
  };
  for (const Case& some :
       {Case{"gpt2", DType::f32, false, true, 2, 2, 2}, Case{"llama", DType::bf16, true, false, 2, 6, 1},
        Case{"gptj", DType::f16, false, true, 4, 1, 2}, Case{"gpt_neox", DType::bf16, false, true, 1, 3, 3}}) {
    Layout layout{.family = some.family, .precision = some.precision, .pure = some.pure, .dropout = 0.1F};
    layout.moments = some.pure ? DType::bf16 : DType::f32;
    layout.sharding = {
        .mesh = comm::Mesh::of_world(some.stages * some.slices * some.data, some.stages, some.slices, 1, 0),
        .micro_batches = 4,
        .sequence = some.sequence};
    if (some.stages == 2) layout.sharding.pipeline.blocks = {3, 1};
    if (some.stages == 4) layout.sharding.pipeline.blocks = {1, 1, 1, 1};
    f(layout);
  }
}

// The same layout on another schedule; two stages with two parts each where parts take turns.
Layout with_kind(Layout layout, ScheduleKind kind) {
  parallel::Pipeline& pipeline = layout.sharding.pipeline;
  pipeline.kind = kind;
  if (kind == ScheduleKind::interleaved && pipeline.stages() == 2) {
    pipeline.chunks = 2;
    pipeline.blocks = {1, 1, 1, 1};
  }
  return layout;
}

TEST(same_bits_of_slices_and_stages, the_same_layout_twice_and_without_overlap) {
  for_some_of_slices_and_stages([](Layout layout) {
    layout.sharding.level = Shard::parameters;
    const Reference plain(layout);
    expect_same_bits(layout, plain);
    layout.overlap = false;
    expect_same_bits(layout, plain);
  });
}

// Which blocks lie on which stage does not matter either, only which stages there are: the ends' parts of the tied
// gradient are summed apart.
TEST(same_bits_of_slices_and_stages, every_schedule) {
  for_some_of_slices_and_stages([](const Layout& layout) {
    const Reference plain(layout);
    for (const ScheduleKind kind : kKinds) expect_same_bits(with_kind(layout, kind), plain);
  });
}

TEST(same_bits_of_slices_and_stages, every_level_of_sharding) {
  for_some_of_slices_and_stages([](Layout layout) {
    const Shard level = layout.sharding.level;
    for (const Reduce reduce : {Reduce::last, Reduce::every}) {
      layout.sharding.reduce = reduce;
      layout.sharding.level = level;
      const Reference plain(layout);
      for (const Shard shard : kLevels) {
        layout.sharding.level = shard;
        expect_same_bits(layout, plain);
      }
    }
  });
}

TEST(same_bits_of_slices_and_stages, prefetch_and_lifetime_of_gathered_weights) {
  for_some_of_slices_and_stages([](Layout layout) {
    layout.sharding.level = Shard::parameters;
    const Reference plain(layout);
    for (const int depth : {0, 3}) {
      layout.sharding.prefetch = depth;
      expect_same_bits(layout, plain);
    }
    layout.sharding.gather = Gather::per_step;
    expect_same_bits(layout, plain);
  });
}

// On the schedule whose backwards come in parts, unless what they need is computed again.
TEST(same_bits_of_slices_and_stages, recomputation) {
  for_some_of_slices_and_stages([](const Layout& layout) {
    const Reference plain(layout);
    for (const ScheduleKind kind : {ScheduleKind::one_f_one_b, ScheduleKind::zero_bubble}) {
      for (const Recompute what : {Recompute::selective, Recompute::full}) {
        for (const int every : {1, 2}) {
          Layout again = with_kind(layout, kind);
          again.recompute = what;
          again.recompute_every = every;
          expect_same_bits(again, plain);
        }
      }
    }
  });
}

TEST(same_bits_of_slices_and_stages, team_of_any_size) {
  for_some_of_slices_and_stages([](Layout layout) {
    const Outcome plain = run(layout, 2);
    layout.team = 2;
    EXPECT_EQ(bitwise_difference(run(layout, 2), plain), "") << layout.describe();
  });
}

TEST(same_bits_of_slices_and_stages, however_units_are_cut_into_segments) {
  for_some_of_slices_and_stages([](Layout layout) {
    const Reference plain(layout);
    for (const size_t number : {1, 2}) {
      layout.sharding.segmentation = kSegmentations[number];
      expect_same_bits(layout, plain);
    }
  });
}

TEST(same_bits_of_slices_and_stages, buffers_unreadable_outside_their_lifetime) {
  for_some_of_slices_and_stages([](const Layout& layout) {
    const Outcome plain = run(layout, 1);
    for (const ScheduleKind kind : kKinds) {
      for (const Shard shard : {Shard::none, Shard::gradients, Shard::parameters}) {
        Layout guarded = with_kind(layout, kind);
        guarded.sharding.level = shard;
        guarded.sharding.prefetch = 2;
        guarded.recompute = shard == Shard::gradients ? Recompute::full : Recompute::none;
        guarded.recompute_every = 2;
        guarded.guard = true;
        EXPECT_EQ(bitwise_difference(run(guarded, 1), plain), "") << guarded.describe();
      }
    }
  });
}

}  // namespace
}  // namespace ridgeline::layouts

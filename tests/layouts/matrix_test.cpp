// Random layouts against one rank, and pairs of layouts that promise the same bits.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <set>

#include "layout.h"
#include "ridgeline/base/random.h"

namespace ridgeline::layouts {
namespace {

using model::Recompute;
using parallel::Gather;
using parallel::Reduce;
using parallel::Shard;

constexpr Shard kLevels[] = {Shard::none, Shard::optimizer, Shard::gradients, Shard::parameters};

// ------------------------------------------------------------------------------------------------------ random layouts

// A layout as one small number per option, so that pairs of options can be counted.
enum Option {
  family,
  precision,
  dropout,
  level,
  ranks,
  group,
  cadence,
  gather,
  prefetch,
  micro_batches,
  rows,
  recompute,
  recompute_every,
  overlap,
  team,
  offload,
  segmentation,
  slices,
  sequence,
  stages,
  schedule,
  cut,
  option_count
};
using Choice = std::array<int, option_count>;
constexpr int kMostRanks = 16;
const Choice kValues = {
    static_cast<int>(model::family_names().size()), 5, 2, 4, 8, 3, 2, 2, 3, 3, 2, 3, 2, 2, 2, 2, 4, 3, 2, 3, 4, 2};

// Each tensor of a unit in one of three segments, by chance.
template <uint32_t kSeed>
int by_chance(const model::Tensor& tensor) {
  return static_cast<int>(philox(hash_name(tensor.name), {kSeed, 0, 0, 0})[0] % 3);
}
constexpr model::Segmentation kSegmentations[] = {nullptr, model::uncut_apart, by_chance<1>, by_chance<2>};

Choice draw(uint32_t number) {
  Choice choice{};
  for (uint32_t o = 0; o < option_count; ++o)
    choice[o] = static_cast<int>(philox(77, {number, o, 0, 0})[0] % static_cast<uint32_t>(kValues[o]));
  return choice;
}

// The stages of a choice, in `sharding`; returns how many.
int pipeline_of(const Choice& choice, parallel::Sharding& sharding) {
  const int count = choice[stages] == 2 ? 4 : choice[stages] + 1;
  if (count == 1) return 1;
  parallel::Pipeline& pipeline = sharding.pipeline;
  pipeline.kind = static_cast<parallel::ScheduleKind>(choice[schedule]);
  if (pipeline.kind == parallel::ScheduleKind::interleaved) {
    sharding.micro_batches = (sharding.micro_batches + count - 1) / count * count;
    if (count == 2) pipeline.chunks = 2;
  }
  // Four blocks.
  if (count * pipeline.chunks == 4) {
    pipeline.blocks = {1, 1, 1, 1};
  } else if (choice[cut] == 0) {
    pipeline.blocks = {2, 2};
  } else {
    pipeline.blocks = {1, 3};
  }
  return count;
}

Layout layout_of(const Choice& choice) {
  Layout layout;
  layout.family = model::family_names()[static_cast<size_t>(choice[family])];
  constexpr DType kPrecisions[] = {DType::f32, DType::bf16, DType::f16, DType::bf16, DType::bf16};
  layout.precision = kPrecisions[choice[precision]];
  layout.pure = choice[precision] == 3;
  layout.moments = choice[precision] == 4 ? DType::bf16 : DType::f32;
  layout.dropout = choice[dropout] == 0 ? 0.0F : 0.1F;
  layout.micro_batch = choice[rows] + 1;
  layout.sharding.level = kLevels[choice[level]];
  // llama has two key heads: three copies of each in six slices.
  const int tensor = choice[slices] + 1 + (layout.family == "llama" && choice[slices] == 2 ? 3 : 0);
  layout.sharding.micro_batches = choice[micro_batches] + 1;
  const int pipeline = pipeline_of(choice, layout.sharding);
  // All data-parallel ranks, the smallest divisor above 1, or 1.
  const int data = std::clamp(kMostRanks / (tensor * pipeline), 1, choice[ranks] + 1);
  int divisor = 2;
  while (divisor < data && data % divisor != 0) ++divisor;
  const int group_size = choice[group] == 0 ? 0 : (choice[group] == 1 ? std::min(divisor, data) : 1);
  layout.sharding.mesh = comm::Mesh::of_world(data * tensor * pipeline, pipeline, tensor, 1, group_size);
  layout.sharding.sequence = choice[sequence] == 1;
  layout.sharding.reduce = choice[cadence] == 0 ? Reduce::last : Reduce::every;
  layout.sharding.gather = choice[gather] == 0 ? Gather::per_use : Gather::per_step;
  layout.sharding.prefetch = choice[prefetch];
  layout.recompute = static_cast<Recompute>(choice[recompute]);
  layout.recompute_every = choice[recompute_every] + 1;
  layout.overlap = choice[overlap] == 0;
  layout.team = choice[team] + 1;
  layout.offload_window = choice[offload];
  layout.sharding.segmentation = kSegmentations[choice[segmentation]];
  return layout;
}

using Pair = std::array<int, 4>;
std::set<Pair> pairs_of(const Choice& choice) {
  std::set<Pair> pairs;
  for (int a = 0; a < option_count; ++a) {
    for (int b = a + 1; b < option_count; ++b)
      pairs.insert({a, choice[static_cast<size_t>(a)], b, choice[static_cast<size_t>(b)]});
  }
  return pairs;
}

// Each of `count` draws is the one of several candidates that shows most pairs of values not seen before.
std::vector<Choice> draws(int count, std::set<Pair>& seen) {
  std::vector<Choice> list;
  uint32_t number = 0;
  for (int i = 0; i < count; ++i) {
    Choice best{};
    size_t best_new = 0;
    for (int candidate = 0; candidate < 12; ++candidate) {
      const Choice choice = draw(number++);
      size_t fresh = 0;
      for (const Pair& pair : pairs_of(choice)) fresh += seen.contains(pair) ? 0 : 1;
      if (candidate == 0 || fresh > best_new) {
        best = choice;
        best_new = fresh;
      }
    }
    seen.merge(pairs_of(best));
    list.push_back(best);
  }
  return list;
}

TEST(layouts, any_layout_gives_one_ranks_gradients) {
  const int count = std::getenv("RIDGELINE_TEST_LONG") != nullptr ? 2000 : 220;
  std::set<Pair> seen;
  std::map<std::string, Outcome> references;
  double worst[3] = {0, 0, 0}, least_cosine = 1;
  for (const Choice& choice : draws(count, seen)) {
    const Layout layout = layout_of(choice);
    const Layout one = one_rank(layout);
    Outcome& reference = references[one.describe()];
    if (reference.losses.empty()) reference = run(one, 1);
    const Outcome outcome = run(layout, 1);
    const bool whole = layout.sharding.slices() * layout.sharding.pipeline.stages() == 1,
               single = layout.precision == DType::f32;
    const double difference = gradient_difference(outcome, reference), cosine = gradient_cosine(outcome, reference);
    if (whole || single) {
      // Other orders of summation, in f32 whatever the activations are: the micro-batches are the same. Slices add
      // parts of activations.
      const double bound = whole && single ? 1e-6 : 1e-5;
      EXPECT_LE(difference, bound) << layout.describe();
      EXPECT_NEAR(outcome.losses[0], reference.losses[0], 1e-6 * reference.losses[0]) << layout.describe();
      double& most = worst[whole ? (single ? 0 : 1) : 2];
      most = std::max(most, difference);
    } else {  // and round them to two bytes
      EXPECT_GE(cosine, 0.999) << layout.describe();
      EXPECT_NEAR(outcome.losses[0], reference.losses[0], 5e-3 * reference.losses[0]) << layout.describe();
      least_cosine = std::min(least_cosine, cosine);
    }
    if (layout.offload_window == 0) continue;
    Layout in_memory = layout;
    in_memory.offload_window = 0;
    EXPECT_EQ(bitwise_difference(run(layout, 2), run(in_memory, 2)), "") << layout.describe();
  }
  size_t all = 0;
  for (int a = 0; a < option_count; ++a) {
    for (int b = a + 1; b < option_count; ++b)
      all += static_cast<size_t>(kValues[static_cast<size_t>(a)] * kValues[static_cast<size_t>(b)]);
  }
  fmt::print(
      "{} layouts, {} of {} pairs of options; worst difference {:.1e} in fp32, {:.1e} in 2 bytes, {:.1e} in slices in "
      "fp32; least cosine in slices in 2 bytes {:.6f}\n",
      count, seen.size(), all, worst[0], worst[1], worst[2], least_cosine);
  EXPECT_EQ(seen.size(), all);
}

// A 2-byte wire rounds each rank's sum once: 2^-9 of it.
TEST(layouts, a_wire_of_two_bytes_rounds_gradients_once) {
  for (const Shard shard : kLevels) {
    for (const int micro_batches : {1, 2}) {
      for (const Reduce reduce : {Reduce::last, Reduce::every}) {
        Layout layout;
        layout.precision = DType::bf16;
        layout.sharding = {.level = shard,
                           .mesh = comm::Mesh::of_data(4, 2),
                           .reduce = reduce,
                           .wire = DType::bf16,
                           .micro_batches = micro_batches};
        const double difference = gradient_difference(run(layout, 1), run(one_rank(layout), 1));
        EXPECT_LT(difference, 1e-2) << layout.describe();
        EXPECT_GT(difference, 1e-5) << "nothing was rounded: " << layout.describe();
      }
    }
  }
}

// ------------------------------------------------------------------------------------------------------- the same bits

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

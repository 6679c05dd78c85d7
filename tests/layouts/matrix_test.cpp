// Random layouts, and classic ones, against one rank.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>

#include "draws.h"
#include "layout.h"

namespace ridgeline::layouts {
namespace {

using model::Recompute;
using parallel::Reduce;
using parallel::ScheduleKind;
using parallel::Shard;

constexpr Shard kLevels[] = {Shard::none, Shard::optimizer, Shard::gradients, Shard::parameters};

// Outcomes on one rank, each computed once.
class References {
 public:
  const Outcome& of(const Layout& layout, int steps) {
    const Layout one = one_rank(layout);
    Outcome& outcome = outcomes_[fmt::format("{} steps {}", steps, one.describe())];
    if (outcome.losses.empty()) outcome = run(one, steps);
    return outcome;
  }

 private:
  std::map<std::string, Outcome> outcomes_;
};

bool long_test() {
  return std::getenv("RIDGELINE_TEST_LONG") != nullptr;
}

TEST(layouts, any_layout_gives_one_ranks_gradients) {
  const int count = long_test() ? 2000 : 320;
  Draws draws(0);
  References references;
  double worst[3] = {0, 0, 0}, worst_norm[2] = {0, 0}, least_cosine = 1;
  for (int i = 0; i < count; ++i) {
    const Layout layout = draws.next();
    const Outcome& reference = references.of(layout, 1);
    const Outcome outcome = run(layout, 1);
    const bool whole = layout.sharding.slices() == 1, single = layout.precision == DType::f32;
    const double difference = gradient_difference(outcome, reference), cosine = gradient_cosine(outcome, reference);
    const double norm = std::fabs(outcome.norms[0] / reference.norms[0] - 1);
    if (whole || single) {
      // Other orders of summation, in f32 whatever the activations are: the micro-batches are the same. Slices add
      // parts of activations.
      EXPECT_LE(difference, single ? gradient_bound(layout) : 1e-5) << layout.describe();
      EXPECT_NEAR(outcome.losses[0], reference.losses[0], 1e-6 * reference.losses[0]) << layout.describe();
      EXPECT_LE(norm, 1e-5) << layout.describe();
      double& most = worst[whole ? (single ? 0 : 1) : 2];
      most = std::max(most, difference);
    } else {  // and round them to two bytes
      EXPECT_GE(cosine, 0.999) << layout.describe();
      EXPECT_NEAR(outcome.losses[0], reference.losses[0], 5e-3 * reference.losses[0]) << layout.describe();
      EXPECT_LE(norm, 2e-2) << layout.describe();
      least_cosine = std::min(least_cosine, cosine);
    }
    double& most = worst_norm[whole || single ? 0 : 1];
    most = std::max(most, norm);
    if (layout.offload_window == 0) continue;
    Layout in_memory = layout;
    in_memory.offload_window = 0;
    EXPECT_EQ(bitwise_difference(run(layout, 2), run(in_memory, 2)), "") << layout.describe();
  }
  fmt::print(
      "{} layouts, {} pairs of options; worst difference {:.1e} in fp32, {:.1e} in 2 bytes, {:.1e} in slices in fp32, "
      "of the norm {:.1e}; in slices in 2 bytes least cosine {:.6f}, norm {:.1e}\n",
      count, draws.pairs_seen(), worst[0], worst[1], worst[2], worst_norm[0], least_cosine, worst_norm[1]);
  EXPECT_EQ(draws.missing(), std::vector<std::string>{});
}

// ----------------------------------------------------------------------------------------------------------- ten steps

constexpr int kSteps = 10;

void expect_one_ranks_steps(const Layout& layout, References& references) {
  const Outcome& reference = references.of(layout, kSteps);
  EXPECT_LT(reference.losses.back(), 0.8 * reference.losses.front()) << "nothing is learned: " << layout.describe();
  EXPECT_EQ(difference_from_one_rank(layout, run(layout, kSteps), reference), "") << layout.describe();
}

Layout learning(Layout layout) {
  layout.precision = layout.moments = DType::f32;
  layout.pure = false;
  layout.offload_window = 0;
  layout.same_rows = true;
  layout.epsilon = 1e-3F;  // or Adam makes whole steps of the rounding of gradients that are nearly nothing
  return layout;
}

TEST(layouts, any_layout_learns_as_one_rank) {
  Draws draws(2);
  References references;
  for (int i = 0; i < (long_test() ? 400 : 40); ++i) expect_one_ranks_steps(learning(draws.next()), references);
}

parallel::Sharding sharded(int pp, int tp, int data, Shard level = Shard::none, int shard_group = 0) {
  return {.level = level, .mesh = comm::Mesh::of_world(pp * tp * data, pp, tp, 1, shard_group), .micro_batches = 4};
}

struct Corner {
  const char* name;
  Layout layout;
};

// Slices and their vocabulary.
std::vector<Corner> corners_of_slices() {
  std::vector<Corner> corners;
  for (const std::string_view name : model::family_names()) {
    for (const bool sequence : {false, true}) {
      const int slices = name == "llama" ? 6 : 3;  // of two key heads: three copies of each
      Layout layout{.family = std::string(name), .sharding = sharded(1, slices, 1)};
      layout.sharding.sequence = sequence;
      corners.push_back({"tensor ranks alone", layout});
      layout.vocab = slices + 1;
      corners.push_back({"a vocabulary barely larger than the tensor ranks", layout});
      layout.vocab = 101;
      layout.dropout = 0.2F;
      corners.push_back({"an odd vocabulary, and dropout", layout});
    }
  }
  return corners;
}

parallel::Pipeline pipeline_of(ScheduleKind kind, int stages) {
  if (kind == ScheduleKind::interleaved && stages == 2) return {kind, 2, {1, 1, 1, 1}};
  return {kind, 1, stages == 2 ? std::vector<int>{2, 2} : std::vector<int>{1, 1, 1, 1}};
}

// Stages, alone and with everything else.
std::vector<Corner> corners_of_stages() {
  std::vector<Corner> corners;
  for (const ScheduleKind kind :
       {ScheduleKind::gpipe, ScheduleKind::one_f_one_b, ScheduleKind::interleaved, ScheduleKind::zero_bubble}) {
    const auto add = [&](const char* name, parallel::Sharding sharding, Layout layout = {}) {
      sharding.pipeline = pipeline_of(kind, sharding.mesh.size(comm::Axis::pp));
      layout.sharding = sharding;
      corners.push_back({name, layout});
    };
    add("stages alone", sharded(2, 1, 1));
    add("one block per stage", sharded(4, 1, 1), {.family = "gptj"});
    add("stages of slices", sharded(2, 2, 1), {.dropout = 0.1F});
    add("stages of slices, replicated", sharded(2, 2, 2, Shard::optimizer), {.family = "gpt_neox"});
    add("stages of slices, hybrid", sharded(2, 2, 4, Shard::parameters, 2));
    add("what is computed again beside what comes in parts", sharded(2, 2, 1),
        {.family = "llama", .recompute = Recompute::full, .recompute_every = 2});
    add("everything is computed again", sharded(4, 1, 2), {.recompute = Recompute::full});
    if (kind == ScheduleKind::interleaved) continue;
    parallel::Sharding few = sharded(4, 1, 1);
    few.micro_batches = 3;
    add("fewer micro-batches than stages", few);
    few.micro_batches = 1;
    add("one micro-batch", few, {.micro_batch = 3});
  }
  return corners;
}

TEST(layouts, classic_ones_learn_as_one_rank) {
  References references;
  for (const auto& corners : {corners_of_slices(), corners_of_stages()}) {
    for (const Corner& corner : corners) {
      SCOPED_TRACE(corner.name);
      expect_one_ranks_steps(learning(corner.layout), references);
    }
  }
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

}  // namespace
}  // namespace ridgeline::layouts

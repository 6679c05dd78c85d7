#include "ridgeline/ops/adam.h"

#include <gtest/gtest.h>

#include "fixture.h"

namespace ridgeline::ops {
namespace {

struct State {
  explicit State(int64_t count)
      : p(random_values<float>(count, 1)),
        g(random_values<float>(count, 2)),
        m(random_values<float>(count, 3)),
        v(random_values<float>(count, 4)),
        copy(random_values<bf16>(count, 5)) {
    for (float& x : v) x = std::abs(x);
  }
  void update(device::Stream& stream, int64_t first, int64_t last, const Adam& settings, const AdamScalars& scalars) {
    adam(stream, last - first, settings, &scalars, p.data() + first, g.data() + first, m.data() + first,
         v.data() + first, copy.data() + first);
  }
  std::vector<float> p, g, m, v;
  std::vector<bf16> copy;
};

constexpr AdamScalars kScalars{1e-3F, 0.5F, 0.271F, 0.003F, 0};

TEST(Adam, AnyCutOfTheRangeGivesTheSameBits) {
  TwoThreads two;
  Adam settings;
  settings.weight_decay = 0.1F;
  State whole(5000), cut(5000);
  whole.update(two.stream, 0, 5000, settings, kScalars);
  int64_t first = 0;
  for (const int64_t last : {1, 3, 17, 18, 1000, 4999, 5000}) {
    cut.update(two.stream, first, last, settings, kScalars);
    first = last;
  }
  EXPECT_TRUE(same_bits(whole.p, cut.p));
  EXPECT_TRUE(same_bits(whole.m, cut.m));
  EXPECT_TRUE(same_bits(whole.v, cut.v));
  EXPECT_TRUE(same_bits(whole.copy, cut.copy));
  EXPECT_TRUE(same_bits(whole.g, std::vector<float>(5000)));
}

// Above half a megabyte of elements the copy is written past the caches: the same bits.
TEST(Adam, AStreamedCopyIsTheRoundedMaster) {
  TwoThreads two;
  const int64_t count = (1 << 19) + 77;
  for (const int64_t offset : {0, 1}) {
    State state(count + offset);
    state.update(two.stream, offset, count + offset, {}, kScalars);
    for (int64_t i = offset; i < count + offset; ++i) ASSERT_EQ(state.copy[i].bits, bf16(state.p[i]).bits) << i;
  }
}

TEST(Adam, SkippingLeavesEverythingButTheGradient) {
  TwoThreads two;
  const State before(1000);
  for (const bool zero_gradient : {true, false}) {
    State state(1000);
    Adam settings;
    settings.zero_gradient = zero_gradient;
    AdamScalars scalars = kScalars;
    scalars.skip = 1;
    state.g[5] = std::nanf("");
    const std::vector<float> gradient = state.g;
    state.update(two.stream, 0, 1000, settings, scalars);
    EXPECT_TRUE(same_bits(state.p, before.p));
    EXPECT_TRUE(same_bits(state.m, before.m));
    EXPECT_TRUE(same_bits(state.v, before.v));
    EXPECT_TRUE(same_bits(state.copy, before.copy));
    EXPECT_TRUE(same_bits(state.g, zero_gradient ? std::vector<float>(1000) : gradient));
  }
}

TEST(Adam, DecayFormsDifferAsDefined) {
  TwoThreads two;
  Adam settings;
  settings.weight_decay = 0.5F;
  State state(64);
  state.g.assign(64, 0.0F);
  state.m.assign(64, 0.0F);
  state.v.assign(64, 0.0F);
  const std::vector<float> before = state.p;
  State coupled = state;
  state.update(two.stream, 0, 64, settings, kScalars);
  // AdamW with no gradient only shrinks the weights.
  for (size_t i = 0; i < 64; ++i) EXPECT_NEAR(state.p[i], before[i] * (1.0F - 1e-3F * 0.5F), 1e-7F);
  settings.decoupled = false;
  coupled.update(two.stream, 0, 64, settings, kScalars);
  for (size_t i = 0; i < 64; ++i) EXPECT_FLOAT_EQ(coupled.m[i], 0.1F * 0.5F * before[i]);
}

}  // namespace
}  // namespace ridgeline::ops

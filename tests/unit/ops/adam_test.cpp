#include "ridgeline/ops/adam.h"

#include <gtest/gtest.h>

#include <bit>
#include <limits>

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

// A state in any of the narrower forms, and the same values in fp32.
template <typename P, typename M, typename V>
struct Narrow {
  explicit Narrow(int64_t count)
      : p(random_values<P>(count, 1)),
        m(random_values<M>(count, 3)),
        v(random_values<V>(count, 4)),
        g(random_values<bf16>(count, 2)) {
    for (V& x : v) x = V(std::abs(static_cast<float>(x)));
  }
  void update(device::Stream& stream, int64_t first, int64_t last, Adam settings, const AdamScalars& scalars) {
    settings.rounding.first += first;
    adam(stream, last - first, settings, &scalars, p.data() + first, g.data() + first, m.data() + first,
         v.data() + first, {});
  }
  std::vector<P> p;
  std::vector<M> m;
  std::vector<V> v;
  std::vector<bf16> g;
};

template <typename T>
std::vector<float> widened(const std::vector<T>& values) {
  std::vector<float> result;
  for (const T value : values) result.push_back(static_cast<float>(value));
  return result;
}

Adam with_rounding(uint64_t tensor, int64_t first) {
  Adam settings;
  settings.weight_decay = 0.1F;
  settings.rounding = {tensor, first};
  return settings;
}

AdamScalars with_key(uint64_t key) {
  AdamScalars scalars = kScalars;
  scalars.rounding_key = key;
  return scalars;
}

// The narrow forms compute what fp32 computes from the same values, then round: states to nearest, the master by the
// random bits of its address.
TEST(Adam, NarrowFormsRoundTheResultOfTheWideOne) {
  TwoThreads two;
  const int64_t count = 3001, place = (int64_t{1} << 35) - 1000;  // crosses where a counter's upper word changes
  const uint64_t tensor = 0x123456789ABCULL, key = 987654321;
  Narrow<bf16, bf16, bf16> narrow(count);
  Narrow<float, float, float> wide(count);
  wide.p = widened(narrow.p);
  wide.m = widened(narrow.m);
  wide.v = widened(narrow.v);
  narrow.update(two.stream, 0, count, with_rounding(tensor, place), with_key(key));
  wide.update(two.stream, 0, count, with_rounding(tensor, place), with_key(key));
  for (int64_t i = 0; i < count; ++i) {
    ASSERT_EQ(narrow.m[i].bits, bf16(wide.m[i]).bits);
    ASSERT_EQ(narrow.v[i].bits, bf16(wide.v[i]).bits);
    const auto index = static_cast<uint64_t>(place + i), counter = index / 8;
    const Philox4 words = philox(key, {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32),
                                       static_cast<uint32_t>(tensor), static_cast<uint32_t>(tensor >> 32)});
    const uint32_t half = (words[index % 8 / 2] >> (index % 2 * 16)) & 0xFFFF;
    ASSERT_EQ(narrow.p[i].bits, (std::bit_cast<uint32_t>(wide.p[i]) + half) >> 16) << i;
  }
}

TEST(Adam, AnyCutRoundsAlike) {
  TwoThreads two;
  const AdamScalars scalars = with_key(11);
  Narrow<bf16, float, bf16> whole(5000), cut(5000), other_step(5000), other_tensor(5000);
  whole.update(two.stream, 0, 5000, with_rounding(3, 999), scalars);
  int64_t first = 0;
  for (const int64_t last : {1, 3, 17, 18, 1000, 4999, 5000}) {
    cut.update(two.stream, first, last, with_rounding(3, 999), scalars);
    first = last;
  }
  EXPECT_TRUE(same_bits(whole.p, cut.p));
  EXPECT_TRUE(same_bits(whole.m, cut.m));
  EXPECT_TRUE(same_bits(whole.v, cut.v));
  other_step.update(two.stream, 0, 5000, with_rounding(3, 999), with_key(12));
  other_tensor.update(two.stream, 0, 5000, with_rounding(4, 999), scalars);
  EXPECT_FALSE(same_bits(whole.p, other_step.p));
  EXPECT_FALSE(same_bits(whole.p, other_tensor.p));
}

// Steps of a tenth of the last place: rounded to nearest they would never move; rounded stochastically they add up.
TEST(Adam, SmallStepsAddUpInBf16) {
  TwoThreads two;
  const int64_t count = 4000;
  std::vector<bf16> p(count, bf16(1.0F));
  std::vector<float> m(count), v(count);
  Adam settings;
  settings.beta1 = settings.beta2 = 0.0;
  for (int step = 1; step <= 50; ++step) {
    std::vector<float> g(count, -1.0F);
    AdamScalars scalars;
    scalars.learning_rate = 0.1F * 0x1p-7F;  // each step adds exactly this
    scalars.rounding_key = random_key(1, step, Purpose::rounding);
    adam(two.stream, count, settings, &scalars, p.data(), g.data(), m.data(), v.data(), {});
  }
  double mean = 0.0;
  for (const bf16 value : p) mean += static_cast<double>(static_cast<float>(value)) / static_cast<double>(count);
  // 50 roundings of deviation sqrt(0.09) units each, over 4000 elements; five deviations.
  EXPECT_NEAR(mean, 1.0 + 5.0 * 0x1p-7, 5.0 * 0x1p-7 * std::sqrt(50 * 0.09 / 4000.0));
}

// Random bits may carry out of a mantissa, but not through an exponent of infinity or the sign of NaN.
TEST(Adam, WhatIsNotFiniteStaysSo) {
  TwoThreads two;
  std::vector<bf16> p(64, bf16(std::numeric_limits<float>::infinity()));
  for (size_t i = 0; i < p.size(); ++i) p[i].bits = i % 2 == 0 ? 0x7FFF : 0xFFFF;
  for (size_t i = 0; i < 32; ++i) p[i].bits = i % 2 == 0 ? 0x7F80 : 0xFF80;
  std::vector<float> g(64), m(64), v(64);
  for (uint64_t key = 0; key < 20; ++key) {
    const AdamScalars scalars = with_key(key);
    adam(two.stream, 64, {}, &scalars, p.data(), g.data(), m.data(), v.data(), {});
    for (const bf16 value : p) ASSERT_FALSE(std::isfinite(static_cast<float>(value)));
  }
}

TEST(Adam, F16GradientAndCopy) {
  TwoThreads two;
  const int64_t count = (1 << 19) + 77;
  const State before(count);
  auto p = before.p, m = before.m, v = before.v;
  auto gradient = random_values<f16>(count, 9);
  std::vector<float> same_gradient;
  for (const f16 value : gradient) same_gradient.push_back(static_cast<float>(value));
  std::vector<f16> copy(count);
  p[3] = 70000.0F;
  adam(two.stream, count, {}, &kScalars, p.data(), gradient.data(), m.data(), v.data(), copy.data());
  for (int64_t i = 0; i < count; ++i) ASSERT_EQ(copy[i].bits, f16(p[i]).bits) << i;
  EXPECT_EQ(copy[3].bits, 0x7C00);
  EXPECT_TRUE(same_bits(gradient, std::vector<f16>(count)));
  State wide = before;
  wide.g = same_gradient;
  wide.p[3] = 70000.0F;
  wide.update(two.stream, 0, count, {}, kScalars);
  EXPECT_TRUE(same_bits(p, wide.p));
  EXPECT_TRUE(same_bits(m, wide.m));
  EXPECT_TRUE(same_bits(v, wide.v));
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

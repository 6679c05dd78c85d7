#include "ridgeline/ops/rotary.h"

#include <gtest/gtest.h>

#include "fixture.h"

namespace ridgeline::ops {
namespace {

// cos and sin of position p, pair i.
struct Angle {
  float cos, sin;
};

class Table {
 public:
  Table(int64_t positions, int64_t width, double base, const RotaryScaling& scaling)
      : width_(width), values_(static_cast<size_t>(positions * width)) {
    fill_rotary_table(positions, width, base, scaling, values_.data());
  }
  Angle at(int64_t p, int64_t i) const { return {values_[p * width_ + 2 * i], values_[p * width_ + 2 * i + 1]}; }
  const float* data() const { return values_.data(); }

 private:
  int64_t width_;
  std::vector<float> values_;
};

TEST(RotaryTable, IsRoundedOnceFromDouble) {
  const Table table(4000, 64, 10000.0, {});
  for (const int64_t p : {0, 1, 777, 3999}) {
    for (int64_t i = 0; i < 32; ++i) {
      const double angle = static_cast<double>(p) * std::pow(10000.0, -static_cast<double>(i) / 32.0);
      ASSERT_FLOAT_EQ(table.at(p, i).cos, static_cast<float>(std::cos(angle)));
      ASSERT_FLOAT_EQ(table.at(p, i).sin, static_cast<float>(std::sin(angle)));
    }
  }
}

// Llama 3.1 (base 500000, D = 128, the default factors): frequencies worked out by hand from the definition, on both
// sides of both limits.
TEST(RotaryTable, ScalesAsLlama3) {
  RotaryScaling scaling;
  scaling.llama3 = true;
  const Table table(2, 128, 500000.0, scaling);
  struct Row {
    int64_t i;
    double frequency;
  };
  for (const Row row :
       {Row{0, 1.0}, Row{28, 0.003211445994752591}, Row{29, 0.002166570763503359}, Row{32, 0.0005248461609929547},
        Row{34, 0.0001785078127679964}, Row{35, 9.556212353964683e-05}, Row{63, 3.068925988914511e-07}}) {
    EXPECT_FLOAT_EQ(table.at(1, row.i).sin, static_cast<float>(std::sin(row.frequency))) << row.i;
  }
}

TEST(Rotary, LeavesWhatItDoesNotTurn) {
  TwoThreads two;
  const int64_t n = 9, heads = 3, d = 20, r = 6, stride = 100;
  const Table table(16, r, 10000.0, {});
  const std::vector<int32_t> positions = {0, 1, 2, 3, 15, 3, 2, 1, 0};
  const auto before = random_values<bf16>(n * stride, 1);
  for (const auto pairing : {RotaryPairing::interleaved, RotaryPairing::half_split}) {
    auto x = before;
    rotary(two.stream, {n, heads, d, r, stride, pairing, positions.data(), table.data()}, x.data());
    for (int64_t i = 0; i < n * stride; ++i) {
      const int64_t at = i % stride;
      const bool turned = at < heads * d && at % d < r && positions[i / stride] != 0;
      ASSERT_TRUE(turned || x[i].bits == before[i].bits) << i;
    }
    EXPECT_FALSE(same_bits(x, before));
  }
}

// Half-split is interleaved on permuted elements: the same bits, whatever the vector's width.
TEST(Rotary, PairingsAgreeUpToPermutation) {
  TwoThreads two;
  const int64_t n = 5, r = 54;
  const Table table(64, r, 10000.0, {});
  const std::vector<int32_t> positions = {7, 0, 63, 21, 5};
  auto split = random_values<f16>(n * r, 1);
  auto interleaved = split;
  for (int64_t t = 0; t < n; ++t) {
    for (int64_t i = 0; i < r / 2; ++i) {
      interleaved[t * r + 2 * i] = split[t * r + i];
      interleaved[t * r + 2 * i + 1] = split[t * r + r / 2 + i];
    }
  }
  rotary(two.stream, {n, 1, r, r, r, RotaryPairing::half_split, positions.data(), table.data()}, split.data());
  rotary(two.stream, {n, 1, r, r, r, RotaryPairing::interleaved, positions.data(), table.data()}, interleaved.data());
  for (int64_t t = 0; t < n; ++t) {
    for (int64_t i = 0; i < r / 2; ++i) {
      ASSERT_EQ(interleaved[t * r + 2 * i].bits, split[t * r + i].bits);
      ASSERT_EQ(interleaved[t * r + 2 * i + 1].bits, split[t * r + r / 2 + i].bits);
    }
  }
}

}  // namespace
}  // namespace ridgeline::ops

#include "ridgeline/ops/norm.h"

#include <gtest/gtest.h>

#include "fixture.h"

namespace ridgeline::ops {
namespace {

template <typename T>
struct Layer {
  static constexpr int64_t n = 150, c = 75;
  std::vector<T> x = random_values<T>(n * c, 1), dy = random_values<T>(n * c, 2),
                 dresidual = random_values<T>(n * c, 3);
  std::vector<float> weight = random_values<float>(c, 4), bias = random_values<float>(c, 5),
                     mean = std::vector<float>(n), rstd = std::vector<float>(n), dweight = std::vector<float>(c),
                     dbias = std::vector<float>(c);
  std::vector<T> y = std::vector<T>(n * c), dx = std::vector<T>(n * c);
  std::vector<std::byte> workspace =
      std::vector<std::byte>(static_cast<size_t>(layernorm_backward_workspace_bytes(n, c, 2)));

  void forward(device::Stream& stream) {
    layernorm_forward(stream, n, c, 1e-5F, x.data(), weight.data(), bias.data(), y.data(), mean.data(), rstd.data());
  }
  void backward(device::Stream& stream, ConstRef dy_ref, ConstRef dresidual_ref, Ref dx_ref, float* dw, float* db) {
    layernorm_backward(stream, n, c, x.data(), weight.data(), mean.data(), rstd.data(), dy_ref, dresidual_ref, dx_ref,
                       dw, db, workspace.data());
  }
};

template <typename T>
class LayerNorm : public testing::Test {};
using Stored = testing::Types<float, bf16>;
TYPED_TEST_SUITE(LayerNorm, Stored);

TYPED_TEST(LayerNorm, InputGradientMayReplaceWhatItReads) {
  TwoThreads two;
  Layer<TypeParam> l;
  l.forward(two.stream);
  l.backward(two.stream, l.dy.data(), l.dresidual.data(), l.dx.data(), l.dweight.data(), l.dbias.data());
  const auto dweight = l.dweight, dbias = l.dbias;

  auto onto_residual = l.dresidual;
  std::fill(l.dweight.begin(), l.dweight.end(), 0.0F);
  std::fill(l.dbias.begin(), l.dbias.end(), 0.0F);
  l.backward(two.stream, l.dy.data(), onto_residual.data(), onto_residual.data(), l.dweight.data(), l.dbias.data());
  EXPECT_TRUE(same_bits(onto_residual, l.dx));
  EXPECT_TRUE(same_bits(l.dweight, dweight));

  auto onto_dy = l.dy;
  std::fill(l.dweight.begin(), l.dweight.end(), 0.0F);
  std::fill(l.dbias.begin(), l.dbias.end(), 0.0F);
  l.backward(two.stream, onto_dy.data(), l.dresidual.data(), onto_dy.data(), l.dweight.data(), l.dbias.data());
  EXPECT_TRUE(same_bits(onto_dy, l.dx));
  EXPECT_TRUE(same_bits(l.dweight, dweight));
  EXPECT_TRUE(same_bits(l.dbias, dbias));
}

// Zero-bubble schedules compute the two parts at different times.
TYPED_TEST(LayerNorm, PartsAloneGiveTheBitsOfTheWhole) {
  TwoThreads two;
  Layer<TypeParam> l;
  l.forward(two.stream);
  l.backward(two.stream, l.dy.data(), {}, l.dx.data(), l.dweight.data(), l.dbias.data());
  std::vector<TypeParam> dx(l.dx.size());
  std::vector<float> dweight(l.dweight.size()), dbias(l.dbias.size());
  l.backward(two.stream, l.dy.data(), {}, dx.data(), nullptr, nullptr);
  l.backward(two.stream, l.dy.data(), {}, {}, dweight.data(), dbias.data());
  EXPECT_TRUE(same_bits(dx, l.dx));
  EXPECT_TRUE(same_bits(dweight, l.dweight));
  EXPECT_TRUE(same_bits(dbias, l.dbias));
}

TYPED_TEST(LayerNorm, EvaluationNeedsNoStatistics) {
  TwoThreads two;
  Layer<TypeParam> l;
  l.forward(two.stream);
  std::vector<TypeParam> y(l.y.size());
  layernorm_forward(two.stream, l.n, l.c, 1e-5F, l.x.data(), l.weight.data(), l.bias.data(), y.data(), nullptr,
                    nullptr);
  EXPECT_TRUE(same_bits(y, l.y));
}

TEST(LayerNormForward, OfAConstantRowIsTheBias) {
  TwoThreads two;
  const std::vector<float> x(37, 1234.5F), weight(37, 2.0F), bias(37, 0.25F);
  std::vector<float> y(37);
  layernorm_forward(two.stream, 1, 37, 1e-5F, x.data(), weight.data(), bias.data(), y.data(), nullptr, nullptr);
  for (const float value : y)
    EXPECT_NEAR(value, 0.25F, 0.1F);  // the mean is right to an ulp, 1.2e-4, times 2 / sqrt(1e-5)
}

}  // namespace
}  // namespace ridgeline::ops

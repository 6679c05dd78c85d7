#include "ridgeline/ops/norm.h"

#include <gtest/gtest.h>

#include "../lent_memory.h"
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
  LentMemory workspace{layernorm_backward_workspace_bytes(n, c, 2)};

  void forward(device::Stream& stream) {
    layernorm_forward(stream, n, c, 1e-5F, x.data(), weight.data(), bias.data(), y.data(), mean.data(), rstd.data());
  }
  void backward(device::Stream& stream, ConstRef dy_ref, ConstRef dresidual_ref, Ref dx_ref, float* dw, float* db) {
    layernorm_backward(stream, n, c, x.data(), weight.data(), mean.data(), rstd.data(), dy_ref, dresidual_ref, dx_ref,
                       dw, db, workspace.all());
  }
};

template <typename T>
class LayerNorm : public testing::Test {};
using Stored = testing::Types<float, bf16, f16>;
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

// RMS norm is layer norm where the rows have no mean: on rows of pairs (x, -x), up to the rounding of that mean.
TYPED_TEST(LayerNorm, WithoutAMeanIsRmsNorm) {
  TwoThreads two;
  const int64_t n = 40, c = 74;
  auto x = random_values<TypeParam>(n * c, 1);
  for (int64_t i = 0; i < n * c; i += 2) x[i + 1] = TypeParam(-static_cast<float>(x[i]));
  const auto weight = random_values<float>(c, 2);
  std::vector<TypeParam> expected(x.size()), y(x.size());
  std::vector<float> rstd(n), expected_rstd(n), mean(n);
  layernorm_forward(two.stream, n, c, 1e-5F, x.data(), weight.data(), {}, expected.data(), mean.data(),
                    expected_rstd.data());
  rmsnorm_forward(two.stream, n, c, 1e-5F, x.data(), weight.data(), y.data(), rstd.data());
  for (int64_t i = 0; i < n; ++i) EXPECT_NEAR(rstd[i], expected_rstd[i], 1e-6F * rstd[i]);
  for (size_t i = 0; i < y.size(); ++i) {
    ASSERT_NEAR(static_cast<float>(y[i]), static_cast<float>(expected[i]), sizeof(TypeParam) == 2 ? 0.016F : 2e-6F);
  }
}

TYPED_TEST(LayerNorm, RmsNormPartsAloneGiveTheBitsOfTheWhole) {
  TwoThreads two;
  const Layer<TypeParam> l;
  std::vector<float> rstd(l.n), dweight(l.c), dweight_alone(l.c);
  std::vector<TypeParam> y(l.y.size()), dx(l.dx.size()), dx_alone(l.dx.size()), onto_residual = l.dresidual;
  rmsnorm_forward(two.stream, l.n, l.c, 1e-6F, l.x.data(), l.weight.data(), y.data(), rstd.data());
  LentMemory workspace(rmsnorm_backward_workspace_bytes(l.n, l.c, 2));
  const auto backward = [&](ConstRef residual, Ref out, float* dw) {
    rmsnorm_backward(two.stream, l.n, l.c, l.x.data(), l.weight.data(), rstd.data(), l.dy.data(), residual, out, dw,
                     workspace.all());
  };
  backward(l.dresidual.data(), dx.data(), dweight.data());
  backward(l.dresidual.data(), dx_alone.data(), nullptr);
  backward({}, {}, dweight_alone.data());
  backward(onto_residual.data(), onto_residual.data(), nullptr);
  EXPECT_TRUE(same_bits(dx, dx_alone));
  EXPECT_TRUE(same_bits(dx, onto_residual));
  EXPECT_TRUE(same_bits(dweight, dweight_alone));
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

// Our product against the other libraries' on the same operands, and their refusals.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "../lent_memory.h"
#include "ridgeline/base/error.h"
#include "ridgeline/base/random.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/ops/cpu/matmul_providers.h"

namespace ridgeline::ops {
namespace {

constexpr int64_t kM = 67, kN = 45, kK = 131;

template <typename T>
std::vector<T> draw(int64_t count, uint64_t seed) {
  std::vector<float> values(count);
  fill_normal(values.data(), count, random_key(seed, 0, Purpose::init), 0, 0.0F, 1.0F);
  return std::vector<T>(values.begin(), values.end());
}

template <typename T>
void expect_agreement(Layout a_layout, Layout b_layout, bool accumulate) {
  device::WorkerTeam team(2);
  device::Stream stream(team);
  const std::vector<T> a = draw<T>(kM * kK, 1), b = draw<T>(kK * kN, 2);
  const std::vector<float> start = draw<float>(kM * kN, 3);
  for (const Provider provider : providers()) {
    std::vector<float> ours = start, theirs = start;
    Matmul product;
    product.m = kM, product.n = kN, product.k = kK, product.ldc = kN;
    product.a = {a.data(), a_layout, a_layout == Layout::row_major ? kK : kM};
    product.b = {b.data(), b_layout, b_layout == Layout::row_major ? kN : kK};
    product.accumulate = accumulate;
    product.c = ours.data();
    if (!offers(provider, product)) continue;
    LentMemory workspace(matmul_workspace_bytes(product, team.size()));
    matmul(stream, product, workspace.all());
    product.c = theirs.data();
    matmul_with(provider, stream, product, workspace.all());
    for (int64_t i = 0; i < kM * kN; ++i) {
      ASSERT_NEAR(ours[i], theirs[i], 1e-4) << name_of(provider) << " element " << i;  // 131 terms of size 1 in fp32
    }
  }
}

TEST(Providers, AgreeInF32) {
  for (const Layout a : {Layout::row_major, Layout::column_major}) {
    for (const Layout b : {Layout::row_major, Layout::column_major}) {
      expect_agreement<float>(a, b, false);
      expect_agreement<float>(a, b, true);
    }
  }
}

TEST(Providers, AgreeInBf16) {
  for (const Layout a : {Layout::row_major, Layout::column_major}) {
    for (const Layout b : {Layout::row_major, Layout::column_major}) {
      expect_agreement<bf16>(a, b, false);
      expect_agreement<bf16>(a, b, true);
    }
  }
}

TEST(Providers, RefuseWhatTheyDoNotOffer) {
  device::WorkerTeam team(1);
  device::Stream stream(team);
  const float a = 1.0F, b = 2.0F, bias = 3.0F;
  float c = 0.0F;
  Matmul product;
  product.m = product.n = product.k = product.ldc = 1;
  product.a = {&a, Layout::row_major, 1};
  product.b = {&b, Layout::row_major, 1};
  product.c = &c;
  product.bias = &bias;
  EXPECT_FALSE(offers(Provider::openblas, product));
  EXPECT_THROW(matmul_with(Provider::openblas, stream, product, {}), Error);
  EXPECT_THROW(matmul_with(Provider::onednn, stream, product, {}), Error);
}

}  // namespace
}  // namespace ridgeline::ops

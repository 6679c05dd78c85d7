#include "ridgeline/comm/kernels.h"

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <bit>
#include <vector>

#include "ridgeline/base/random.h"

namespace ridgeline::comm::detail {
namespace {

template <typename In, typename Out>
std::vector<Out> converted(const std::vector<In>& in) {
  std::vector<Out> out(in.size());
  const int group = 1;
  const void* source = in.data();
  void* output = out.data();
  reduce({DTypeOf<In>::value,
          DTypeOf<Out>::value,
          ReduceOp::sum,
          {&group, 1},
          {&source, 1},
          {&output, 1},
          static_cast<int64_t>(in.size())});
  return out;
}

// Runs `body` on every instruction set that this processor has and the kernels are compiled for.
template <class Body>
void on_every_target(const Body& body) {
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    SCOPED_TRACE(hwy::TargetName(target));
    body();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

// Ranks on different machines must round alike.
TEST(Kernels, F16ConvertsLikeTheScalarTypeOnEveryInstructionSet) {
  std::vector<f16> halves(65536);
  for (uint32_t i = 0; i < 65536; ++i) halves[i].bits = static_cast<uint16_t>(i);
  std::vector<float> floats;
  for (uint32_t i = 0; i < 40000; ++i) {
    const uint32_t random = philox(3, {i, 0, 0, 0})[0];
    floats.push_back(std::bit_cast<float>(random));
    floats.push_back(std::bit_cast<float>((random & 0x807FFFFFU) | ((100 + i % 45) << 23)));           // 2^-27 to 2^17
    floats.push_back(std::bit_cast<float>((random & 0x80FFE000U) | ((50 + i % 23) << 24) | 0x1000U));  // ties
  }
  on_every_target([&] {
    const std::vector<float> wide = converted<f16, float>(halves);
    for (uint32_t i = 0; i < 65536; ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>(wide[i]), std::bit_cast<uint32_t>(static_cast<float>(halves[i]))) << i;
    }
    const std::vector<f16> narrow = converted<float, f16>(floats);
    for (size_t i = 0; i < floats.size(); ++i) ASSERT_EQ(narrow[i].bits, f16(floats[i]).bits) << floats[i];
  });
}

TEST(Kernels, F16AddsInFloatAndOverflowsToInfinity) {
  const int group = 3;
  const std::vector<f16> a(37, f16(60000.0F)), b(37, f16(30000.0F)), c(37, f16(-60000.0F));
  on_every_target([&] {
    for (const bool cancels : {true, false}) {
      const void* sources[] = {a.data(), b.data(), cancels ? c.data() : b.data()};
      std::vector<f16> out(37);
      void* output = out.data();
      reduce({DType::f16, DType::f16, ReduceOp::sum, {&group, 1}, sources, {&output, 1}, 37});
      // 90000 is no f16, but a partial sum is held in fp32.
      for (const f16 value : out) ASSERT_EQ(value.bits, cancels ? f16(30000.0F).bits : 0x7C00);
    }
  });
}

}  // namespace
}  // namespace ridgeline::comm::detail

// Measured ceilings: only what holds on any machine at any load.
#include "ridgeline/ops/cpu/peak.h"

#include <gtest/gtest.h>

namespace ridgeline::ops {
namespace {

using device::Isa;

TEST(Peak, EveryLevelRunsAndCountsItsOperations) {
  device::WorkerTeam team(1);
  const double clock = clock_hz();
  EXPECT_GT(clock, 1e8);
  EXPECT_LT(clock, 1e10);
  // Most operations per cycle and core that any CPU known does: two FMAs of 4, 8 or 16 lanes; two vdpbf16ps; one AMX
  // unit.
  const double most[] = {64, 64, 128, 256, 2048};
  for (const Isa level : {Isa::portable, Isa::avx2, Isa::avx512, Isa::avx512_bf16, Isa::amx_bf16}) {
    if (level > device::isa()) break;
    const double peak = peak_flops(DType::bf16, team, level);
    EXPECT_GT(peak, 1e8) << device::name_of(level);
    EXPECT_LT(peak, 1.5 * clock * most[static_cast<int>(level)]) << device::name_of(level);
  }
}

TEST(Peak, MemoryBandwidthOfEveryPatternIsPlausible) {
  device::WorkerTeam team(2);
  for (const MemoryPattern pattern : {MemoryPattern::read, MemoryPattern::copy, MemoryPattern::adam}) {
    const double bandwidth = memory_bandwidth(pattern, team, int64_t{16} << 20);
    EXPECT_GT(bandwidth, 1e7);
    EXPECT_LT(bandwidth, 1e13);
  }
}

}  // namespace
}  // namespace ridgeline::ops

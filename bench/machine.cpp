#include "bench/machine.h"

#include <fmt/format.h>

#include <cmath>

#include "ridgeline/device/cpu/features.h"
#include "ridgeline/ops/cpu/peak.h"

namespace ridgeline::bench {
namespace {

// FLOPs per cycle and core that cores of this instruction-set level can have; the one nearest to what was measured is
// the limit.
double instruction_limit(DType dtype, double measured) {
  std::vector<double> candidates;
  const device::Isa isa = device::isa();
  if (dtype == DType::bf16 && isa == device::Isa::amx_bf16) {
    candidates = {1024};  // a 16 x 16 x 32 tile product in 16 cycles
  } else if (dtype == DType::bf16 && isa == device::Isa::avx512_bf16) {
    candidates = {64, 128};  // one or two vdpbf16ps of 512 bits
  } else if (isa >= device::Isa::avx512) {
    candidates = {32, 64};  // one or two FMA of 512 bits
  } else if (isa >= device::Isa::avx2) {
    candidates = {16, 32};  // one or two FMA of 256 bits
  } else {
    candidates = {8, 16};  // one or two products and sums of 128 bits
  }
  double best = candidates.front();
  for (const double candidate : candidates) {
    if (std::fabs(std::log(candidate / measured)) < std::fabs(std::log(best / measured))) best = candidate;
  }
  return best;
}

}  // namespace

Machine measure_machine(device::WorkerTeam& team) {
  return {.fp32_flops = ops::peak_flops(DType::f32, team),
          .bf16_flops = ops::peak_flops(DType::bf16, team),
          .read = ops::memory_bandwidth(ops::MemoryPattern::read, team),
          .copy = ops::memory_bandwidth(ops::MemoryPattern::copy, team),
          .adam = ops::memory_bandwidth(ops::MemoryPattern::adam, team)};
}

std::vector<Row> machine_rows(int threads) {
  device::WorkerTeam team(threads);
  std::vector<Row> rows;
  const double clock = ops::clock_hz();
  rows.push_back({.name = "clock", .value = clock * 1e-9, .unit = "GHz"});
  const Machine machine = measure_machine(team);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const double flops = machine.flops(dtype);
    const double limit = instruction_limit(dtype, flops / clock / threads) * clock * threads;
    rows.push_back({.name = fmt::format("peak_{}", name_of(dtype)),
                    .value = flops * 1e-9,
                    .unit = "GFLOP/s",
                    .floor = limit * 1e-9,
                    .fraction = flops / limit});
  }
  rows.push_back({.name = "memory_read", .value = machine.read * 1e-9, .unit = "GB/s"});
  rows.push_back({.name = "memory_copy", .value = machine.copy * 1e-9, .unit = "GB/s"});
  rows.push_back({.name = "memory_adam", .value = machine.adam * 1e-9, .unit = "GB/s"});
  return rows;
}

}  // namespace ridgeline::bench

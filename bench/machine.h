// The ceilings of this machine: what every fraction is a fraction of.
#pragma once

#include <vector>

#include "bench/report.h"
#include "ridgeline/base/dtype.h"
#include "ridgeline/device/cpu/worker_team.h"

namespace ridgeline::bench {

struct Machine {
  double fp32_flops = 0, bf16_flops = 0;  // FLOP/s of the whole team
  double read = 0, copy = 0,
         adam = 0;  // bytes/s: one stream read; one read and one written; four read and three written back

  double flops(DType dtype) const { return dtype == DType::bf16 ? bf16_flops : fp32_flops; }
};

Machine measure_machine(device::WorkerTeam& team);

// Rows: peaks beside the instruction limit of the core at the measured clock, bandwidths.
std::vector<Row> machine_rows(int threads);

}  // namespace ridgeline::bench

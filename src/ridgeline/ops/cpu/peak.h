// What this machine can do at most, measured: the ceilings that speeds are divided by.
#pragma once

#include <cstdint>

#include "ridgeline/base/dtype.h"
#include "ridgeline/device/cpu/features.h"
#include "ridgeline/device/cpu/worker_team.h"

namespace ridgeline::ops {

// Floating-point operations per second of all members of `team` together, with the instruction that is fastest here for
// products of `dtype` (f32 or bf16, fp32 accumulation), operands in registers: best of several short runs (about 0.1
// s), by processor time, so that other processes do not lower it. A multiply-add counts as two.
// Operands are random numbers but stay in registers. For AMX that is more than a product can have: on a Granite Rapids
// the clock falls from 3.09 to 2.49 GHz as soon as two of four tile products take freshly loaded tiles that are not all
// zero (one load per product is the least that eight tiles allow), so no product passes 0.81 of this peak there.
double peak_flops(DType dtype, device::WorkerTeam& team);
double peak_flops(DType dtype, device::WorkerTeam& team, device::Isa isa);  // at a lower level; isa <= device::isa()

// Cycles per second of the calling thread's core while it works, from a chain of dependent integer multiplications
// (three cycles each on every x86 core since 2008; an addition chain would not do: recent cores fold it while
// renaming).
double clock_hz();

// Bytes per second that the program asks for, all members together, on huge-page buffers holding random data: best of
// several passes. `bytes`: size of all arrays together; should exceed the last-level cache that the process can fill.
enum class MemoryPattern {
  read,  // one stream read
  copy,  // one read, one written past the caches where the processor can
  adam   // four read, three of them written back
};
double memory_bandwidth(MemoryPattern pattern, device::WorkerTeam& team, int64_t bytes = int64_t{1} << 30);

}  // namespace ridgeline::ops

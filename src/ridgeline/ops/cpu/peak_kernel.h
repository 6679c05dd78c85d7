// Loops behind peak.h, one translation unit per instruction set. Plain data only, as in matmul_kernel.h.
#pragma once

#include <cstdint>

namespace ridgeline::ops::cpu {

constexpr int64_t kPeakDataBytes = 4096;

struct PeakKernel {
  // Runs `rounds` rounds of independent multiply-adds on registers, with operands from kPeakDataBytes at `data`.
  void (*multiply_add)(int64_t rounds, const void* data);
  int64_t flops_per_round;
};

const PeakKernel& peak_kernel_avx2();         // f32
const PeakKernel& peak_kernel_avx512();       // f32
const PeakKernel& peak_kernel_avx512_bf16();  // vdpbf16ps
const PeakKernel& peak_kernel_amx_bf16();     // tdpbf16ps

}  // namespace ridgeline::ops::cpu

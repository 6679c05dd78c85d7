// What this CPU can do: read once, used for run-time dispatch of hand-written kernels and shown by `ridgeline
// --version`.
#pragma once

namespace ridgeline::device {

// Instruction-set level of the hand-written kernels, each including those before it.
enum class Isa {
  portable,     // plain C++
  avx2,         // AVX2 + FMA + F16C
  avx512,       // AVX-512 F, BW, DQ, VL
  avx512_bf16,  // + vdpbf16ps
  amx_bf16      // + AMX tiles with tdpbf16ps (permission asked of the kernel)
};

// The highest level this CPU and kernel offer, lowered to RIDGELINE_ISA (portable | avx2 | avx512 | avx512_bf16 |
// amx_bf16) when that is set in the environment. Constant for the life of the process.
Isa isa();
const char* name_of(Isa isa);

}  // namespace ridgeline::device

// What this CPU can do: read once, used for run-time dispatch of hand-written kernels and shown by `ridgeline
// --version`.
#pragma once

#include <string>
#include <vector>

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

// "Intel(R) Xeon(R) ..., 2 CPUs, amx_bf16" and the raw model name.
std::string cpu_model_name();
int cpu_count();  // CPUs that this process may run on

// The CPUs of thread rank `rank` of `ranks` with `threads` threads each, when together they fill exactly the CPUs that
// this process may use; else empty: then the scheduler knows better. Kernels were seen to leave two busy threads on one
// CPU for milliseconds while another stood idle.
std::vector<int> cpus_of_rank(int rank, int ranks, int threads);
// Binds the calling thread to one CPU. Failure is no error.
void pin_thread(int cpu);
// Lets the calling thread run on every CPU that the process may use: threads inherit the bounds of who starts them.
void unpin_thread();

}  // namespace ridgeline::device

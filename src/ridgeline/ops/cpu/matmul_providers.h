// The same matrix product by other libraries: cross-check and yardstick, linked by tests and benchmarks only.
#pragma once

#include <vector>

#include "ridgeline/ops/matmul.h"

namespace ridgeline::ops {

enum class Provider { ridgeline, openblas, onednn };
const char* name_of(Provider provider);

// What this build offers, ours first.
std::vector<Provider> providers();

// C = A B or C += A B as `matmul` does, on `threads` threads. Other providers take no bias, epilogue or row sums;
// OpenBLAS only f32; oneDNN f32, and bf16 (C f32 or bf16) where the processor has AVX-512. They allocate, keep compiled
// primitives between calls, and bring their own threads. Throws Error for what a provider does not offer.
void matmul_with(Provider provider, device::Stream& stream, const Matmul& product, Workspace workspace);
bool offers(Provider provider, const Matmul& product);

}  // namespace ridgeline::ops

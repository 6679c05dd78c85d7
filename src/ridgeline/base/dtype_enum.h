// The element types by name alone. Plain data, with nothing inline: kernels that are compiled for an instruction set
// which the running CPU may lack include this (ops/cpu/matmul_kernel.h says why), everybody else base/dtype.h.
#pragma once

#include <cstdint>

namespace ridgeline {

enum class DType : uint8_t { f32, bf16, f16, f64, u8, u16, i32, i64 };

}  // namespace ridgeline

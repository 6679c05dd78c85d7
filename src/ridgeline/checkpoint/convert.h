// Bulk conversion between storage types, for tensors on their way from and to files.
#pragma once

#include <cstdint>

#include "ridgeline/base/dtype.h"

namespace ridgeline::checkpoint {

// True when `convert` can turn one into the other: equal types, or any two of f32, bf16, f16, f64.
bool convertible(DType from, DType to);

// to[i] = from[i] for i < count. Equal dtypes are copied bit for bit; narrowing rounds to nearest, ties to even
// (overflow to infinity, subnormals kept, NaN stays NaN); f64 to a 16-bit type rounds once through f32 first. Neither
// side need be aligned; they must not overlap. Pairs that are not convertible are a broken invariant.
void convert(ConstRef from, Ref to, int64_t count);

}  // namespace ridgeline::checkpoint

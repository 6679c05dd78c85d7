// The arithmetic and copying of collectives: one block of elements of every rank at a time, vectorised, dispatched to
// the CPU's instruction set at run time. The result does not depend on the instruction set or on how a buffer is cut.
#pragma once

#include <cstdint>
#include <span>

#include "ridgeline/base/dtype.h"
#include "ridgeline/comm/communicator.h"

namespace ridgeline::comm::detail {

// outputs[j][i] = reduction over r of sources[r][i] for i in [0, count) and every j.
//
// Sum: sources are taken in consecutive runs of group_sizes[0], group_sizes[1], … (adding up to sources.size()); each
// run is added in ascending order, then the run sums in ascending order. bf16 and f16 add in fp32 and round once;
// f32, f64 and i64 (wrapping) add in their own type. Max and min: a NaN in any source gives NaN. `input` to `output` is
// one of f32, bf16, f16, f64, i64 to itself, bf16 or f16 to f32, f32 to bf16 or f16. Outputs may be among the sources
// (exactly the same address and dtype); otherwise nothing may overlap.
struct Reduction {
  DType input, output;
  ReduceOp op;
  std::span<const int> group_sizes;
  std::span<const void* const> sources;
  std::span<void* const> outputs;
  int64_t count;
};
void reduce(const Reduction& reduction);

// The dtypes that reduce, and what their sums are held in (f32 for bf16 and f16, else the same).
bool reducible(DType dtype);
DType accumulator(DType dtype);

// Copies `bytes` from source to each of the outputs (none overlapping), reading the source from memory once.
// `streaming`: outputs will not be read soon, write past the caches; complete on return.
void copy(const void* source, std::span<void* const> outputs, int64_t bytes, bool streaming);

}  // namespace ridgeline::comm::detail

// Checks that every operator makes of its arguments.
#pragma once

#include "ridgeline/base/dtype.h"
#include "ridgeline/base/error.h"
#include "ridgeline/ops/index_range.h"

namespace ridgeline::ops::cpu {

inline bool is_float(DType dtype) {
  return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16;
}
inline void require_float(ConstRef x) {
  RL_REQUIRE(is_float(x.dtype), "dtype {}", name_of(x.dtype));
}
inline void require_one_dtype(ConstRef a, ConstRef b) {
  RL_CHECK(name_of(a.dtype), ==, name_of(b.dtype));
}
inline void require_range(const IndexRange& range) {
  RL_CHECK(range.first, >=, 0);
  RL_CHECK(range.count, >=, 0);
  RL_CHECK(range.first, <=, range.whole - range.count);
}

}  // namespace ridgeline::ops::cpu

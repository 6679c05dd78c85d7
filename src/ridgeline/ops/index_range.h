// Consecutive indices of a dimension that several hold together: rows of a table, columns of logits.
#pragma once

#include <cstdint>

namespace ridgeline::ops {

// Indices [first, first + count) of [0, whole); count may be 0.
struct IndexRange {
  int64_t first, count, whole;

  static constexpr IndexRange all(int64_t whole) { return {0, whole, whole}; }
  constexpr bool holds(int64_t index) const { return index >= first && index < first + count; }
};

}  // namespace ridgeline::ops

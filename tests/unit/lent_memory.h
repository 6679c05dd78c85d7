// Memory to lend to an operator under test.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ridgeline/ops/workspace.h"

namespace ridgeline::ops {

class LentMemory {
 public:
  explicit LentMemory(int64_t bytes)
      : bytes_(bytes), lines_(static_cast<size_t>(bytes / static_cast<int64_t>(sizeof(Line)) + 1)) {}
  Workspace all() { return {lines_.data(), bytes_}; }

 private:
  struct alignas(Workspace::kAlignment) Line {
    std::byte bytes[Workspace::kAlignment];
  };
  int64_t bytes_;
  std::vector<Line> lines_;
};

}  // namespace ridgeline::ops

// Scratch memory that a caller lends to an operator, with its size: an operator that needs more than it was lent would
// write over whatever lies behind, so every operator that takes one checks it, in release builds too. The functions
// named ..._workspace_bytes say how many; contents are undefined before and after.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ridgeline/base/error.h"

namespace ridgeline::ops {

struct Workspace {
  static constexpr int64_t kAlignment = 64;

  void* data = nullptr;
  int64_t bytes = 0;

  // The memory, when it holds `needed` bytes and is aligned; else aborts: who lent it asked for another product, or for
  // another team. `needed` = 0 needs no memory at all.
  std::byte* require(int64_t needed, const char* operation, int team_size) const {
    RL_REQUIRE(needed <= bytes, "{} needs {} bytes of workspace on a team of {}, but was lent {}", operation, needed,
               team_size, bytes);
    RL_REQUIRE(needed == 0 || (data != nullptr && reinterpret_cast<uintptr_t>(data) % kAlignment == 0),
               "{}: workspace at {} is not aligned to {} bytes", operation, data, kAlignment);
    return static_cast<std::byte*>(data);
  }
};

}  // namespace ridgeline::ops

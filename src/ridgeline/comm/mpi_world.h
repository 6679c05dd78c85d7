// A rank that is a process started by an MPI launcher.
#pragma once

#include <vector>

#include "ridgeline/comm/rank_world.h"
#include "ridgeline/comm/shared_memory.h"

namespace ridgeline::comm::detail {

class MpiWorld : public RankWorld {
 public:
  using RankWorld::RankWorld;
  const char* backend() const override { return "mpi"; }
  std::span<std::byte> peer_visible(int64_t bytes) override;

 private:
  std::vector<SharedMemory> regions_;  // own and peers'
};

}  // namespace ridgeline::comm::detail

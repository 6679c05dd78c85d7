// A rank that is a process started by an MPI launcher.
#pragma once

#include <vector>

#include "ridgeline/comm/rank_world.h"
#include "ridgeline/comm/shared_memory.h"

namespace ridgeline::comm::detail {

class MpiWorld : public RankWorld {
 public:
  // `hosts`: how many the world has.
  MpiWorld(Host& host, int local, int hosts) : RankWorld(host, local), hosts_(hosts) {}
  const char* backend() const override { return "mpi"; }
  std::span<std::byte> peer_visible(int64_t bytes) override;

 protected:
  std::unique_ptr<Communicator> wide_communicator(std::span<const int> ranks, std::string_view name,
                                                  uint64_t key) override;
  bool must_poll() const override { return hosts_ > 1; }

 private:
  int hosts_;
  std::vector<SharedMemory> regions_;  // own and peers'
};

}  // namespace ridgeline::comm::detail

// A rank that is a process started by an MPI launcher.
#pragma once

#include <vector>

#include "ridgeline/comm/rank_world.h"
#include "ridgeline/comm/shared_memory.h"

namespace ridgeline::comm::detail {

class MpiWorld : public RankWorld {
 public:
  // `hosts`: the first rank of every host, ascending.
  MpiWorld(Host& host, int local, std::vector<int> hosts) : RankWorld(host, local), hosts_(std::move(hosts)) {}
  const char* backend() const override { return "mpi"; }
  std::span<std::byte> peer_visible(int64_t bytes) override;

  // After this host failed: tells the other hosts, once. Waits a moment for the messages to leave, no longer.
  void tell_other_hosts() noexcept;

 protected:
  std::unique_ptr<Communicator> wide_communicator(std::span<const int> ranks, std::string_view name,
                                                  uint64_t key) override;
  bool background() override;
  bool must_poll() const override { return hosts_.size() > 1; }

 private:
  std::vector<int> hosts_;
  std::vector<SharedMemory> regions_;  // own and peers'
  int64_t looked_ = 0;
};

}  // namespace ridgeline::comm::detail

// A rank that is a process.
#pragma once

#include <vector>

#include "ridgeline/comm/hosts.h"
#include "ridgeline/comm/rank_world.h"
#include "ridgeline/comm/shared_memory.h"
#include "ridgeline/comm/wire.h"

namespace ridgeline::comm::detail {

class ProcessWorld : public RankWorld {
 public:
  ProcessWorld(Wire& wire, Host& host, int local, const Hosts& hosts);
  const char* backend() const override { return wire_.name(); }
  std::span<std::byte> peer_visible(int64_t bytes) override;
  int host_of(int rank) const override { return host_of_[static_cast<size_t>(rank)]; }

 protected:
  std::unique_ptr<Communicator> wide_communicator(std::span<const int> ranks, std::string_view name,
                                                  uint64_t key) override;
  bool must_poll() const override { return several_hosts_; }

 private:
  std::unique_ptr<Channel> channel(std::span<const int> ranks, std::string_view name, uint64_t key);

  Wire& wire_;
  bool several_hosts_;
  std::vector<int> host_of_;           // every rank
  std::vector<SharedMemory> regions_;  // own and peers'
};

}  // namespace ridgeline::comm::detail

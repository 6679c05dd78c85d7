#include "ridgeline/comm/process_world.h"

#include <fmt/format.h>

#include "ridgeline/base/error.h"
#include "ridgeline/comm/waiting_call.h"
#include "ridgeline/comm/wide_communicator.h"

namespace ridgeline::comm::detail {

ProcessWorld::ProcessWorld(Wire& wire, Host& host, int local, const Hosts& hosts)
    : RankWorld(host, local), wire_(wire), several_hosts_(hosts.ranks.size() > 1), host_of_(hosts.processes.size()) {
  for (size_t number = 0; number < hosts.ranks.size(); ++number) {
    for (const int rank : hosts.ranks[number]) host_of_[static_cast<size_t>(rank)] = static_cast<int>(number);
  }
}

std::unique_ptr<Communicator> ProcessWorld::wide_communicator(std::span<const int> ranks, std::string_view name,
                                                              uint64_t key) {
  std::vector<int> hosts;
  for (const int rank : ranks) hosts.push_back(host_of_[static_cast<size_t>(rank)]);
  return std::make_unique<WideCommunicator>(*this, channel(ranks, name, key), ranks, hosts, name, key);
}

std::unique_ptr<Channel> ProcessWorld::channel(std::span<const int> ranks, std::string_view name, uint64_t key) {
  const WaitingCall call(host(), local(), ranks, fmt::format("the start of communicator '{}'", name));
  return wire_.channel(ranks, key);
}

std::span<std::byte> ProcessWorld::peer_visible(int64_t bytes) {
  check_failed();
  const int region = host().next_region();
  RL_REQUIRE(region < kRegions, "peer_visible is called once or twice, not {} times", region + 1);
  try {
    SharedMemory own = SharedMemory::create("ridgeline", bytes, true);
    host().state(local()).region_bytes[region].store(own.size());
    host().state(local()).region_file[region].store(own.file());
    host().barrier("peer_visible");
    host().add_region(local(), region, own.data(), own.size());
    const std::span<std::byte> result(own.data(), static_cast<size_t>(bytes));
    regions_.push_back(std::move(own));
    const size_t mine = regions_.size() - 1;
    for (int peer = 0; peer < host().ranks(); ++peer) {
      if (peer == local()) continue;
      const RankState& state = host().state(peer);
      SharedMemory theirs = SharedMemory::attach(state.process.load(), state.region_file[region].load(),
                                                 state.region_bytes[region].load());
      host().add_region(peer, region, theirs.data(), theirs.size());
      regions_.push_back(std::move(theirs));
    }
    host().region_added();
    host().barrier("peer_visible");
    regions_[mine].close_file();
    return result;
  } catch (const RankFailure&) {
    throw;
  } catch (const Error& error) {
    RankWorld::fail(error.message(), error.next_step());
    host().throw_failure();
  }
}

}  // namespace ridgeline::comm::detail

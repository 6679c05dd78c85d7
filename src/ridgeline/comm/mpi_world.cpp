#include "ridgeline/comm/mpi_world.h"

#include <fmt/format.h>
#include <mpi.h>
#include <unistd.h>

#include <cstring>

#include "ridgeline/base/error.h"
#include "ridgeline/comm/wide_communicator.h"

namespace ridgeline::comm::detail {
namespace {

constexpr int kFailureTag = 32'000;
constexpr int64_t kLookNanoseconds = 5'000'000;

// A failure on its way to another host.
struct FailureMessage {
  int32_t rank;
  char host[64], operation[192], what[1024], next[512];
};
template <size_t kChars>
void put(char (&field)[kChars], const std::string& text) {
  std::strncpy(field, text.c_str(), kChars - 1);
}

}  // namespace

std::unique_ptr<Communicator> MpiWorld::wide_communicator(std::span<const int> ranks, std::string_view name,
                                                          uint64_t key) {
  return std::make_unique<WideCommunicator>(*this, ranks, name, key);
}

// The first rank of a host listens for failures elsewhere while it waits.
bool MpiWorld::background() {
  if (hosts_.size() < 2 || local() != 0) return false;
  const int64_t now = steady_nanoseconds();
  if (now - looked_ < kLookNanoseconds) return false;
  looked_ = now;
  int there = 0;
  MPI_Iprobe(MPI_ANY_SOURCE, kFailureTag, MPI_COMM_WORLD, &there, MPI_STATUS_IGNORE);
  if (there == 0) return false;
  FailureMessage message{};
  MPI_Recv(&message, sizeof(message), MPI_BYTE, MPI_ANY_SOURCE, kFailureTag, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
  host().board().relayed.store(1);  // everybody knows
  host().fail({.rank = message.rank,
               .host = message.host,
               .operation = message.operation,
               .what = message.what,
               .next = message.next},
              true);
  host().throw_failure();
}

void MpiWorld::tell_other_hosts() noexcept {
  try {
    if (hosts_.size() < 2 || host().board().relayed.exchange(1) != 0) return;
    const Failure failure = host().failure();
    FailureMessage message{};
    message.rank = failure.rank;
    put(message.host, failure.host);
    put(message.operation, failure.operation);
    put(message.what, failure.what);
    put(message.next, failure.next);
    std::vector<MPI_Request> requests;
    for (const int first : hosts_) {
      if (first == host().world_rank(0)) continue;
      MPI_Isend(&message, sizeof(message), MPI_BYTE, first, kFailureTag, MPI_COMM_WORLD, &requests.emplace_back());
    }
    int done = 0;
    for (int i = 0; i < 100 && done == 0; ++i) {
      MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE);
      if (done == 0) ::usleep(1000);
    }
  } catch (...) {
    // The others find out by their own timeouts and their launcher.
  }
}

std::span<std::byte> MpiWorld::peer_visible(int64_t bytes) {
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

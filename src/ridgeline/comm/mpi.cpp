// Ranks as processes started by mpirun or srun. MPI finds out who is where and carries what goes between hosts; ranks
// of one host meet in shared memory and make no MPI call after start-up.
#include <fmt/format.h>
#include <mpi.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "ridgeline/base/error.h"
#include "ridgeline/comm/mpi_world.h"
#include "ridgeline/comm/sentinel.h"

namespace ridgeline::comm {
namespace {

using detail::Host;
using detail::HostSetup;
using detail::LifePipe;
using detail::MpiWorld;
using detail::Sentinel;
using detail::SharedMemory;

constexpr int64_t kStageBytes = 1 << 20;  // per rank and communicator, twice

// What every rank tells every other at start-up.
struct Introduction {
  char host[64];
  int32_t pretended_host;  // tests cut one machine into hosts by RIDGELINE_RANKS_PER_HOST
  int32_t process;
};

Introduction introduce(int rank) {
  Introduction self{};
  ::gethostname(self.host, sizeof(self.host) - 1);
  self.process = ::getpid();
  if (const char* per_host = std::getenv("RIDGELINE_RANKS_PER_HOST")) {
    const int count = std::atoi(per_host);
    if (count > 0) self.pretended_host = rank / count;
  }
  return self;
}

bool same_host(const Introduction& left, const Introduction& right) {
  return std::strcmp(left.host, right.host) == 0 && left.pretended_host == right.pretended_host;
}

// True on every rank when it is true on each.
bool all_agree(bool here, int size) {
  std::vector<char> everyone(static_cast<size_t>(size));
  const char mine = here ? 1 : 0;
  MPI_Allgather(&mine, 1, MPI_CHAR, everyone.data(), 1, MPI_CHAR, MPI_COMM_WORLD);
  for (const char one : everyone) {
    if (one == 0) return false;
  }
  return true;
}

// The host's shared control memory: made by its first rank, attached by the others. Collective over all ranks.
SharedMemory control_memory(const std::vector<Introduction>& ranks, const std::vector<int>& host_ranks, int rank) {
  const auto size = static_cast<int>(ranks.size());
  const int64_t bytes = Host::memory_bytes(static_cast<int>(host_ranks.size()), true);
  SharedMemory memory;
  std::string problem, next;
  const auto attempt = [&](auto make) {
    try {
      memory = make();
    } catch (const Error& error) {
      problem = error.message();
      next = error.next_step();
    }
  };
  if (host_ranks.front() == rank) attempt([&] { return SharedMemory::create("ridgeline-control", bytes, false); });
  std::vector<int> files(ranks.size());
  const int file = memory.file();
  MPI_Allgather(&file, 1, MPI_INT, files.data(), 1, MPI_INT, MPI_COMM_WORLD);
  const auto first = static_cast<size_t>(host_ranks.front());
  if (host_ranks.front() != rank && files[first] >= 0) {
    attempt([&] { return SharedMemory::attach(ranks[first].process, files[first], bytes); });
  }
  if (!all_agree(memory.data() != nullptr, size)) {
    throw Error(problem.empty() ? "another rank could not set up shared memory" : problem, next);
  }
  memory.close_file();
  return memory;
}

// Returns when every rank of this host has returned from the body, or throws the failure. No timeout: a last
// checkpoint may take its time.
void await_departure(const Host& host) {
  for (int local = 0; local < host.ranks(); ++local) {
    for (int64_t naps = 0; host.state(local).departed.load(std::memory_order_acquire) == 0; ++naps) {
      if (host.failed()) host.throw_failure();
      ::usleep(naps < 20 ? 100 : 5000);
    }
  }
}

}  // namespace

void run_mpi(const WorldOptions& options, const std::function<void(World&)>& body) {
  int initialized = 0;
  MPI_Initialized(&initialized);
  if (initialized != 0) throw Error("run_mpi was called twice in one process", "MPI can be started only once.");
  int level = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &level);
  int rank = 0, size = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  std::vector<Introduction> ranks(static_cast<size_t>(size));
  const Introduction self = introduce(rank);
  MPI_Allgather(&self, sizeof(self), MPI_BYTE, ranks.data(), sizeof(self), MPI_BYTE, MPI_COMM_WORLD);

  HostSetup setup;
  for (int other = 0; other < size; ++other) {
    if (same_host(ranks[static_cast<size_t>(other)], self)) setup.world_ranks.push_back(other);
  }
  std::vector<int> hosts;  // first rank of each
  for (int other = 0; other < size; ++other) {
    bool first = true;
    for (const int earlier : hosts)
      first = first && !same_host(ranks[static_cast<size_t>(other)], ranks[static_cast<size_t>(earlier)]);
    if (first) hosts.push_back(other);
  }
  const bool first_here = setup.world_ranks.front() == rank;
  SharedMemory memory = control_memory(ranks, setup.world_ranks, rank);
  setup.memory = memory.data();
  setup.bytes = memory.size();
  setup.world_size = size;
  setup.processes = true;
  setup.stage_bytes = kStageBytes;
  setup.host_name = self.host;
  setup.options = options;
  Host host(std::move(setup));
  host.state(host.local_rank(rank)).process.store(self.process);
  LifePipe life(host.state(host.local_rank(rank)));
  std::unique_ptr<Sentinel> sentinel;
  try {
    host.barrier("start");
    if (first_here) sentinel = std::make_unique<Sentinel>(host);
    host.barrier("start");
    life.watched();
    MpiWorld world(host, host.local_rank(rank), hosts);
    const struct Relay {
      MpiWorld& world;
      Host& host;
      ~Relay() {
        if (host.failed()) world.tell_other_hosts();
      }
    } relay{world, host};
    try {
      body(world);
    } catch (const RankFailure&) {
      throw;
    } catch (const Refusal& error) {
      world.refuse(error);
      throw;
    } catch (const Error& error) {
      world.RankWorld::fail(error.message(), error.next_step());
      throw;
    } catch (const std::exception& error) {
      world.fail(error.what());
      throw;
    } catch (...) {
      world.fail("threw something that is not an exception");
      throw;
    }
    host.state(world.local()).departed.store(1, std::memory_order_release);
    await_departure(host);
  } catch (...) {
    if (!host.failed()) throw;
    // No MPI_Finalize: it would wait for ranks that are gone. The launcher sees a process that left without it and ends
    // the others.
    host.throw_to_program(false);
  }
  sentinel.reset();
  MPI_Finalize();
}

}  // namespace ridgeline::comm

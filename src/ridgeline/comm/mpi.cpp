// Ranks as processes started by mpirun or srun. MPI finds out who is where and carries what goes between hosts; ranks
// of one host meet in shared memory and make no MPI call after start-up.
#include <fmt/format.h>
#include <mpi.h>
#include <signal.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ridgeline/base/error.h"
#include "ridgeline/comm/mpi_hosts.h"
#include "ridgeline/comm/mpi_world.h"
#include "ridgeline/comm/sentinel.h"

namespace ridgeline::comm {
namespace {

using detail::ControlListener;
using detail::ControlSetup;
using detail::Host;
using detail::HostSetup;
using detail::LifePipe;
using detail::MpiHosts;
using detail::MpiWorld;
using detail::Sentinel;
using detail::SharedMemory;

constexpr int64_t kStageBytes = 1 << 20;  // per rank and communicator, twice

constexpr unsigned kFinalizeSeconds = 5;

// The host's shared control memory: made by its first rank, attached by the others. Collective over all ranks.
SharedMemory control_memory(const MpiHosts& hosts, int rank, int size) {
  const std::vector<int>& here = hosts.ranks[static_cast<size_t>(hosts.own)];
  const int64_t bytes = Host::memory_bytes(static_cast<int>(here.size()), true);
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
  if (here.front() == rank) attempt([&] { return SharedMemory::create("ridgeline-control", bytes, false); });
  std::vector<int> files(static_cast<size_t>(size));
  const int file = memory.file();
  MPI_Allgather(&file, 1, MPI_INT, files.data(), 1, MPI_INT, MPI_COMM_WORLD);
  const auto first = static_cast<size_t>(here.front());
  if (here.front() != rank && files[first] >= 0) {
    attempt([&] { return SharedMemory::attach(hosts.processes[first], files[first], bytes); });
  }
  if (detail::first_with_problem(memory.data() == nullptr, size) >= 0) {
    throw Error(problem.empty() ? "another rank could not set up shared memory" : problem, next);
  }
  memory.close_file();
  return memory;
}

HostSetup host_setup(const MpiHosts& hosts, const SharedMemory& memory, const WorldOptions& options) {
  HostSetup setup;
  setup.memory = memory.data();
  setup.bytes = memory.size();
  setup.world_ranks = hosts.ranks[static_cast<size_t>(hosts.own)];
  setup.world_size = static_cast<int>(hosts.processes.size());
  setup.processes = true;
  setup.stage_bytes = kStageBytes;
  setup.host_name = hosts.name;
  setup.hosts = static_cast<int>(hosts.ranks.size());
  setup.processors = hosts.processors;
  setup.ranks_on_processors = hosts.ranks_on_processors;
  setup.options = options;
  return setup;
}

// What `make` returns, or the Error that it throws.
template <typename Make>
std::optional<Error> problem_of(const Make& make) {
  try {
    make();
  } catch (const Error& error) {
    return error;
  }
  return std::nullopt;
}

// The host's ranks are watched over, and hosts connected with each other, or every rank throws why not.
void start_watch(Host& host, const MpiHosts& hosts, LifePipe& life, int rank) {
  const int size = host.world_size();
  const bool first_here = host.world_rank(0) == rank;
  std::unique_ptr<ControlListener> listener;
  const char* interface = std::getenv("RIDGELINE_INTERFACE");
  agree(host, hosts, problem_of([&] {
          if (!first_here || hosts.ranks.size() == 1) return;
          listener = std::make_unique<ControlListener>(interface == nullptr ? "" : interface, hosts.pretended);
        }),
        rank, size);
  const ControlSetup setup = control_setup(hosts, host.options(), listener.get(), rank);
  host.barrier("start");
  std::unique_ptr<Sentinel> sentinel;
  std::optional<Error> problem;
  if (first_here) problem = problem_of([&] { sentinel = std::make_unique<Sentinel>(host, setup); });
  host.barrier("start");
  life.watched(host);
  if (sentinel) problem = sentinel->connected();
  agree(host, hosts, problem, rank, size);
}

void run_body(MpiWorld& world, const std::function<void(World&)>& body) {
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
}

// Returns when every rank of every host has returned from the body, or throws the failure. No timeout: a last
// checkpoint may take its time.
void depart(const Host& host, int local) {
  host.state(local).departed.store(1, std::memory_order_release);
  host.ring_watcher();
  for (int64_t naps = 0; host.board().everyone_departed.load(std::memory_order_acquire) == 0; ++naps) {
    if (host.failed()) host.throw_failure();
    // It leaves after it has said so.
    if (host.watcher_is_gone() && host.board().everyone_departed.load(std::memory_order_acquire) == 0) {
      host.fail_unwatched();
    }
    ::usleep(naps < 20 ? 100 : 5000);
  }
}

// For a signal handler.
volatile std::sig_atomic_t exit_status_of_hang = 0;

// All is done and written: a rank that hangs here leaves all the same.
void finalize(const WorldOptions& options) {
  exit_status_of_hang = options.exit_status ? options.exit_status() : 0;
  std::fflush(nullptr);
  struct sigaction leave {};
  struct sigaction before {};
  leave.sa_handler = [](int) { ::_exit(exit_status_of_hang); };
  ::sigaction(SIGALRM, &leave, &before);
  ::alarm(kFinalizeSeconds);
  MPI_Finalize();
  ::alarm(0);
  ::sigaction(SIGALRM, &before, nullptr);
}

}  // namespace

const char* slurm_mpi_flag() {
#ifdef OPEN_MPI
  return "pmix";
#else
  return "pmi2";
#endif
}

void run_mpi(const WorldOptions& given, const std::function<void(World&)>& body) {
  int initialized = 0;
  MPI_Initialized(&initialized);
  if (initialized != 0) throw Error("run_mpi was called twice in one process", "MPI can be started only once.");
  int level = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &level);
  // What goes wrong is said by us, once, and not by MPI on every rank.
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  int rank = 0, size = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  if (size == 1) require_company();
  // What the ranks' communicators send must fit together before anybody can compare configurations.
  WorldOptions options = given;
  MPI_Bcast(&options.sum_group, 1, MPI_INT, 0, MPI_COMM_WORLD);
  const MpiHosts hosts = detail::find_hosts(rank, size, options.processors);
  const SharedMemory memory = control_memory(hosts, rank, size);
  Host host(host_setup(hosts, memory, options));
  const int local = host.local_rank(rank);
  host.state(local).process.store(hosts.processes[static_cast<size_t>(rank)]);
  LifePipe life(host.state(local));
  try {
    start_watch(host, hosts, life, rank);
    MpiWorld world(host, local, hosts);
    run_body(world, body);
    depart(host, local);
  } catch (...) {
    if (!host.failed()) throw;
    // No MPI_Finalize: it would wait for ranks that are gone. The launcher sees a process that left without it and ends
    // the others.
    host.throw_to_program(false);
  }
  finalize(options);
}

}  // namespace ridgeline::comm

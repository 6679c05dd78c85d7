#include "ridgeline/comm/process.h"

#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <optional>
#include <string>

#include "ridgeline/base/error.h"
#include "ridgeline/comm/hosts.h"
#include "ridgeline/comm/process_world.h"
#include "ridgeline/comm/sentinel.h"
#include "ridgeline/comm/shared_memory.h"

namespace ridgeline::comm::detail {
namespace {

constexpr int64_t kProcessStageBytes = 1 << 20;  // per rank and communicator, twice

// The host's shared control memory: made by its first rank, attached by the others. Collective over all ranks.
SharedMemory control_memory(Wire& wire, const Hosts& hosts) {
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
  if (here.front() == wire.rank()) attempt([&] { return SharedMemory::create("ridgeline-control", bytes, false); });
  const std::vector<int> files = all_gather(wire, memory.file());
  const auto first = static_cast<size_t>(here.front());
  if (here.front() != wire.rank() && files[first] >= 0) {
    attempt([&] { return SharedMemory::attach(hosts.processes[first], files[first], bytes); });
  }
  if (first_with_problem(wire, memory.data() == nullptr) >= 0) {
    throw Error(problem.empty() ? "another rank could not set up shared memory" : problem, next);
  }
  memory.close_file();
  return memory;
}

HostSetup host_setup(const Hosts& hosts, const SharedMemory& memory, const WorldOptions& options) {
  HostSetup setup;
  setup.memory = memory.data();
  setup.bytes = memory.size();
  setup.world_ranks = hosts.ranks[static_cast<size_t>(hosts.own)];
  setup.world_size = static_cast<int>(hosts.processes.size());
  setup.processes = true;
  setup.stage_bytes = kProcessStageBytes;
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
void start_watch(Wire& wire, Host& host, const Hosts& hosts, LifePipe& life) {
  const bool first_here = host.world_rank(0) == wire.rank();
  std::unique_ptr<ControlListener> listener;
  agree(wire, host, hosts, problem_of([&] {
          if (!first_here || hosts.ranks.size() == 1) return;
          listener = std::make_unique<ControlListener>(chosen_interface(), hosts.pretended);
        }));
  const ControlSetup setup = control_setup(wire, hosts, host.options(), listener.get());
  host.barrier("start");
  std::unique_ptr<Sentinel> sentinel;
  std::optional<Error> problem;
  if (first_here) problem = problem_of([&] { sentinel = std::make_unique<Sentinel>(host, setup); });
  host.barrier("start");
  life.watched(host);
  if (sentinel) problem = sentinel->connected();
  agree(wire, host, hosts, problem);
}

void run_body(ProcessWorld& world, const std::function<void(World&)>& body) {
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

}  // namespace

void run_process(Wire& wire, const WorldOptions& given, const std::function<void(World&)>& body) {
  // What the ranks' communicators send must fit together before anybody can compare configurations.
  WorldOptions options = given;
  wire.broadcast(&options.sum_group, sizeof(options.sum_group), 0);
  const Hosts hosts = find_hosts(wire, options.processors);
  const SharedMemory memory = control_memory(wire, hosts);
  Host host(host_setup(hosts, memory, options));
  const int local = host.local_rank(wire.rank());
  host.state(local).process.store(hosts.processes[static_cast<size_t>(wire.rank())]);
  LifePipe life(host.state(local));
  try {
    start_watch(wire, host, hosts, life);
    wire.watched();
    ProcessWorld world(wire, host, local, hosts);
    run_body(world, body);
    depart(host, local);
  } catch (...) {
    if (!host.failed()) throw;
    // The wire is left as it is: it would wait for ranks that are gone. A launcher that sees a process leave without it
    // ends the others.
    host.throw_to_program(false);
  }
  wire.leave(options.exit_status);
}

}  // namespace ridgeline::comm::detail

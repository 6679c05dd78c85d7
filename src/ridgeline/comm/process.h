// One process as one rank of a run, whatever its wire is.
#pragma once

#include <functional>

#include "ridgeline/comm/communicator.h"
#include "ridgeline/comm/wire.h"

namespace ridgeline::comm::detail {

// Finds out who shares a host, connects the watchers of all hosts, and runs body(world); returns when every rank of
// every host has. Throws as run_mpi does. Collective over the wire's ranks.
void run_process(Wire& wire, const WorldOptions& options, const std::function<void(World&)>& body);

}  // namespace ridgeline::comm::detail

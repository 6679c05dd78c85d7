// How commands beside `train` run as ranks.
#pragma once

#include <functional>

#include "ridgeline/comm/communicator.h"

namespace ridgeline::cli {

// body(world) on so many thread ranks, or, started by an MPI launcher, on this process as one rank of its world.
void run_ranks(int thread_ranks, const std::function<void(comm::World&)>& body);

}  // namespace ridgeline::cli

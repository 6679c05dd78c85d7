// How commands run as ranks.
#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "ridgeline/cli/command.h"
#include "ridgeline/comm/communicator.h"

namespace ridgeline::cli {

// Registers --rendezvous.
void add_rendezvous(const Command& command, std::string& rendezvous);
// What it is on a command line that makes no sense otherwise; "" where it is not there.
std::string rendezvous_of(int argc, const char* const* argv);

// body(world) on so many thread ranks; or on this process as one rank, started by an MPI launcher or with a rendezvous.
// `timeout`: how long they wait for each other.
void run_ranks(int thread_ranks, const std::string& rendezvous, const std::function<void(comm::World&)>& body,
               std::chrono::milliseconds timeout = comm::WorldOptions().timeout);

}  // namespace ridgeline::cli

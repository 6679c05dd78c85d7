// Where the processes of a run meet, and which of its ranks this one is: from the command line and the environment.
#pragma once

#include <chrono>
#include <string>
#include <string_view>

namespace ridgeline::comm::detail {

struct RendezvousSetup {
  std::string host;  // of rank 0, a name or an address
  int port = 0;
  int rank = 0, size = 1;
  std::string secret;  // that whoever comes must know; "" for none
  std::chrono::milliseconds timeout{600'000};

  std::string place() const { return host + ":" + std::to_string(port); }
};

// `given`: "host:port", "[IPv6 address]:port", or "slurm": the first host of the job step, and a port that follows from
// their numbers. Rank and size are of the first pair of variables that is set:
//   RIDGELINE_RANK, RIDGELINE_WORLD_SIZE · RANK, WORLD_SIZE (torchrun) · OMPI_COMM_WORLD_RANK, …_SIZE · PMI_RANK,
//   PMI_SIZE (mpirun, where it only starts processes) · SLURM_PROCID, SLURM_STEP_NUM_TASKS (srun)
// Throws Error where any of it does not make sense.
RendezvousSetup rendezvous_setup(std::string_view given, std::chrono::milliseconds timeout);

// RIDGELINE_RENDEZVOUS of the environment where `given` is empty; "" for none.
std::string chosen_rendezvous(std::string_view given);
// Whether one of the variables above says that this process is a rank, and which one: -1 where none does.
bool has_rank_in_environment();
int rank_in_environment();

// "node007" of "node[007-009,12],other".
std::string first_of_hosts(std::string_view list);

}  // namespace ridgeline::comm::detail

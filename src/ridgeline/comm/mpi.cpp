// Ranks as processes started by mpirun or srun. MPI finds out who is where and carries what goes between hosts; ranks
// of one host meet in shared memory and make no MPI call after start-up.
#include <mpi.h>

#include "ridgeline/comm/mpi_wire.h"
#include "ridgeline/comm/process.h"

namespace ridgeline::comm {

const char* slurm_mpi_flag() {
#ifdef OPEN_MPI
  return "pmix";
#else
  return "pmi2";
#endif
}

void run_mpi(const WorldOptions& options, const std::function<void(World&)>& body) {
  detail::MpiWire wire(options);
  if (wire.size() == 1) require_company();
  detail::run_process(wire, options, body);
}

}  // namespace ridgeline::comm

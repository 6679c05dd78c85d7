#include "ridgeline/base/error.h"
#include "ridgeline/comm/communicator.h"

namespace ridgeline::comm {

void run_mpi(const WorldOptions& /*options*/, const std::function<void(World&)>& /*body*/) {
  throw Error(
      "this ridgeline was built without MPI",
      "Let the processes meet without it (--rendezvous host:port), use ranks as threads (--ranks N without mpirun), or "
      "install an MPI (Debian: libmpich-dev) and configure again with -DRIDGELINE_MPI=ON.");
}

const char* slurm_mpi_flag() {
  return "";
}

}  // namespace ridgeline::comm

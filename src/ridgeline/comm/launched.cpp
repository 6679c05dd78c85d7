#include <cstdlib>

#include "ridgeline/comm/communicator.h"

namespace ridgeline::comm {

bool launched_by_mpi() {
  // MPICH and Intel MPI (hydra), PMIx (Open MPI 5, Slurm), Open MPI 4, srun with PMI-1/2.
  for (const char* name : {"PMI_RANK", "PMI_FD", "PMIX_RANK", "OMPI_COMM_WORLD_RANK"}) {
    if (std::getenv(name) != nullptr) return true;
  }
  return false;
}

}  // namespace ridgeline::comm

#include <fmt/format.h>

#include <cstdlib>
#include <string_view>

#include "ridgeline/base/error.h"
#include "ridgeline/comm/communicator.h"

namespace ridgeline::comm {

bool launched_by_mpi() {
  // MPICH and Intel MPI (hydra), PMIx (Open MPI 5, Slurm), Open MPI 4, srun with PMI-1/2.
  for (const char* name : {"PMI_RANK", "PMI_FD", "PMIX_RANK", "OMPI_COMM_WORLD_RANK"}) {
    if (std::getenv(name) != nullptr) return true;
  }
  return false;
}

bool one_of_several_tasks() {
  // Set by srun for the tasks of a step, and not for the batch script; a launcher of MPI's own may stand between a task
  // and this process, and then knows better.
  const char* tasks = std::getenv("SLURM_STEP_NUM_TASKS");
  if (tasks == nullptr || std::getenv("SLURM_PROCID") == nullptr || std::atoi(tasks) < 2) return false;
  return std::getenv("HYDI_CONTROL_FD") == nullptr && std::getenv("OMPI_COMM_WORLD_SIZE") == nullptr;
}

void require_company() {
  if (!one_of_several_tasks()) return;
  const char* tasks = std::getenv("SLURM_STEP_NUM_TASKS");
  const std::string_view flag = slurm_mpi_flag();
  throw Error(fmt::format("srun started {} tasks, but each of them takes itself for the only rank", tasks),
              flag.empty()
                  ? "This ridgeline was built without MPI: start one task, with --ranks; or build it with MPI."
                  : fmt::format("Start them with `srun --mpi={}`: that is what the MPI of this ridgeline wants; "
                                "`srun --mpi=list` shows what this Slurm has.",
                                flag));
}

}  // namespace ridgeline::comm

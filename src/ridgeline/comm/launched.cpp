#include <fmt/format.h>

#include <cstdlib>
#include <string_view>

#include "ridgeline/base/error.h"
#include "ridgeline/comm/communicator.h"
#include "ridgeline/comm/rendezvous_setup.h"

namespace ridgeline::comm {

bool launched_by_mpi() {
  // MPICH and Intel MPI (hydra), PMIx (Open MPI 5, Slurm), Open MPI 4, srun with PMI-1/2.
  for (const char* name : {"PMI_RANK", "PMI_FD", "PMIX_RANK", "OMPI_COMM_WORLD_RANK"}) {
    if (std::getenv(name) != nullptr) return true;
  }
  return false;
}

bool launched(std::string_view rendezvous) {
  return !detail::chosen_rendezvous(rendezvous).empty() || launched_by_mpi();
}

void run_launched(const WorldOptions& options, std::string_view rendezvous, const std::function<void(World&)>& body) {
  const std::string chosen = detail::chosen_rendezvous(rendezvous);
  if (chosen.empty()) return run_mpi(options, body);
  run_rendezvous(options, chosen, body);
}

bool may_have_company() {
  return launched() || one_of_several_tasks() || detail::has_rank_in_environment();
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
  throw Error(
      fmt::format("srun started {} tasks, but each of them takes itself for the only rank", tasks),
      flag.empty()
          ? "This ridgeline was built without MPI: let them meet with --rendezvous slurm; or start one task, with "
            "--ranks."
          : fmt::format("Start them with `srun --mpi={}`: that is what the MPI of this ridgeline wants; "
                        "`srun --mpi=list` shows what this Slurm has. Or do without MPI: --rendezvous slurm.",
                        flag));
}

}  // namespace ridgeline::comm

#include "ridgeline/cli/ranks.h"

#include "ridgeline/cli/failures.h"
#include "ridgeline/device/machine.h"

namespace ridgeline::cli {

void run_ranks(int thread_ranks, const std::function<void(comm::World&)>& body) {
  if (comm::launched_by_mpi()) return comm::run_mpi({.on_failure = print_failure}, body);
  comm::require_company();
  comm::run_threads(thread_ranks, {.processors = device::Machine::read().count()}, body);
}

}  // namespace ridgeline::cli

#include "ridgeline/cli/ranks.h"

#include "ridgeline/cli/failures.h"
#include "ridgeline/device/machine.h"

namespace ridgeline::cli {

void run_ranks(int thread_ranks, const std::function<void(comm::World&)>& body) {
  const std::vector<int> processors = device::Machine::read().processors;
  if (comm::launched_by_mpi()) return comm::run_mpi({.on_failure = print_failure, .processors = processors}, body);
  comm::require_company();
  comm::run_threads(thread_ranks, {.processors = processors}, body);
}

}  // namespace ridgeline::cli

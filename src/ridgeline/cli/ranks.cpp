#include "ridgeline/cli/ranks.h"

#include <string_view>
#include <vector>

#include "ridgeline/cli/failures.h"
#include "ridgeline/device/machine.h"

namespace ridgeline::cli {

void add_rendezvous(const Command& command, std::string& rendezvous) {
  command
      .option(
          "--rendezvous", rendezvous,
          "Ranks are processes that meet there, without MPI: rank 0's host and a free port of it, or slurm. Started "
          "by srun or torchrun, or with RIDGELINE_RANK and RIDGELINE_WORLD_SIZE set")
      .placeholder("HOST:PORT")
      .no_default();
}

std::string rendezvous_of(int argc, const char* const* argv) {
  constexpr std::string_view kName = "--rendezvous";
  for (int i = 2; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == kName && i + 1 < argc) return argv[i + 1];
    if (word.starts_with(kName) && word.substr(kName.size()).starts_with('=')) {
      return std::string(word.substr(kName.size() + 1));
    }
  }
  return "";
}

void run_ranks(int thread_ranks, const std::string& rendezvous, const std::function<void(comm::World&)>& body,
               std::chrono::milliseconds timeout) {
  const std::vector<int> processors = device::Machine::read().processors;
  if (comm::launched(rendezvous)) {
    return comm::run_launched({.timeout = timeout, .on_failure = print_failure, .processors = processors}, rendezvous,
                              body);
  }
  comm::require_company();
  comm::run_threads(thread_ranks, {.timeout = timeout, .processors = processors}, body);
}

}  // namespace ridgeline::cli

#include "ridgeline/cli/limits.h"

#include <fmt/format.h>

#include <algorithm>

#include "ridgeline/base/count.h"
#include "ridgeline/base/error.h"

namespace ridgeline::cli {

void require_threads(const device::Machine& machine, int64_t ranks, int64_t threads, std::string_view asked) {
  constexpr int64_t kMostAnywhere = 1024, kMostPerProcessor = 16;
  const int64_t most = std::max(kMostAnywhere, kMostPerProcessor * machine.count());
  if (ranks <= most / threads) return;
  throw Error(
      fmt::format("{}: {} threads in one process, and at most {} make sense here", asked, ranks * threads, most),
      fmt::format("This machine has {}. On more machines every rank is a process: mpirun, srun.",
                  format_counted(machine.count(), "processor")));
}

int threads_or_all(int threads) {
  return threads_of_rank(device::Machine::read(), threads, 1);
}

int threads_of_rank(const device::Machine& machine, int threads, int ranks) {
  const int each = threads > 0 ? threads : machine.threads_per_rank(ranks);
  require_threads(machine, ranks, each,
                  ranks == 1 ? fmt::format("--threads {}", threads)
                             : fmt::format("{}, --threads {}", format_counted(ranks, "rank"), threads));
  return each;
}

void require_bytes(const device::Machine& machine, double bytes, std::string_view asked) {
  const auto free = static_cast<double>(std::min({machine.memory, machine.cgroup_memory, machine.addresses}));
  if (bytes <= free) return;
  constexpr double kGibibyte = 1 << 30;
  throw Error(fmt::format("{}: {:.2f} GiB of memory are needed, but only {:.2f} GiB are free", asked, bytes / kGibibyte,
                          free / kGibibyte),
              "Ask for less.");
}

}  // namespace ridgeline::cli

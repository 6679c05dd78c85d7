#include "ridgeline/cli/version.h"

#include <fmt/format.h>
#include <sys/utsname.h>

#include "ridgeline/base/count.h"
#include "ridgeline/base/error.h"
#include "ridgeline/comm/communicator.h"
#include "ridgeline/device/cpu/features.h"
#include "ridgeline/device/machine.h"

namespace ridgeline::cli {
namespace {

std::string isa_text() {
  try {
    return device::name_of(device::isa());
  } catch (const Error& error) {  // RIDGELINE_ISA asks for what this CPU has not
    return error.message();
  }
}

std::string system_text() {
  utsname system{};
  if (::uname(&system) != 0) return "unknown";
  return fmt::format("{} {}, {}", system.sysname, system.release, system.machine);
}

std::string slurm_text() {
  const std::string_view flag = comm::slurm_mpi_flag();
  return flag.empty() ? "" : fmt::format(" (under Slurm: srun --mpi={})", flag);
}

}  // namespace

std::string version_text() {
#if defined(__clang__)
  constexpr const char* kCompiler = "Clang " __clang_version__;
#else
  constexpr const char* kCompiler = "GCC " __VERSION__;
#endif
  const device::Machine machine = device::Machine::read();
  return fmt::format(
      "ridgeline {}\n"
      "  build      {}, {}\n"
      "  backends   cpu; ranks as threads, over TCP, " RIDGELINE_MPI_TEXT
      "{}\n"
      "  CPU        {}, {}, kernels: {}\n"
      "  system     {}\n"
      "  libraries  {}",
      RIDGELINE_VERSION, RIDGELINE_BUILD_TYPE, kCompiler, slurm_text(), machine.model_name,
      format_counted(machine.count(), "CPU"), isa_text(), system_text(), RIDGELINE_LIBRARIES);
}

}  // namespace ridgeline::cli

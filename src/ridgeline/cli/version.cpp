#include "ridgeline/cli/version.h"

#include <fmt/format.h>
#include <sys/utsname.h>

#if RIDGELINE_HAVE_MPI
#include <mpi.h>
#endif

#include "ridgeline/base/error.h"
#include "ridgeline/device/cpu/features.h"

namespace ridgeline::cli {
namespace {

// The first line of what the MPI library says of itself; may be asked before MPI starts.
std::string mpi_text() {
#if RIDGELINE_HAVE_MPI
  std::string text(MPI_MAX_LIBRARY_VERSION_STRING, '\0');
  int length = 0;
  if (MPI_Get_library_version(text.data(), &length) != MPI_SUCCESS) return "mpi";
  text.resize(static_cast<size_t>(length));
  text = text.substr(0, text.find('\n'));
  for (char& c : text) {
    if (c == '\t') c = ' ';
  }
  return fmt::format("mpi ({})", text);
#else
  return "mpi not built in";
#endif
}

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

}  // namespace

std::string version_text() {
#if defined(__clang__)
  constexpr const char* kCompiler = "Clang " __clang_version__;
#else
  constexpr const char* kCompiler = "GCC " __VERSION__;
#endif
  return fmt::format(
      "ridgeline {}\n"
      "  build      {}, {}\n"
      "  backends   cpu; ranks as threads, {}\n"
      "  CPU        {}, {} CPUs, kernels: {}\n"
      "  system     {}\n"
      "  libraries  {}",
      RIDGELINE_VERSION, RIDGELINE_BUILD_TYPE, kCompiler, mpi_text(), device::cpu_model_name(), device::cpu_count(),
      isa_text(), system_text(), RIDGELINE_LIBRARIES);
}

}  // namespace ridgeline::cli

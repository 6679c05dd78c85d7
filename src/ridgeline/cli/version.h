// `ridgeline --version`.
#pragma once

#include <string>
#include <string_view>

namespace ridgeline::cli {

// Version, compiler and build type, backends, what the CPU offers, libraries: what a bug report needs. No final
// newline.
std::string version_text();

// What srun's --mpi has to be for the MPI that this program was built with: "pmi2", "pmix"; "" without a known one.
std::string_view srun_mpi();

}  // namespace ridgeline::cli

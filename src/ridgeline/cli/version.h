// `ridgeline --version`.
#pragma once

#include <string>

namespace ridgeline::cli {

// Version, compiler and build type, backends, what the CPU offers, libraries: what a bug report needs. No final
// newline.
std::string version_text();

}  // namespace ridgeline::cli

#include "ridgeline/base/cache_folder.h"

#include <cstdlib>

namespace ridgeline {

std::filesystem::path cache_folder() {
  const char* const cache = std::getenv("XDG_CACHE_HOME");
  const char* const home = std::getenv("HOME");
  if (cache != nullptr && *cache != '\0') return std::filesystem::path(cache) / "ridgeline";
  if (home != nullptr && *home != '\0') return std::filesystem::path(home) / ".cache" / "ridgeline";
  return {};
}

}  // namespace ridgeline

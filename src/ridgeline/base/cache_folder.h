// Where a user's programs keep what they could find out again.
#pragma once

#include <filesystem>

namespace ridgeline {

// $XDG_CACHE_HOME/ridgeline, else ~/.cache/ridgeline; "" where neither variable is set. It may not be there yet.
std::filesystem::path cache_folder();

}  // namespace ridgeline

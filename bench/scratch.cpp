#include "bench/scratch.h"

#include <fmt/format.h>
#include <stdlib.h>

#include <cerrno>
#include <system_error>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"

namespace ridgeline::bench {

Scratch::Scratch(const std::filesystem::path& folder) {
  const std::filesystem::path place = folder.empty() ? std::filesystem::temp_directory_path() : folder;
  make_folder(place);
  std::string name = (place / "ridgeline_bench_XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr)
    throw system_error(fmt::format("cannot make a folder in '{}'", place.string()), errno);
  path_ = name;
}

Scratch::~Scratch() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace ridgeline::bench

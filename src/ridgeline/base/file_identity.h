// By what processes of one machine know that they speak of the same file, unchanged: then one of them reads it for all.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "ridgeline/base/file.h"

namespace ridgeline {

struct FileIdentity {
  uint64_t device = 0, number = 0;  // of its file system, which the kernel gives each mount of another one; there
  int64_t bytes = -1;
  int64_t modified = 0;  // ns since 1970

  bool operator==(const FileIdentity&) const = default;
};

// Of what `path` names now, through links; FileIdentity() where nothing can be seen.
FileIdentity identity_of(const std::filesystem::path& path);
FileIdentity identity_of(const File& file);

// No two have the same text.
std::string to_text(const FileIdentity& identity);

}  // namespace ridgeline

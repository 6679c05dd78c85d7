// How fast the disk below a folder is, whoever uses it: the ceiling of offload to a file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace ridgeline::bench {

struct Disk {
  // Bytes/s, of each measurement: of reading alone; of writing alone; of each of both while both go on.
  std::vector<double> read, write, together;
  bool direct = false;  // past the page cache
};

// Measures once, with a file of about `bytes` in transfers of 16 MiB, and adds to `disk`.
void measure_disk(const std::filesystem::path& folder, int64_t bytes, Disk& disk);

}  // namespace ridgeline::bench

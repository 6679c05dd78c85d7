// How much this process reads.
#pragma once

#include <cstdint>
#include <fstream>
#include <string>

namespace ridgeline {

// Bytes so far, with read() and the like; -1 where the system does not count them.
inline int64_t bytes_read() {
  std::ifstream file("/proc/self/io");
  std::string word;
  int64_t bytes = 0;
  file >> word >> bytes;
  return word == "rchar:" ? bytes : -1;
}

}  // namespace ridgeline

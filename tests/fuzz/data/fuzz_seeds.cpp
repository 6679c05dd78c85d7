// Of a libFuzzer program: fuzz_x --seeds FOLDER writes the target's seeds there, to begin with.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string_view>

#include "fuzz_driver.h"

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {  // NOLINT(readability-identifier-naming)
  if (*argc != 3 || std::string_view((*argv)[1]) != "--seeds") return 0;
  const std::vector<std::string> start = seeds();
  for (size_t i = 0; i < start.size(); ++i) {
    std::ofstream file(std::filesystem::path((*argv)[2]) / ("seed_" + std::to_string(i)), std::ios::binary);
    file.write(start[i].data(), static_cast<std::streamsize>(start[i].size()));
    if (!file.flush()) std::exit(1);
  }
  std::exit(0);
}

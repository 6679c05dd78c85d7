// Small files for fuzz targets of what opens files.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace ridgeline::data {

// Of this process, gone at its end. Thousands of small files: in memory where there is such a place.
inline const std::filesystem::path& file_folder() {
  static const struct Folder {
    Folder() { std::filesystem::create_directories(path); }
    ~Folder() { std::filesystem::remove_all(path); }
    std::filesystem::path path = (std::filesystem::is_directory("/dev/shm") ? std::filesystem::path("/dev/shm")
                                                                            : std::filesystem::temp_directory_path()) /
                                 ("ridgeline_fuzz_" + std::to_string(::getpid()));
  } holder;
  return holder.path;
}

inline void write_file(const char* name, std::string_view bytes) {
  std::ofstream(file_folder() / name, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

}  // namespace ridgeline::data

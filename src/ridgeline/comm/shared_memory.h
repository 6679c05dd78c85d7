// Memory that processes of one host share: an unnamed file in memory (memfd), found by peers through /proc, so nothing
// is left behind whatever happens, and the size of /dev/shm does not matter.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ridgeline::comm::detail {

class SharedMemory {
 public:
  SharedMemory() = default;
  // Creates `bytes` of zeroed memory. With `touch`, asks for huge pages and makes every page resident. Throws Error
  // with a hint when a limit (file size, free memory) is too small.
  static SharedMemory create(const char* name, int64_t bytes, bool touch);
  // Maps what process `process` has open as `file`.
  static SharedMemory attach(int process, int file, int64_t bytes);
  ~SharedMemory();
  SharedMemory(SharedMemory&& other) noexcept;
  SharedMemory& operator=(SharedMemory&& other) noexcept;
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  std::byte* data() const { return data_; }
  int64_t size() const { return size_; }
  int file() const { return file_; }
  // Once every peer has attached, the descriptor is not needed.
  void close_file();

 private:
  std::byte* data_ = nullptr;
  int64_t size_ = 0;
  int file_ = -1;
};

}  // namespace ridgeline::comm::detail

// Space for state beside a rank's memory: a file of fixed size that belongs to one rank and has no name, so that
// nothing is left of a job that is killed. DeepSpeed's ZeRO-Infinity calls its like offload to NVMe (Rajbhandari et al.
// 2021).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace ridgeline::device {

class StateFile {
 public:
  // What offsets, sizes and addresses of transfers are multiples of.
  static constexpr int64_t kAlignment = 4096;

  // A file of `bytes` zeros in `folder`, which is made where it is missing. The space is reserved: a full disk shows
  // here, as an Error with the bytes needed and free, and not in the midst of a run. `owner` ("rank 3") names the file
  // in errors.
  StateFile(std::filesystem::path folder, int64_t bytes, std::string_view owner);
  ~StateFile();
  StateFile(StateFile&& other) noexcept;
  StateFile& operator=(StateFile&&) = delete;

  // All of it, or an Error that says what, where and why. Safe from several threads.
  void read(int64_t offset, std::span<std::byte> to) const;
  void write(int64_t offset, std::span<const std::byte> from);

  int64_t size() const { return size_; }
  const std::filesystem::path& folder() const { return folder_; }
  // Transfers pass by the page cache (O_DIRECT). false where the file system cannot do that: the cache then holds a
  // copy of what fits, which the kernel drops when memory is asked for.
  bool direct() const { return direct_; }

 private:
  void reserve();
  bool try_direct();

  std::filesystem::path folder_;
  std::string name_;  // "the offload file of rank 3 in '/scratch'"
  int64_t size_ = 0;
  int descriptor_ = -1;
  bool direct_ = false;
};

}  // namespace ridgeline::device

// One block of memory from which every buffer of a rank is laid out: huge-page backed, touched before the first step,
// never freed inside a run.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ridgeline::device {

class WorkerTeam;

class Arena {
 public:
  // Reserves `bytes` (rounded up to whole pages) of zeroed memory, aligned to 2 MiB when that large, asks for huge
  // pages before the first touch, and touches every page with `team` (may be null: the caller alone). Throws Error with
  // the size when the system refuses.
  Arena(int64_t bytes, WorkerTeam* team);
  // Zeroed memory, aligned likewise, that is taken page by page when it is first written.
  static Arena reserved(int64_t bytes);
  ~Arena();
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  std::byte* data() const { return data_; }
  int64_t size() const { return size_; }

 private:
  Arena() = default;
  void map(int64_t bytes, bool huge);

  std::byte* data_ = nullptr;
  int64_t size_ = 0;
};

// Bytes of this process resident in memory now (VmRSS), and the most so far (VmHWM).
struct ResidentMemory {
  int64_t now = 0, peak = 0, anonymous = 0, file = 0, shared = 0;
};
ResidentMemory resident_memory();

}  // namespace ridgeline::device

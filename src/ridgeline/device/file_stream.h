// What lies in a file passes through memory again and again in the same order, a bounded window at a time: read ahead
// by one thread and written back behind by another, both beside the caller's work.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "ridgeline/device/state_file.h"

namespace ridgeline::device {

class FileStream {
 public:
  // Bytes of the file, and where they lie in a slot; all multiples of StateFile::kAlignment.
  struct Range {
    int64_t file = 0, slot = 0, bytes = 0;
  };
  // What passes together, in one slot.
  using Chunk = std::vector<Range>;

  // A pass is all of `chunks`, in order; no two overlap in the file. `window` (aligned, outlives this) is cut into
  // slots of `slot_bytes`, into which every chunk fits. The threads run on `processors`, wherever the caller is bound
  // (empty: where the caller runs).
  FileStream(StateFile file, std::span<std::byte> window, int64_t slot_bytes, std::vector<Chunk> chunks,
             std::vector<int> processors = {});
  // Ends the threads; what has not been written by then is lost.
  ~FileStream();
  FileStream(const FileStream&) = delete;
  FileStream& operator=(const FileStream&) = delete;

  // The rest is called by one thread. A transfer that failed on another shows in the next call here, as its Error.
  // Nothing allocates; who waits sleeps.

  // Lets a pass be read, as far ahead as the window allows. After a pass of which nothing was taken this is the same
  // pass still: what was read ahead is good.
  void begin_pass();
  // The slot of the next chunk, as soon as it has been read. The caller may change it until
  std::byte* take();
  // gives it back, to be written behind.
  void put_back();
  // Returns when nothing is on its way: everything put back is in the file, and the window is the caller's until the
  // next begin_pass(). What was read ahead is forgotten. Between passes.
  void settle();

  StateFile& file() { return file_; }
  const StateFile& file() const { return file_; }
  std::span<std::byte> window() const { return window_; }
  // That the threads have read and written so far.
  int64_t bytes_read() const;
  int64_t bytes_written() const;

 private:
  int64_t count() const { return static_cast<int64_t>(chunks_.size()); }
  const Chunk& chunk(int64_t number) const { return chunks_[static_cast<size_t>(number % count())]; }
  std::byte* slot(int64_t number) const { return window_.data() + number % slots_ * slot_bytes_; }
  void stop();
  void read_ahead();
  void write_behind();
  template <typename F>
  bool without(std::unique_lock<std::mutex>& lock, F&& transfer);
  void check() const;

  StateFile file_;
  const std::span<std::byte> window_;
  const int64_t slot_bytes_;
  const std::vector<Chunk> chunks_;
  const int64_t slots_;
  const std::vector<int> processors_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Chunks are numbered on over the passes: written_ <= returned_ <= taken_ <= read_ <= written_ + slots_.
  int64_t allowed_ = 0, read_ = 0, taken_ = 0, returned_ = 0, written_ = 0;
  int64_t bytes_read_ = 0, bytes_written_ = 0;
  bool reading_ = false, stop_ = false;
  std::exception_ptr failure_;
  std::thread reader_, writer_;
};

}  // namespace ridgeline::device

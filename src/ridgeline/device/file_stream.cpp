#include "ridgeline/device/file_stream.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "ridgeline/base/error.h"
#include "ridgeline/device/cpu/bound_thread.h"

namespace ridgeline::device {

// With more slots than chunks, a chunk could be read again before it has been written.
FileStream::FileStream(StateFile file, std::span<std::byte> window, int64_t slot_bytes, std::vector<Chunk> chunks,
                       std::vector<int> processors)
    : file_(std::move(file)),
      window_(window),
      slot_bytes_(slot_bytes),
      chunks_(std::move(chunks)),
      slots_(std::min(static_cast<int64_t>(window.size()) / slot_bytes, count())),
      processors_(std::move(processors)) {
  RL_CHECK(slots_, >=, 1);
  for (const Chunk& ranges : chunks_) {
    for (const Range& range : ranges) {
      RL_CHECK(range.slot + range.bytes, <=, slot_bytes_);
      RL_CHECK(range.file + range.bytes, <=, file_.size());
    }
  }
  try {
    reader_ = std::thread([this] { read_ahead(); });
    writer_ = std::thread([this] { write_behind(); });
  } catch (const std::system_error& error) {
    stop();
    throw system_error("cannot start a thread that reads or writes offloaded state", error.code().value());
  }
}

FileStream::~FileStream() {
  stop();
}

void FileStream::stop() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  for (std::thread* const thread : {&reader_, &writer_}) {
    if (thread->joinable()) thread->join();
  }
}

void FileStream::begin_pass() {
  const std::lock_guard lock(mutex_);
  check();
  RL_CHECK(taken_ % count(), ==, 0);
  allowed_ = taken_ + count();
  changed_.notify_all();
}

std::byte* FileStream::take() {
  std::unique_lock lock(mutex_);
  RL_CHECK(taken_, <, allowed_);
  RL_CHECK(taken_, ==, returned_);
  changed_.wait(lock, [&] { return failure_ || read_ > taken_; });
  check();
  return slot(taken_++);
}

void FileStream::put_back() {
  const std::lock_guard lock(mutex_);
  RL_CHECK(returned_, <, taken_);
  ++returned_;
  changed_.notify_all();
}

void FileStream::settle() {
  std::unique_lock lock(mutex_);
  RL_CHECK(taken_, ==, returned_);
  RL_CHECK(taken_ % count(), ==, 0);
  allowed_ = taken_;
  changed_.wait(lock, [&] { return failure_ || (!reading_ && written_ == returned_); });
  check();
  read_ = taken_;
}

int64_t FileStream::bytes_read() const {
  const std::lock_guard lock(mutex_);
  return bytes_read_;
}

int64_t FileStream::bytes_written() const {
  const std::lock_guard lock(mutex_);
  return bytes_written_;
}

void FileStream::check() const {
  if (failure_) std::rethrow_exception(failure_);
}

// Runs `transfer` without the lock; false when it failed.
template <typename F>
bool FileStream::without(std::unique_lock<std::mutex>& lock, F&& transfer) {
  std::exception_ptr failure;
  lock.unlock();
  try {
    transfer();
  } catch (...) {
    failure = std::current_exception();
  }
  lock.lock();
  if (failure && !failure_) failure_ = failure;
  return !failure;
}

void FileStream::read_ahead() {
  const BoundThread bound(processors_);
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stop_ || failure_ || (read_ < allowed_ && read_ - written_ < slots_); });
    if (stop_ || failure_) return;
    const int64_t number = read_;
    int64_t bytes = 0;
    reading_ = true;
    const bool done = without(lock, [&] {
      for (const Range& range : chunk(number)) {
        file_.read(range.file, {slot(number) + range.slot, static_cast<size_t>(range.bytes)});
        bytes += range.bytes;
      }
    });
    reading_ = false;
    bytes_read_ += bytes;
    if (done) ++read_;
    changed_.notify_all();
  }
}

void FileStream::write_behind() {
  const BoundThread bound(processors_);
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stop_ || failure_ || written_ < returned_; });
    if (stop_ || failure_) return;
    const int64_t number = written_;
    int64_t bytes = 0;
    const bool done = without(lock, [&] {
      for (const Range& range : chunk(number)) {
        file_.write(range.file, {slot(number) + range.slot, static_cast<size_t>(range.bytes)});
        bytes += range.bytes;
      }
    });
    bytes_written_ += bytes;
    if (done) ++written_;
    changed_.notify_all();
  }
}

}  // namespace ridgeline::device

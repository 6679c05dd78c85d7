#include "ridgeline/data/corpus_chunks.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/data/ordered_pipeline.h"
#include "ridgeline/data/unicode.h"

namespace ridgeline::data {
namespace {

constexpr size_t kFirstLook = 64;  // bytes in which next_record() looks for a blank line; then twice as many

// The last line feed before `end`, npos when there is none.
size_t last_line_feed(std::string_view bytes, size_t end) {
  const void* found = ::memrchr(bytes.data(), '\n', end);
  return found == nullptr ? std::string_view::npos
                          : static_cast<size_t>(static_cast<const char*>(found) - bytes.data());
}

// From the back to the last blank line that is whole. A \r at the very end may have its \n in the next bytes: the line
// that it ends is left to them.
size_t end_of_documents(std::string_view bytes, size_t from) {
  const bool carriage_returns = std::memchr(bytes.data() + from, '\r', bytes.size() - from) != nullptr;
  const auto last_end = [&](size_t end) {
    return carriage_returns ? bytes.substr(0, end).find_last_of("\r\n") : last_line_feed(bytes, end);
  };
  size_t end = last_end(bytes.size());
  if (end != std::string_view::npos && bytes[end] == '\r' && end + 1 == bytes.size()) end = last_end(end);
  while (end != std::string_view::npos && end >= from) {
    const size_t content = bytes[end] == '\n' && end > 0 && bytes[end - 1] == '\r' ? end - 1 : end;
    const size_t before = last_end(content);
    const size_t begin = before == std::string_view::npos ? 0 : before + 1;
    if (is_blank(bytes.substr(begin, content - begin))) return end + 1;
    end = before;
  }
  return 0;
}

// How many bytes to look at next, when in the first `seen` <= `longest` no record ends: twice as many, a chunk at
// least.
size_t more_than(size_t seen, size_t longest) {
  return seen + std::max(kChunkBytes, std::min(seen, longest + 1 - seen));
}

class MappedChunks final : public ChunkStream {
 public:
  MappedChunks(const std::filesystem::path& path, int64_t begin, int64_t end, RecordFormat format, size_t longest)
      : file_(std::make_shared<const MappedFile>(path, MappedFile::Access::sequential)),
        size_(static_cast<size_t>(end - begin)),
        format_(format),
        longest_(longest) {
    if (file_->text().size() < static_cast<size_t>(end)) {
      throw Error(
          fmt::format("'{}' has {} bytes, and had {} when it was looked at", path.string(), file_->text().size(), end),
          "Leave the input alone until the command is done.");
    }
    rest_ = file_->text().substr(static_cast<size_t>(begin), size_);
  }

  bool next(CorpusChunk& chunk) override {
    if (rest_.empty()) return false;
    size_t end = 0;
    while (end == 0 && begun_ < rest_.size() && begun_ <= longest_) {
      const size_t now = std::min(more_than(begun_, longest_), rest_.size());
      end = now == rest_.size() ? now : end_of_records(rest_.substr(0, now), begun_, format_);
      begun_ = now - end;
    }
    chunk.owner = file_;
    chunk.too_long = end == 0;
    chunk.bytes = rest_.substr(0, end);
    rest_.remove_prefix(chunk.too_long ? rest_.size() : end);
    chunk.position = static_cast<int64_t>(size_ - rest_.size());
    return true;
  }

 private:
  std::shared_ptr<const MappedFile> file_;
  size_t size_;
  std::string_view rest_;
  RecordFormat format_;
  size_t longest_;
  size_t begun_ = 0;  // bytes of rest_ in which no record ends
};

// Memory for chunks, on whatever thread they end. It is used again, and not cleared: pages that are new for every chunk
// would cost a third of what it costs to fill them.
class ChunkMemory : public std::enable_shared_from_this<ChunkMemory> {
 public:
  std::shared_ptr<char> take(size_t bytes) {
    if (bytes > kBytes) return {new char[bytes], std::default_delete<char[]>()};
    std::unique_ptr<char[]> memory;
    {
      const std::lock_guard lock(mutex_);
      if (!free_.empty()) {
        memory = std::move(free_.back());
        free_.pop_back();
      } else {
        free_.reserve(++made_);  // here, since what is given back must find its place
      }
    }
    if (!memory) memory = std::make_unique_for_overwrite<char[]>(kBytes);
    return {memory.release(), [self = shared_from_this()](char* used) { self->give_back(used); }};
  }

 private:
  static constexpr size_t kBytes = 2 * kChunkBytes;  // a chunk, and what the one before has begun

  void give_back(char* used) {
    std::unique_ptr<char[]> memory(used);
    const std::lock_guard lock(mutex_);
    free_.push_back(std::move(memory));
  }

  std::mutex mutex_;
  std::vector<std::unique_ptr<char[]>> free_;
  size_t made_ = 0;  // as many as were in use at a time
};

class ReadChunks final : public ChunkStream {
 public:
  ReadChunks(std::unique_ptr<ByteSource> source, RecordFormat format, size_t longest)
      : source_(std::move(source)), format_(format), longest_(longest) {}

  bool next(CorpusChunk& chunk) override {
    size_t seen = begun_.size(), end = 0;
    std::shared_ptr<char> text;
    while (end == 0 && !ended_ && seen <= longest_) {
      const size_t most = more_than(seen, longest_), before = seen;
      std::shared_ptr<char> larger = memory_->take(most);
      std::copy_n(text ? text.get() : begun_.data(), seen, larger.get());
      text = std::move(larger);
      seen += source_->read({text.get() + before, most - before});
      ended_ = seen < most;
      end = ended_ ? seen : end_of_records({text.get(), seen}, before, format_);
    }
    if (end == 0 && seen == 0) return false;
    chunk.too_long = end == 0;
    if (chunk.too_long) {
      ended_ = true;
      begun_.clear();
    } else {
      begun_.assign(text.get() + end, seen - end);
    }
    chunk.bytes = {text.get(), end};
    chunk.owner = std::move(text);
    chunk.position = source_->position();
    return true;
  }

 private:
  std::unique_ptr<ByteSource> source_;
  RecordFormat format_;
  size_t longest_;
  const std::shared_ptr<ChunkMemory> memory_ = std::make_shared<ChunkMemory>();
  std::string begun_;  // of the next chunk: no record ends there
  bool ended_ = false;
};

class ChunksAhead final : public ChunkStream {
 public:
  ChunksAhead(std::unique_ptr<ChunkStream> chunks, size_t ahead) : chunks_(std::move(chunks)), ahead_(ahead) {
    start_worker(thread_, 1, [this] { run(); });
  }
  ~ChunksAhead() override {
    {
      const std::lock_guard lock(mutex_);
      closed_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : thread_) thread.join();
  }

  bool next(CorpusChunk& chunk) override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !ready_.empty() || ended_; });
    if (ready_.empty()) {
      if (error_) std::rethrow_exception(error_);
      return false;
    }
    chunk = std::move(ready_.front());
    ready_.pop_front();
    waiting_bytes_ -= chunk.bytes.size();
    lock.unlock();
    changed_.notify_all();
    return true;
  }

 private:
  void run() {
    std::exception_ptr error;
    try {
      for (CorpusChunk chunk; chunks_->next(chunk); chunk = {}) {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return waiting_bytes_ == 0 || waiting_bytes_ < ahead_ * kChunkBytes || closed_; });
        if (closed_) return;
        waiting_bytes_ += chunk.bytes.size();
        ready_.push_back(std::move(chunk));
        lock.unlock();
        changed_.notify_all();
      }
    } catch (...) {
      error = std::current_exception();
    }
    {
      const std::lock_guard lock(mutex_);
      error_ = error;
      ended_ = true;
    }
    changed_.notify_all();
  }

  std::unique_ptr<ChunkStream> chunks_;  // the thread's
  size_t ahead_;
  std::mutex mutex_;  // of everything below
  std::condition_variable changed_;
  std::deque<CorpusChunk> ready_;
  size_t waiting_bytes_ = 0;  // in ready_
  bool ended_ = false, closed_ = false;
  std::exception_ptr error_;
  std::vector<std::thread> thread_;
};

}  // namespace

size_t end_of_records(std::string_view bytes, size_t from, RecordFormat format) {
  if (format == RecordFormat::text) return end_of_documents(bytes, from);
  const size_t end = last_line_feed(bytes, bytes.size());
  return end == std::string_view::npos || end < from ? 0 : end + 1;
}

size_t next_record(std::string_view bytes, size_t from, RecordFormat format) {
  // A whole line's end first: behind it the bytes begin with a line, if not with a record.
  const size_t end = bytes.find_first_of(format == RecordFormat::text ? "\r\n" : "\n", from);
  if (end == std::string_view::npos) return end;
  const size_t line = bytes[end] == '\r' && bytes.substr(end + 1, 1) == "\n" ? end + 2 : end + 1;
  if (format == RecordFormat::json_lines) return line < bytes.size() ? line : std::string_view::npos;
  const std::string_view rest = bytes.substr(line);
  for (size_t seen = 0, size = kFirstLook; seen < rest.size(); seen = size, size *= 2) {
    const size_t found = end_of_documents(rest.substr(0, size), seen);
    if (found != 0) return line + found < bytes.size() ? line + found : std::string_view::npos;
  }
  return std::string_view::npos;
}

int64_t count_lines(std::string_view bytes, RecordFormat format) {
  int64_t lines = std::count(bytes.begin(), bytes.end(), '\n');
  if (format == RecordFormat::json_lines) return lines;
  for (size_t at = bytes.find('\r'); at != std::string_view::npos; at = bytes.find('\r', at + 1))
    lines += at + 1 == bytes.size() || bytes[at + 1] != '\n' ? 1 : 0;
  return lines;
}

std::unique_ptr<ChunkStream> map_chunks(const std::filesystem::path& path, int64_t begin, int64_t end,
                                        RecordFormat format, size_t longest) {
  return std::make_unique<MappedChunks>(path, begin, end, format, longest);
}

std::unique_ptr<ChunkStream> read_chunks(std::unique_ptr<ByteSource> source, RecordFormat format, size_t longest) {
  return std::make_unique<ReadChunks>(std::move(source), format, longest);
}

std::unique_ptr<ChunkStream> read_ahead(std::unique_ptr<ChunkStream> chunks, size_t ahead) {
  return std::make_unique<ChunksAhead>(std::move(chunks), ahead);
}

}  // namespace ridgeline::data

// Which bytes of a file are there. The file is cut into chunks of equal size (the last may be shorter), which are
// fetched side by side, each from its beginning to its end: so a chunk is known by how many of its bytes are there.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace ridgeline::hub {

class Chunks {
 public:
  // None of `size` bytes is there; size >= 0, 1 <= chunk_bytes.
  Chunks(int64_t size, int64_t chunk_bytes);

  int64_t size() const { return size_; }
  int64_t chunk_bytes() const { return chunk_bytes_; }
  size_t count() const { return have_.size(); }
  size_t chunk_of(int64_t at) const { return static_cast<size_t>(at / chunk_bytes_); }
  int64_t begin(size_t chunk) const { return static_cast<int64_t>(chunk) * chunk_bytes_; }
  int64_t end(size_t chunk) const;
  int64_t have(size_t chunk) const { return have_[chunk]; }
  // The first byte of it that is missing; its end when none is.
  int64_t next(size_t chunk) const { return begin(chunk) + have_[chunk]; }
  bool full(size_t chunk) const { return next(chunk) == end(chunk); }
  bool full() const { return there_ == size_; }
  int64_t bytes_there() const { return there_; }

  // RL_REQUIRE: within the chunk.
  void set_have(size_t chunk, int64_t bytes);

 private:
  int64_t size_, chunk_bytes_;
  int64_t there_ = 0;
  std::vector<int64_t> have_;
};

// How a file is cut for so many connections: each has a few chunks, of 1 to 64 MiB.
int64_t chunk_bytes_for(int64_t size, int connections);

// "bytes 0-99/1000" of the header Content-Range; nothing where it is anything else, or contradicts itself. An unknown
// total ("*") is -1.
struct ContentRange {
  int64_t first = 0;
  int64_t last = 0;
  int64_t total = -1;
};
std::optional<ContentRange> content_range(std::string_view header);

// A whole number >= 0, of digits alone; nothing where it is none or past 2^62.
std::optional<int64_t> whole_number(std::string_view text);

}  // namespace ridgeline::hub

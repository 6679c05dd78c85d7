// How often each pre-token of a corpus occurs: what a vocabulary is learned from.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace ridgeline::data {

// Pre-tokens longer than 256 bytes are counted in pieces of at most that, cut between characters: without it one line
// of base64 would cost more than the rest of the corpus.
class PieceCounts {
 public:
  struct Entry {
    std::string_view piece;  // as long as these counts live unchanged
    int64_t count;
  };

  void add(std::string_view text);
  void merge(const PieceCounts& other);

  size_t size() const { return entries_; }
  // In no particular order.
  std::vector<Entry> entries() const;

 private:
  struct Slot {
    uint64_t hash;
    size_t begin;     // in bytes_
    uint32_t length;  // 0: free
    int64_t count;
  };
  void add_piece(std::string_view piece, uint64_t hash, int64_t count);
  void grow();

  std::vector<Slot> slots_ = std::vector<Slot>(1U << 12);
  std::vector<char> bytes_;
  size_t entries_ = 0;
};

}  // namespace ridgeline::data

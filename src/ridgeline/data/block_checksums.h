// Checksums of a dataset's .bin, block by block: so that many ranks share the reading, and a difference has a place.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ridgeline/base/file.h"

namespace ridgeline::data {

struct ByteRange {
  int64_t first = 0, bytes = 0;
};

constexpr int64_t kChecksumBlock = int64_t{64} << 20;

// The blocks of a file of so many bytes, and the range of one; the last may be shorter.
int64_t checksum_blocks(int64_t file_bytes);
ByteRange checksum_block(int64_t file_bytes, int64_t block);

// `range` of a file, cut where its blocks end; none of an empty range. How many those are.
std::vector<ByteRange> block_pieces(ByteRange range);
int64_t count_block_pieces(ByteRange range);

// CRC-32C of a range of `file`, read piece by piece. Error that names the file when it cannot be read.
uint32_t checksum_of(const File& file, ByteRange range);

// The same of a file that is being written, from its bytes in order, those from `begin` on: of block_pieces() of them.
class BlockChecksums {
 public:
  explicit BlockChecksums(int64_t begin = 0) : end_(begin) {}
  void add(std::span<const std::byte> bytes);
  const std::vector<uint32_t>& all() const { return sums_; }  // of the blocks so far, the last one of what there is

 private:
  std::vector<uint32_t> sums_;
  int64_t end_;
};

}  // namespace ridgeline::data

#include "ridgeline/data/block_checksums.h"

#include <algorithm>

#include "ridgeline/base/checksum.h"

namespace ridgeline::data {

int64_t checksum_blocks(int64_t file_bytes) {
  return file_bytes / kChecksumBlock + (file_bytes % kChecksumBlock != 0 ? 1 : 0);
}

ByteRange checksum_block(int64_t file_bytes, int64_t block) {
  const int64_t first = block * kChecksumBlock;
  return {first, std::min(kChecksumBlock, file_bytes - first)};
}

int64_t count_block_pieces(ByteRange range) {
  if (range.bytes <= 0) return 0;
  return (range.first + range.bytes - 1) / kChecksumBlock - range.first / kChecksumBlock + 1;
}

std::vector<ByteRange> block_pieces(ByteRange range) {
  std::vector<ByteRange> pieces;
  pieces.reserve(static_cast<size_t>(count_block_pieces(range)));
  const int64_t end = range.first + range.bytes;
  for (int64_t at = range.first; at < end;) {
    const int64_t next = std::min(end, (at / kChecksumBlock + 1) * kChecksumBlock);
    pieces.push_back({at, next - at});
    at = next;
  }
  return pieces;
}

uint32_t checksum_of(const File& file, ByteRange range) {
  constexpr int64_t kPiece = int64_t{1} << 20;
  std::vector<std::byte> buffer(static_cast<size_t>(std::min(kPiece, range.bytes)));
  uint32_t sum = 0;
  for (int64_t done = 0; done < range.bytes; done += kPiece) {
    const std::span<std::byte> piece(buffer.data(), static_cast<size_t>(std::min(kPiece, range.bytes - done)));
    file.read_at(range.first + done, piece);
    sum = crc32c(piece, sum);
  }
  return sum;
}

void BlockChecksums::add(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const int64_t inside = end_ % kChecksumBlock;
    if (inside == 0 || sums_.empty()) sums_.push_back(0);
    const size_t count = std::min(bytes.size(), static_cast<size_t>(kChecksumBlock - inside));
    sums_.back() = crc32c(bytes.first(count), sums_.back());
    end_ += static_cast<int64_t>(count);
    bytes = bytes.subspan(count);
  }
}

}  // namespace ridgeline::data

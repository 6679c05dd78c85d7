// What is known of a token file of llm.c (token_file.h) once it was read whole, as bytes of a small file. Internal to
// the room, but for tests and fuzz targets.
//
// Little-endian: "RLSTART1", i64 bytes and i64 modified of the token file, u32 its header's CRC-32C, u64 D starts, u64
// S checksums, u32 start[D], u32 checksum[S], u32 CRC-32C of all before it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace ridgeline::data {

struct DocumentStarts {
  std::vector<uint32_t> starts;     // which of the file's tokens begin a document, ascending
  std::vector<uint32_t> checksums;  // CRC-32C of every kChecksumBlock bytes of the file, its header among them

  bool operator==(const DocumentStarts&) const = default;
};

// By what a file is taken for the one that was read.
struct FileStamp {
  int64_t bytes = 0;
  int64_t modified = 0;  // ns since 1970
  uint32_t header = 0;   // CRC-32C of its first kLlmcHeader bytes

  bool operator==(const FileStamp&) const = default;
};

struct KeptStarts {
  FileStamp of;
  DocumentStarts found;

  bool operator==(const KeptStarts&) const = default;
};

std::string to_bytes(const KeptStarts& kept);
// None of bytes that are damaged, cut, or of another version. Of others every start is a token that the file has room
// for, each behind the one before, and there are as many checksums as blocks.
std::optional<KeptStarts> kept_starts_of(std::span<const std::byte> bytes);

}  // namespace ridgeline::data

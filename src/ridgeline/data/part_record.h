// What is known of a prepared part of a corpus, as a line of a file beside its tokens. Internal to the room, but for
// tests and fuzz targets.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ridgeline/data/corpus.h"

namespace ridgeline::data {

// What was cut into blocks, where documents are (PrepareSettings::block); `text_bytes` are those of the blocks.
struct BlockCounts {
  int64_t documents = 0, short_documents = 0, dropped_tokens = 0, text_bytes = 0;
  int64_t longest = 0;  // document, tokens

  void add(const BlockCounts& other);
  bool operator==(const BlockCounts&) const = default;
};

struct PartRecord {
  int64_t part = 0;          // its number
  int64_t tokens_begin = 0;  // in the stream's file of tokens, bytes
  int64_t tokens = 0;
  // CRC-32C of its tokens' bytes, cut where blocks of kChecksumBlock bytes of the file end.
  std::vector<uint32_t> sums;
  int64_t lengths_begin = 0;     // in the stream's file of documents' lengths, bytes
  int64_t documents = 0;         // of the dataset: blocks, where documents are cut
  uint32_t lengths_sum = 0;      // CRC-32C of its lengths' bytes
  int64_t lines = 0;             // of its last range
  std::vector<int64_t> lengths;  // as PrepareResult::lengths
  BlockCounts blocks;
  CorpusCounts counts;  // lines of problems count from the begin of the part's range

  bool operator==(const PartRecord&) const = default;
};

// Counts a document of so many tokens in PrepareResult::lengths, or a part's.
void add_length(std::vector<int64_t>& lengths, int64_t tokens);

// One line, with its line feed and a checksum.
std::string to_line(const PartRecord& record);
// Of a line without its line feed; nothing when it is no such line, or one that was not written to its end. What it
// says has no negative numbers, no sums that overflow, and checksums as many as its tokens of `token_bytes` bytes need.
std::optional<PartRecord> record_of(std::string_view line, int64_t token_bytes);

}  // namespace ridgeline::data

// A file in pieces that can be parsed by different threads: each holds whole records. Internal to the room.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "ridgeline/data/byte_source.h"

namespace ridgeline::data {

enum class RecordFormat : uint8_t {
  text,       // documents between blank lines
  json_lines  // one object per line
};

struct CorpusChunk {
  std::shared_ptr<const void> owner;  // of `bytes`
  std::string_view bytes;
  bool too_long = false;  // begins a record that is longer than allowed; nothing follows
  int64_t position = 0;   // bytes of its range of the file up to its end, as they lie there (compressed)
  size_t range = 0;       // of those that CorpusReader reads
  size_t file = 0;        // of CorpusReader's inputs
  std::string key;        // of documents in JSON lines
};

// Large against the cost of handing over, and so small that a chunk, the text of its documents and their ids stay in
// the cache of the core that makes one of the other.
inline constexpr size_t kChunkBytes = size_t{1} << 18;

// Where the last record that ends in bytes[from …] ends, 0 when none does. `bytes` begins with a record.
size_t end_of_records(std::string_view bytes, size_t from, RecordFormat format);

// A place soon behind `from` where a record begins; npos when the rest of `bytes` is one, or the end of one.
size_t next_record(std::string_view bytes, size_t from, RecordFormat format);

// Ends of lines in `bytes`, as documents of this format count them: \n, and of text \r\n and \r.
int64_t count_lines(std::string_view bytes, RecordFormat format);

class ChunkStream {
 public:
  virtual ~ChunkStream() = default;
  // Sets bytes, owner, too_long and position; false at the end.
  virtual bool next(CorpusChunk& chunk) = 0;
};

// Where chunks end depends on the bytes alone, not on the source. Of a record that is longer than `longest` not more
// than that and a chunk is held.
// map_chunks: of bytes [begin, end) of the file, which must be whole records. Error: the file ends before `end`.
std::unique_ptr<ChunkStream> map_chunks(const std::filesystem::path& path, int64_t begin, int64_t end,
                                        RecordFormat format, size_t longest);
std::unique_ptr<ChunkStream> read_chunks(std::unique_ptr<ByteSource> source, RecordFormat format, size_t longest);
// The same chunks, read by a thread of their own: at most `ahead` of them, or one that is longer than all those, wait.
// An Error of `chunks` follows those that came before it. Error when no thread can be started.
std::unique_ptr<ChunkStream> read_ahead(std::unique_ptr<ChunkStream> chunks, size_t ahead);

}  // namespace ridgeline::data

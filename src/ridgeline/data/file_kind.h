// What a file is by its content: what is no text is refused with its name and a way out, and `inspect` says it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace ridgeline::data {

// How many bytes from the start of a file decide.
inline constexpr size_t kKindBytes = size_t{1} << 16;

struct FileKind {
  enum class Family {
    empty,
    text,        // UTF-8, or so nearly that single bad bytes can be replaced
    json_array,  // JSON over several lines: one array, or objects printed over lines
    encoding,    // text in another encoding
    compressed,  // in a form that corpora are read from (decompress.h): what is inside decides
    packed,      // compressed otherwise, or an archive
    table,       // rows of a data set: Parquet, Arrow
    tokens,      // token ids of some tool
    model,       // weights
    other        // nothing that text could be read from
  };
  Family family = Family::text;
  std::string name;     // "UTF-16 (little-endian) text", "a gzip file"
  std::string way_out;  // a command line that makes text of `file`, or what else to do; "" for text
};

// `start`: the first bytes, up to kKindBytes; `file` stands in the way out. A pure function of its arguments.
FileKind kind_of(std::string_view start, const std::filesystem::path& file);

// Error with the way out unless documents can be read from a file that begins so, as text or (json_lines) as one JSON
// object per line.
void require_documents(std::string_view start, const std::filesystem::path& file, bool json_lines);

}  // namespace ridgeline::data

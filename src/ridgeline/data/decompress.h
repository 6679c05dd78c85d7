// gzip, Zstandard and xz, known by their first bytes and checked to their last: every checksum that the data carries is
// compared, and data that is cut or damaged is an Error, never a shorter text.
//
// Formats: RFC 1952 (any number of members; zero bytes after the last are padding, as for gzip itself), RFC 8878 (any
// number of frames, skippable ones among them), the .xz file format 1.2 (any number of streams, with their padding).
// Memory: what the format asks for. gzip 64 KiB, xz and Zstandard the window of the file: 8 MiB or less as their tools
// write it by default, up to 2 GiB (Zstandard, --long=31) or 4 GiB (xz) where somebody asked for that.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "ridgeline/data/byte_source.h"

namespace ridgeline::data {

enum class Compression : uint8_t { none, gzip, zstandard, xz };

// By the first bytes; six are enough.
Compression compression_of(std::string_view start);
// "gzip"; "" for none.
std::string_view name_of(Compression compression);

// What `packed` holds. `name` is the file's, for messages. Error, from read(): the data ends too early, is damaged, or
// is followed by something else; says at which byte of `packed`.
std::unique_ptr<ByteSource> decompress(Compression compression, std::unique_ptr<ByteSource> packed, std::string name);

}  // namespace ridgeline::data

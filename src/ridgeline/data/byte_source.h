// Bytes from a file or from standard input, in order: what decompressors and the readers of corpora are made of.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

namespace ridgeline::data {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // Fills `out` (not empty) from its start and returns how many bytes that were: fewer than its size only at the end of
  // all. Error: what the system says, or damaged data, with the name of the file and the place.
  virtual size_t read(std::span<char> out) = 0;
  // How many bytes of the file were needed for what has been read.
  virtual int64_t position() const = 0;
};

// A file, or a pipe, from its start. Error when it cannot be opened.
std::unique_ptr<ByteSource> read_file(const std::filesystem::path& path);
std::unique_ptr<ByteSource> read_standard_input();

// The first bytes of `source`, at most `most` of them; `source` then still begins with them.
std::string look_ahead(std::unique_ptr<ByteSource>& source, size_t most);

}  // namespace ridgeline::data

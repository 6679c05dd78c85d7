// A file that is being fetched. What is there survives the process, however that ends: behind the file's bytes lies a
// record of how many bytes of each chunk are there, and it is written after them. A kill loses nothing that was
// written; a machine that loses its power may keep a record of bytes that it lost, which the hash of the whole shows.
//
// One process writes it at a time: hosts have files of their own (partial_name()), since not every file system that
// they share carries locks between them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ridgeline/base/file.h"
#include "ridgeline/hub/chunks.h"

namespace ridgeline::hub {

// "NAME.HOST.ridgeline.incomplete", HOST being eight digits for this one.
std::string partial_name(const std::string& name);
// The NAME of which `file` is called a part by some host, or by a name made from such a one by adding to its end; ""
// where it is no part.
std::string_view whole_name(std::string_view file);
// The files of a folder that are parts of something; none where it cannot be read.
std::vector<std::filesystem::path> parts_in(const std::filesystem::path& folder);

class PartialFile {
 public:
  // Goes on with what an earlier process left at `path`, or begins. The chunks of a sound record win over
  // `chunk_bytes`. A record that makes no sense, or is of another size, counts for nothing. Error: as File.
  PartialFile(const std::filesystem::path& path, int64_t size, int64_t chunk_bytes);

  const Chunks& chunks() const { return chunks_; }
  // Bytes of the file from `at` on, where at <= next() of every chunk that they reach, and at + bytes <= size. What is
  // there already stays. Returns how many bytes were new.
  int64_t write(int64_t at, std::span<const std::byte> bytes);
  // Cuts off the record. RL_REQUIRE(chunks().full()).
  void finish();
  // Nothing is there any more; chunks have this size from here on.
  void restart(int64_t chunk_bytes);
  File& file() { return file_; }

 private:
  void begin();
  void record(size_t chunk);

  File file_;
  Chunks chunks_;
};

// Bytes of the file `path` that are there already, of `size`; 0 where there is no such file, or another process has
// finished it or begun it anew in this moment.
int64_t bytes_there(const std::filesystem::path& path, int64_t size);

// Copies to `path`, where nothing is yet, what another host left in its part of `name` beside it: of several the most.
// That host may still write it, and may give it its name meanwhile. Returns how many bytes; a small file is not worth
// it. What was copied may be older than what that host records of it, where their file system is slow to show writes:
// the content's hash must be compared.
int64_t copy_part_of_another_host(const std::filesystem::path& path, const std::string& name, int64_t size);

}  // namespace ridgeline::hub

// Where documents begin in token files of llm.c, which no index says: the files are read whole to find it, and what was
// found is kept, so that this happens once and not at every start of every process.
//
// Kept is a small file for each (kept_starts.h): DIR/.ridgeline/NAME.documents beside DIR/NAME, or where that cannot be
// written cache_folder()/documents/DIR/NAME.documents. It is believed when it is whole, of a file of this size, time of
// change and header, and when a few of its starts are the file's; else it is made anew. Files of less than kLeastKept
// bytes are read instead. Of processes that look at the same time one reads, under a lock, and the others wait for it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ridgeline/data/kept_starts.h"
#include "ridgeline/data/token_file.h"

namespace ridgeline::data {

inline constexpr int64_t kLeastKept = int64_t{1} << 20;

// A file by its header.
struct LlmcFile {
  std::filesystem::path path;
  TokenFile tokens;  // its `problem` may say that it is not whole
  FileStamp stamp;
};
// None when `path` is no regular file, or begins otherwise. Reads the header alone.
std::optional<LlmcFile> llmc_file(const std::filesystem::path& path);

struct FindingStarts {
  int threads = 1;                                          // that read
  bool only_to_keep = false;                                // files whose starts can be kept nowhere are not read
  std::function<void(int64_t done, int64_t all)> progress;  // bytes of the files that are read; by the calling thread
  std::function<void(const std::string& what)> say;         // for people: why something is read again, or not kept
};

// Of each of `files`, which are whole. Error: one that cannot be read, or changes meanwhile. What cannot be kept is no
// error.
std::vector<DocumentStarts> document_starts(std::span<const LlmcFile> files, const FindingStarts& finding = {});

}  // namespace ridgeline::data

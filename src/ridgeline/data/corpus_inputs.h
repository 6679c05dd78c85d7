// What a user names as a corpus, as files that were looked at.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ridgeline/data/byte_source.h"
#include "ridgeline/data/corpus_chunks.h"
#include "ridgeline/data/decompress.h"

namespace ridgeline::data {

inline constexpr const char* kStandardInput = "-";

// The name without .gz, .zst or .xz at its end: what it says about the text.
std::filesystem::path unpacked_name(std::filesystem::path path);

struct CorpusFile {
  std::filesystem::path path;  // kStandardInput among them
  std::string name;            // for messages
  int64_t bytes = 0;           // on disk; 0 of standard input
  int64_t modified = 0;        // likewise: when it was last written, in ticks of the file system's clock
  Compression compression = Compression::none;
  RecordFormat format = RecordFormat::text;
};

struct CorpusInputs {
  std::vector<CorpusFile> files;
  // Files of folders that were named, which are not read: "path (why)".
  std::vector<std::string> passed_over;
  std::vector<std::string> repeated;           // repeated_files() of `files`
  std::unique_ptr<ByteSource> standard_input;  // decompressed, when it is among the files

  std::vector<std::filesystem::path> paths() const;
};

// Those that are the same file as one before them, also by a link or another name: "path (that one)".
std::vector<std::string> repeated_files(std::span<const std::filesystem::path> files);

// In this order: files as named; for "-" standard input; all files below a folder whose names are those of a corpus,
// sorted; for a pattern (* ? [, and no file of that very name) all files that match, sorted. Every file is looked at,
// so that a wrong name does not show after an hour. Error: nothing named, nothing found, or what CorpusReader's
// constructor refuses; standard input named twice.
CorpusInputs look_at_inputs(std::span<const std::filesystem::path> named);

// Error when the file has another size or time by now, or is gone. Nothing is known of standard input.
void require_unchanged(const CorpusFile& file);

// Whether `path` is a pattern (* ? [), and no file has that very name; all files that match one, sorted (Error: a
// folder cannot be read); the Error where none does.
bool is_pattern(const std::filesystem::path& path);
std::vector<std::filesystem::path> files_matching(const std::string& pattern);
[[noreturn]] void refuse_pattern(const std::filesystem::path& pattern);

}  // namespace ridgeline::data

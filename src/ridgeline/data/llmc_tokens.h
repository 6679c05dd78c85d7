// Token files of llm.c (token_file.h) as documents. Internal to the room.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "ridgeline/base/file.h"
#include "ridgeline/data/document_starts.h"
#include "ridgeline/data/indexed_dataset.h"

namespace ridgeline::data {

// Whether a regular file begins as those do, whole or not.
bool is_llmc_file(const std::filesystem::path& file);

struct LlmcTokens {
  TokenType type{};
  std::vector<MappedFile> files;  // in the order given; tokens stand from byte `begin` to the end
  // Of each file its DocumentStarts::checksums; none of files so small that they are read every time.
  std::vector<std::vector<uint32_t>> checksums;
  int64_t begin = 0;
  std::vector<int32_t> lengths;  // of all documents: what a file's end cut is one, which goes on in the next file
};

// Files that are is_llmc_file, at least one, by their headers. Error: a file that is cut, of an unknown version, or of
// another tokenizer's ids than the first one.
std::vector<LlmcFile> llmc_headers(std::span<const std::filesystem::path> files);

// Such files. Error: as llmc_headers and document_starts; a document that is too long to count.
LlmcTokens open_llmc(std::span<const std::filesystem::path> files);

}  // namespace ridgeline::data

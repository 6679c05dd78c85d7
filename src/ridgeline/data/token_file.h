// Token files of other tools, by their content: llm.c's, and ids without any header, as nanoGPT writes them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace ridgeline::data {

struct TokenFile {
  std::string kind;
  int64_t begin = 0;                  // bytes before the first token
  int64_t item_bytes = 0;             // of a token
  int64_t count = 0;                  // tokens
  int64_t examined = 0, largest = 0;  // the largest id among so many
  int32_t separator = -1;             // of llm.c: the id with which each document begins
  std::string problem;                // what does not fit, or ""
  std::string next;                   // what to do with it
};

// What a file of `bytes` bytes that begins with `start` (kKindBytes of it, or all) holds, if it holds tokens. Ids
// without a header are a guess, which `kind` says. A pure function of its arguments.
std::optional<TokenFile> token_file(std::string_view start, int64_t bytes, const std::filesystem::path& file);

// The same of a file of llm.c, of which `start` needs to hold no more than its header; none of any other.
inline constexpr int64_t kLlmcHeader =
    1024;  // bytes: 256 int32, of which [0] is the magic, [1] the version, [2] tokens
std::optional<TokenFile> llmc_header(std::string_view start, int64_t bytes);

}  // namespace ridgeline::data

#include "ridgeline/data/llmc_tokens.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>

#include "ridgeline/base/error.h"
#include "ridgeline/base/output.h"
#include "ridgeline/data/token_file.h"

namespace ridgeline::data {
namespace {

namespace fs = std::filesystem;

TokenFile header_of(const fs::path& file) {
  const auto tokens = token_file(start_of(file), static_cast<int64_t>(fs::file_size(file)), file);
  if (!tokens || tokens->separator < 0)
    throw Error(fmt::format("'{}' is no token file of llm.c", file.string()), "Name only such files together.");
  if (!tokens->problem.empty())
    throw Error(fmt::format("'{}', {}: {}", file.string(), tokens->kind, tokens->problem),
                "Get the file again: what is there is not whole.");
  return *tokens;
}

// Documents as their beginnings come.
class DocumentLengths {
 public:
  // `count` more ids as they lie in a file.
  template <typename Id>
  void add(const std::byte* from, int64_t count, Id separator) {
    // Documents have hundreds of tokens: most blocks hold no separator, and the compiler compares those as vectors.
    constexpr int64_t kBlock = 256;
    for (int64_t first = 0; first < count; first += kBlock) {
      const std::byte* const block = from + first * static_cast<int64_t>(sizeof(Id));
      const int64_t size = std::min(kBlock, count - first);
      if (!holds(block, size, separator)) {
        open_ += size;
        continue;
      }
      for (int64_t i = 0; i < size; ++i) {
        if (id_at<Id>(block, i) == separator) end();
        ++open_;
      }
    }
  }

  std::vector<int32_t> take() {
    end();
    return std::move(lengths_);
  }

 private:
  template <typename Id>
  static Id id_at(const std::byte* from, int64_t i) {
    Id id;
    std::memcpy(&id, from + i * static_cast<int64_t>(sizeof id), sizeof id);
    return id;
  }

  template <typename Id>
  static bool holds(const std::byte* from, int64_t count, Id separator) {
    Id found = 0;
    for (int64_t i = 0; i < count; ++i) found |= static_cast<Id>(id_at<Id>(from, i) == separator);
    return found != 0;
  }

  void end() {
    if (open_ > std::numeric_limits<int32_t>::max())
      throw Error(fmt::format("document {} of these files of llm.c has {} tokens, more than can be counted",
                              lengths_.size(), open_),
                  "Are they of a tokenizer whose documents begin with another id?");
    if (open_ > 0) lengths_.push_back(static_cast<int32_t>(open_));
    open_ = 0;
  }

  int64_t open_ = 0;
  std::vector<int32_t> lengths_;
};

}  // namespace

bool is_llmc_file(const fs::path& file) {
  std::error_code code;
  if (!fs::is_regular_file(file, code)) return false;
  const auto tokens = token_file(start_of(file), static_cast<int64_t>(fs::file_size(file)), file);
  return tokens && tokens->separator >= 0;
}

LlmcTokens open_llmc(std::span<const fs::path> files) {
  RL_CHECK(files.empty(), ==, false);
  const TokenFile first = header_of(files.front());
  LlmcTokens all{.type = first.item_bytes == 2 ? TokenType::u16 : TokenType::i32,
                 .begin = first.begin,
                 .separator = first.separator};
  DocumentLengths documents;
  for (const fs::path& file : files) {
    const TokenFile tokens = header_of(file);
    if (tokens.separator != first.separator)
      throw Error(
          fmt::format("'{}' is {}, and '{}' {}", files.front().string(), first.kind, file.string(), tokens.kind),
          "An id must mean the same in all of them: name those of one tokenizer.");
    all.files.emplace_back(file);
    const MappedFile scanned(file, MappedFile::Access::sequential);  // once, while samples are read in any order
    const std::byte* const from = scanned.bytes().data() + tokens.begin;
    const auto bytes = static_cast<size_t>(tokens.begin + tokens.count * tokens.item_bytes);
    if (scanned.bytes().size() != bytes || all.files.back().bytes().size() != bytes)
      throw Error(fmt::format("'{}' changes while it is read", file.string()), "Wait until it is whole.");
    if (all.type == TokenType::u16) {
      documents.add(from, tokens.count, static_cast<uint16_t>(tokens.separator));
    } else {
      documents.add(from, tokens.count, static_cast<uint32_t>(tokens.separator));
    }
  }
  all.lengths = documents.take();
  return all;
}

}  // namespace ridgeline::data

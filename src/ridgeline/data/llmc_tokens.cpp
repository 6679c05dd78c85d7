#include "ridgeline/data/llmc_tokens.h"

#include <fmt/format.h>

#include <limits>
#include <string>

#include "ridgeline/base/error.h"

namespace ridgeline::data {
namespace {

namespace fs = std::filesystem;

LlmcFile header_of(const fs::path& file) {
  std::optional<LlmcFile> header = llmc_file(file);
  if (!header)
    throw Error(fmt::format("'{}' is no token file of llm.c", file.string()), "Name only such files together.");
  if (!header->tokens.problem.empty())
    throw Error(fmt::format("'{}', {}: {}", file.string(), header->tokens.kind, header->tokens.problem),
                "Get the file again: what is there is not whole.");
  return std::move(*header);
}

// Documents as their beginnings come.
class DocumentLengths {
 public:
  // A file of `count` tokens more.
  void add(std::span<const uint32_t> starts, int64_t count) {
    int64_t before = 0;
    for (const uint32_t start : starts) {
      open_ += start - before;
      before = start;
      end();
    }
    open_ += count - before;
  }

  std::vector<int32_t> take() {
    end();
    return std::move(lengths_);
  }

 private:
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
  return llmc_file(file).has_value();
}

std::vector<LlmcFile> llmc_headers(std::span<const fs::path> files) {
  std::vector<LlmcFile> headers;
  for (const fs::path& file : files) {
    headers.push_back(header_of(file));
    const TokenFile &first = headers.front().tokens, &tokens = headers.back().tokens;
    if (tokens.separator == first.separator) continue;
    throw Error(fmt::format("'{}' is {}, and '{}' {}", files.front().string(), first.kind, file.string(), tokens.kind),
                "An id must mean the same in all of them: name those of one tokenizer.");
  }
  return headers;
}

LlmcTokens open_llmc(std::span<const fs::path> files) {
  RL_CHECK(files.empty(), ==, false);
  const std::vector<LlmcFile> headers = llmc_headers(files);
  std::vector<DocumentStarts> found = document_starts(headers);
  const TokenFile& first = headers.front().tokens;
  LlmcTokens all{.type = first.item_bytes == 2 ? TokenType::u16 : TokenType::i32, .begin = first.begin};
  DocumentLengths documents;
  for (size_t i = 0; i < files.size(); ++i) {
    all.files.emplace_back(files[i]);
    if (std::ssize(all.files.back().bytes()) != headers[i].stamp.bytes)
      throw Error(fmt::format("'{}' changes while it is read", files[i].string()), "Wait until it is whole.");
    documents.add(found[i].starts, headers[i].tokens.count);
    const bool kept = headers[i].stamp.bytes >= kLeastKept;
    all.checksums.push_back(kept ? std::move(found[i].checksums) : std::vector<uint32_t>());
  }
  all.lengths = documents.take();
  return all;
}

}  // namespace ridgeline::data

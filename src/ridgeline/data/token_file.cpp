#include "ridgeline/data/token_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "ridgeline/data/file_kind.h"

namespace ridgeline::data {
namespace {

namespace fs = std::filesystem;

constexpr uint32_t kLlmcGpt2 = 20240520, kLlmcLlama3 = 20240801;
constexpr uint32_t kVersionGpt2 = 1, kVersionLlama3 = 7;
constexpr int32_t kSeparatorGpt2 = 50256, kSeparatorLlama3 = 128000;
// The largest vocabularies in use; random bytes go far beyond.
constexpr int64_t kPlausibleIds16 = 52000, kPlausibleIds32 = 300000;
constexpr size_t kFewestBytes = 512;  // below, a guess would be none

uint32_t number_at(std::string_view bytes, size_t at, size_t size) {
  uint32_t value = 0;
  std::memcpy(&value, bytes.data() + at, size);
  return value;
}

void examine(TokenFile& tokens, std::string_view start) {
  const auto size = static_cast<size_t>(tokens.item_bytes);
  for (size_t at = static_cast<size_t>(tokens.begin); at + size <= start.size() && tokens.examined < tokens.count;
       at += size) {
    tokens.largest = std::max<int64_t>(tokens.largest, number_at(start, at, size));
    ++tokens.examined;
  }
}

// Bytes without order give ids far beyond any vocabulary; text was recognised before.
std::optional<TokenFile> without_header(std::string_view start, int64_t bytes) {
  if (start.size() < kFewestBytes) return std::nullopt;
  for (const int64_t size : {4, 2}) {
    if (bytes % size != 0) continue;
    TokenFile tokens{
        .kind = fmt::format("probably token ids of {} bits without a header, as nanoGPT writes them", 8 * size),
        .item_bytes = size,
        .count = bytes / size};
    examine(tokens, start);
    if (tokens.largest >= 256 && tokens.largest <= (size == 4 ? kPlausibleIds32 : kPlausibleIds16)) return tokens;
  }
  return std::nullopt;
}

}  // namespace

std::optional<TokenFile> llmc_header(std::string_view start, int64_t bytes) {
  const uint32_t magic = start.size() < 4 ? 0 : number_at(start, 0, 4);
  if (magic != kLlmcGpt2 && magic != kLlmcLlama3) return std::nullopt;
  TokenFile tokens{.kind = fmt::format("a token file of llm.c ({} ids)", magic == kLlmcGpt2 ? "GPT-2" : "Llama-3"),
                   .begin = std::min(kLlmcHeader, bytes),
                   .item_bytes = magic == kLlmcGpt2 ? 2 : 4,
                   .separator = magic == kLlmcGpt2 ? kSeparatorGpt2 : kSeparatorLlama3};
  const int64_t held = (bytes - tokens.begin) / tokens.item_bytes;
  const int64_t said = start.size() < 12 ? 0 : number_at(start, 8, 4);
  const uint32_t version = start.size() < 8 ? 0 : number_at(start, 4, 4);
  tokens.count = std::min(held, said);
  if (bytes < kLlmcHeader) {
    tokens.problem = fmt::format("the file has {} bytes, less than its header of {}", bytes, kLlmcHeader);
  } else if (version != (magic == kLlmcGpt2 ? kVersionGpt2 : kVersionLlama3)) {
    tokens.problem = fmt::format("its version is {}, which is not known", version);
  } else if ((bytes - tokens.begin) % tokens.item_bytes != 0) {
    tokens.problem = fmt::format("{} bytes behind the header are no whole tokens", bytes - tokens.begin);
  } else if (held != said) {
    tokens.problem = fmt::format("the header speaks of {} tokens, and {} follow", said, held);
  }
  return tokens;
}

std::optional<TokenFile> token_file(std::string_view start, int64_t bytes, const fs::path& file) {
  start = start.substr(0, kKindBytes);
  std::optional<TokenFile> tokens = llmc_header(start, bytes);
  if (tokens) {
    examine(*tokens, start);
    tokens->next =
        "Trained on as it is: --set data.train=FILE, or several like it by a pattern. One .bin/.idx pair of them: "
        "ridgeline prepare --tokenizer DIR --out PREFIX FILE...";
    return tokens;
  }
  if (kind_of(start, file).family != FileKind::Family::other || file.extension() != ".bin") return std::nullopt;
  tokens = without_header(start, bytes);
  if (!tokens) return std::nullopt;
  fs::path index = file;
  index.replace_extension(".idx");
  tokens->next = fmt::format(
      "Without '{}' beside it, nothing says where documents begin: find that file, or prepare the text "
      "itself (ridgeline prepare).",
      index.string());
  return tokens;
}

}  // namespace ridgeline::data

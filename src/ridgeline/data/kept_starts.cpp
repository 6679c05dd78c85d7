#include "ridgeline/data/kept_starts.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <string_view>

#include "ridgeline/base/checksum.h"
#include "ridgeline/base/file.h"
#include "ridgeline/data/block_checksums.h"
#include "ridgeline/data/token_file.h"

namespace ridgeline::data {
namespace {

constexpr std::string_view kStartsMagic = "RLSTART1";
constexpr size_t kStartsHeader = 44, kStartsEnd = 4;  // bytes before the lists and behind them

template <typename T>
void append_value(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void append_list(std::string& bytes, const std::vector<uint32_t>& list) {
  bytes.append(reinterpret_cast<const char*>(list.data()), list.size() * sizeof(uint32_t));
}

template <typename T>
T value_at(std::span<const std::byte> bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

// `count` of them are there.
std::vector<uint32_t> list_at(std::span<const std::byte> bytes, size_t at, size_t count) {
  std::vector<uint32_t> list(count);
  if (count > 0) std::memcpy(list.data(), bytes.data() + at, count * sizeof(uint32_t));
  return list;
}

// The narrowest token has two bytes.
bool fit(const KeptStarts& kept) {
  const std::vector<uint32_t>& starts = kept.found.starts;
  if (kept.of.bytes < kLlmcHeader) return false;
  if (std::ssize(kept.found.checksums) != checksum_blocks(kept.of.bytes)) return false;
  if (std::adjacent_find(starts.begin(), starts.end(), std::greater_equal<>()) != starts.end()) return false;
  return starts.empty() || starts.back() < (kept.of.bytes - kLlmcHeader) / 2;
}

}  // namespace

std::string to_bytes(const KeptStarts& kept) {
  std::string bytes(kStartsMagic);
  bytes.reserve(kStartsHeader + kStartsEnd + 4 * (kept.found.starts.size() + kept.found.checksums.size()));
  append_value(bytes, kept.of.bytes);
  append_value(bytes, kept.of.modified);
  append_value(bytes, kept.of.header);
  append_value(bytes, uint64_t{kept.found.starts.size()});
  append_value(bytes, uint64_t{kept.found.checksums.size()});
  append_list(bytes, kept.found.starts);
  append_list(bytes, kept.found.checksums);
  append_value(bytes, crc32c(bytes_of(bytes)));
  return bytes;
}

std::optional<KeptStarts> kept_starts_of(std::span<const std::byte> bytes) {
  if (bytes.size() < kStartsHeader + kStartsEnd) return std::nullopt;
  if (std::memcmp(bytes.data(), kStartsMagic.data(), kStartsMagic.size()) != 0) return std::nullopt;
  const size_t end = bytes.size() - kStartsEnd;
  if (value_at<uint32_t>(bytes, end) != crc32c(bytes.first(end))) return std::nullopt;
  const auto starts = value_at<uint64_t>(bytes, 28), checksums = value_at<uint64_t>(bytes, 36);
  // Each count against the size first: a wild one must not overflow the sum.
  const uint64_t most = (end - kStartsHeader) / 4;
  if (starts > most || checksums > most || (starts + checksums) * 4 != end - kStartsHeader) return std::nullopt;
  KeptStarts kept{.of = {.bytes = value_at<int64_t>(bytes, 8),
                         .modified = value_at<int64_t>(bytes, 16),
                         .header = value_at<uint32_t>(bytes, 24)},
                  .found = {.starts = list_at(bytes, kStartsHeader, starts),
                            .checksums = list_at(bytes, kStartsHeader + 4 * starts, checksums)}};
  if (!fit(kept)) return std::nullopt;
  return kept;
}

}  // namespace ridgeline::data

#include "ridgeline/hub/chunks.h"

#include <algorithm>

#include "ridgeline/base/error.h"

namespace ridgeline::hub {
namespace {

constexpr int64_t kMebibyte = int64_t{1} << 20;
constexpr int64_t kSmallest = kMebibyte, kLargest = 64 * kMebibyte;

}  // namespace

Chunks::Chunks(int64_t size, int64_t chunk_bytes) : size_(size), chunk_bytes_(chunk_bytes) {
  RL_CHECK(size, >=, 0);
  RL_CHECK(chunk_bytes, >=, 1);
  have_.resize(static_cast<size_t>(size / chunk_bytes + (size % chunk_bytes != 0 ? 1 : 0)));
}

int64_t Chunks::end(size_t chunk) const {
  return std::min(begin(chunk) + chunk_bytes_, size_);
}

void Chunks::set_have(size_t chunk, int64_t bytes) {
  RL_REQUIRE(chunk < count() && bytes >= 0 && begin(chunk) + bytes <= end(chunk), "{} bytes of chunk {} of {}", bytes,
             chunk, count());
  there_ += bytes - have_[chunk];
  have_[chunk] = bytes;
}

int64_t chunk_bytes_for(int64_t size, int connections) {
  const int64_t wanted = size / (4 * std::max(connections, 1));
  return std::clamp(wanted / kMebibyte * kMebibyte, kSmallest, kLargest);
}

std::optional<int64_t> whole_number(std::string_view text) {
  if (text.empty() || text.find_first_not_of("0123456789") != std::string_view::npos) return std::nullopt;
  int64_t value = 0;
  for (const char c : text) {
    if (value > (int64_t{1} << 62) / 10 - 1) return std::nullopt;
    value = 10 * value + (c - '0');
  }
  return value;
}

std::optional<ContentRange> content_range(std::string_view header) {
  constexpr std::string_view kUnit = "bytes ";
  if (!header.starts_with(kUnit)) return std::nullopt;
  header.remove_prefix(kUnit.size());
  const size_t dash = header.find('-');
  const size_t slash = header.find('/');
  if (dash == std::string_view::npos || slash == std::string_view::npos || dash > slash) return std::nullopt;
  const auto first = whole_number(header.substr(0, dash));
  const auto last = whole_number(header.substr(dash + 1, slash - dash - 1));
  const std::string_view all = header.substr(slash + 1);
  const auto total = all == "*" ? std::optional<int64_t>(-1) : whole_number(all);
  if (!first || !last || !total || *last < *first || (*total >= 0 && *last >= *total)) return std::nullopt;
  return ContentRange{*first, *last, *total};
}

}  // namespace ridgeline::hub

#include "ridgeline/data/split.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "ridgeline/base/error.h"

namespace ridgeline::data {
namespace {

constexpr std::array<std::string_view, 2> kRules{"cumulative", "per_share"};

[[noreturn]] void bad_split(std::string_view split, std::string_view why) {
  throw Error(fmt::format("data.split: '{}' {}", split, why),
              "Write the shares of train, validation and test, such as \"98,2,0\" or \"969,30,1\".");
}

std::array<double, 3> parse_split(std::string_view split) {
  std::array<double, 3> shares{};
  // Spaces alone separate, too, as in "98 2 0".
  const char separator = split.find('/') != std::string_view::npos   ? '/'
                         : split.find(',') != std::string_view::npos ? ','
                                                                     : ' ';
  std::string_view rest = split;
  const auto trim = [](std::string_view& text) {
    while (text.starts_with(' ')) text.remove_prefix(1);
    while (text.ends_with(' ')) text.remove_suffix(1);
  };
  trim(rest);
  for (size_t i = 0; i < 3 && !rest.empty(); ++i) {
    const size_t end = std::min(rest.find(separator), rest.size());
    std::string_view number = rest.substr(0, end);
    trim(number);
    const auto [stop, code] = std::from_chars(number.data(), number.data() + number.size(), shares[i]);
    if (code != std::errc{} || stop != number.data() + number.size() || !std::isfinite(shares[i]) || shares[i] < 0) {
      bad_split(split, "is not a list of numbers");
    }
    rest.remove_prefix(std::min(end + 1, rest.size()));
    trim(rest);
  }
  if (!rest.empty()) bad_split(split, "has more than three shares");
  if (!(shares[0] + shares[1] + shares[2] > 0)) bad_split(split, "gives nothing to anyone");
  return shares;
}

// Python's round(): half to even, the default rounding mode.
int64_t documents_of(double share, int64_t documents) {
  return static_cast<int64_t>(std::nearbyint(share * static_cast<double>(documents)));
}

}  // namespace

std::span<const std::string_view> words_of(SplitRule /*rule*/) {
  return kRules;
}

SplitRule split_rule_of_name(std::string_view word, std::string_view key) {
  for (size_t i = 0; i < kRules.size(); ++i) {
    if (word == kRules[i]) return static_cast<SplitRule>(i);
  }
  throw Error(fmt::format("{} '{}': no such rule", key, word), fmt::format("Rules: {}.", fmt::join(kRules, ", ")));
}

std::array<DocumentRange, 3> split_documents(std::string_view split, SplitRule rule, int64_t documents) {
  const std::array<double, 3> shares = parse_split(split);
  const double sum = shares[0] + shares[1] + shares[2];
  std::array<int64_t, 4> bounds{};
  if (rule == SplitRule::cumulative) {
    double end = 0;
    for (size_t i = 0; i < 3; ++i) {
      end += shares[i] / sum;
      bounds[i + 1] = documents_of(end, documents);
    }
  } else {
    for (size_t i = 0; i < 3; ++i) bounds[i + 1] = bounds[i] + documents_of(shares[i] / sum, documents);
    const int64_t surplus = bounds[3] - documents;
    for (size_t i = 1; i < 4; ++i) bounds[i] -= surplus;
  }
  std::array<DocumentRange, 3> ranges;
  for (size_t i = 0; i < 3; ++i) {
    // With very few documents the subtraction can leave a bound below the one before it: an empty range.
    const int64_t first = std::clamp<int64_t>(bounds[i], 0, documents);
    ranges[i] = {first, std::clamp<int64_t>(bounds[i + 1], first, documents)};
  }
  return ranges;
}

std::string counts_text(const std::array<DocumentRange, 3>& parts) {
  return fmt::format("{}, {} and {}", parts[0].last - parts[0].first, parts[1].last - parts[1].first,
                     parts[2].last - parts[2].first);
}

}  // namespace ridgeline::data

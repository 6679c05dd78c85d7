// How often some strings stand in a text: names of special tokens, which a corpus should not hold as text.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ridgeline::data {

class MarkerCounter {
 public:
  // Empty strings are never found.
  explicit MarkerCounter(std::vector<std::string> markers);

  // counts[i] += places in `text` where markers[i] stands; of several that begin at one place only the longest. Costs a
  // memchr over the text for each first byte of a marker.
  void count(std::string_view text, std::span<int64_t> counts) const;

 private:
  struct Group {
    char first = 0;
    std::array<bool, 256> second{};  // bytes that follow it in some marker
    bool alone = false;              // `first` itself is a marker
    std::vector<size_t> members;     // by falling length
  };
  std::vector<std::string> markers_;
  std::vector<Group> groups_;
};

}  // namespace ridgeline::data

#include "ridgeline/data/marker_counter.h"

#include <algorithm>
#include <cstring>

namespace ridgeline::data {

MarkerCounter::MarkerCounter(std::vector<std::string> markers) : markers_(std::move(markers)) {
  for (size_t i = 0; i < markers_.size(); ++i) {
    const std::string& marker = markers_[i];
    if (marker.empty()) continue;
    auto group = std::find_if(groups_.begin(), groups_.end(), [&](const Group& g) { return g.first == marker[0]; });
    if (group == groups_.end()) {
      group = groups_.emplace(group);
      group->first = marker[0];
    }
    group->members.push_back(i);
    if (marker.size() == 1) {
      group->alone = true;
    } else {
      group->second[static_cast<uint8_t>(marker[1])] = true;
    }
  }
  for (Group& group : groups_) {
    std::sort(group.members.begin(), group.members.end(),
              [&](size_t a, size_t b) { return markers_[a].size() > markers_[b].size(); });
  }
}

void MarkerCounter::count(std::string_view text, std::span<int64_t> counts) const {
  for (const Group& group : groups_) {
    for (std::string_view rest = text; !rest.empty();) {
      const void* const found = std::memchr(rest.data(), group.first, rest.size());
      if (found == nullptr) break;
      rest.remove_prefix(static_cast<size_t>(static_cast<const char*>(found) - rest.data()));
      size_t length = 1;
      if (group.alone || (rest.size() > 1 && group.second[static_cast<uint8_t>(rest[1])])) {
        for (const size_t i : group.members) {
          if (!rest.starts_with(markers_[i])) continue;
          ++counts[i];
          length = markers_[i].size();
          break;
        }
      }
      rest.remove_prefix(length);
    }
  }
}

}  // namespace ridgeline::data

#include "ridgeline/comm/host_layout.h"

#include <algorithm>

#include "ridgeline/comm/kernels.h"

namespace ridgeline::comm::detail {

DType Summands::travelling(DType dtype) const {
  return summed ? accumulator(dtype) : dtype;
}

HostLayout::HostLayout(std::span<const int> hosts, int sum_group) {
  std::vector<int> numbers;
  for (size_t member = 0; member < hosts.size(); ++member) {
    const auto found = std::find(numbers.begin(), numbers.end(), hosts[member]);
    const auto host = static_cast<size_t>(found - numbers.begin());
    if (found == numbers.end()) {
      numbers.push_back(hosts[member]);
      members_.emplace_back();
    }
    host_of_.push_back(static_cast<int>(host));
    place_of_.push_back(static_cast<int>(members_[host].size()));
    members_[host].push_back(static_cast<int>(member));
  }
  const int run = std::max(1, sum_group);
  for (int first = 0; first < size(); first += run) {
    const int count = std::min(run, size() - first);
    bool together = true;
    for (int i = 0; i < count; ++i) {
      together = together && host_of(first + i) == host_of(first);
      singles_.all.push_back({host_of(first + i), first + i, 1});
    }
    singles_.runs.push_back(count);
    sums_.runs.push_back(together ? 1 : count);
    sums_.summed = sums_.summed || (together && count > 1);
    if (together) {
      sums_.all.push_back({host_of(first), first, count});
    } else {
      sums_.all.insert(sums_.all.end(), singles_.all.end() - count, singles_.all.end());
    }
  }
  close(sums_);
  close(singles_);
}

void HostLayout::close(Summands& summands) const {
  std::vector<int> on_host(members_.size()), met(host_of_.size());
  for (const Summand& summand : summands.all) ++on_host[static_cast<size_t>(summand.host)];
  summands.most_on_a_host = *std::max_element(on_host.begin(), on_host.end());
  for (int host = 0; host < hosts(); ++host) {
    for (int member = 0; member < size(); ++member) {
      if (host_of(member) != host) ++met[static_cast<size_t>(partner(host, member))];
    }
  }
  for (int member = 0; member < size(); ++member) {
    const int sent = met[static_cast<size_t>(member)] * on_host[static_cast<size_t>(host_of(member))];
    summands.slots = std::max(summands.slots, static_cast<int>(summands.all.size()) + sent);
  }
}

int HostLayout::partner(int host, int member) const {
  if (host_of(member) == host) return member;
  const std::vector<int>& here = members_[static_cast<size_t>(host)];
  return here[static_cast<size_t>(place_of(member)) % here.size()];
}

const Summands& HostLayout::summands(DType dtype) const {
  const auto sums = sums_.most_on_a_host * size_of(sums_.travelling(dtype));
  return sums <= singles_.most_on_a_host * size_of(dtype) ? sums_ : singles_;
}

}  // namespace ridgeline::comm::detail

// How the ranks of a communicator lie on hosts, who of a host meets whom of another, and what travels between hosts in
// a reduction. Pure, and the same on every rank.
#pragma once

#include <span>
#include <vector>

#include "ridgeline/base/dtype.h"

namespace ridgeline::comm::detail {

// Consecutive members of one host, whose values it adds up before they travel.
struct Summand {
  int host = 0;
  int first = 0, count = 1;
};

// A reduction as the owner of a slice does it: the declared order, written over summands.
struct Summands {
  std::vector<Summand> all;  // in ascending order of members
  std::vector<int> runs;     // how many of them make a sum group
  bool summed = false;       // some are sums, which travel as accumulators; else all travel as they are
  int most_on_a_host = 0;
  int slots = 0;  // arrays of a slice's length that the busiest member holds: what it sums, sends and receives

  DType travelling(DType dtype) const;
};

class HostLayout {
 public:
  // `hosts`: of each member, any numbers.
  HostLayout(std::span<const int> hosts, int sum_group);

  int size() const { return static_cast<int>(host_of_.size()); }
  int hosts() const { return static_cast<int>(members_.size()); }
  int host_of(int member) const { return host_of_[static_cast<size_t>(member)]; }  // 0 … hosts()-1, by first member
  std::span<const int> members(int host) const { return members_[static_cast<size_t>(host)]; }  // ascending
  // A member's number among those of its host.
  int place_of(int member) const { return place_of_[static_cast<size_t>(member)]; }

  // The member of `host` that sends what the host has for `member`, and gets what `member` has for the host: so each
  // value passes once, and a host's members share the work. On its own host that is `member` itself.
  int partner(int host, int member) const;

  // What travels in a reduction of `dtype`. A sum group whose members share a host is one summand, of any other each
  // member is; or each member of all, where those are fewer bytes than accumulators. Either way the same bits result.
  const Summands& summands(DType dtype) const;

 private:
  void close(Summands& summands) const;

  std::vector<int> host_of_, place_of_;
  std::vector<std::vector<int>> members_;
  Summands sums_, singles_;
};

}  // namespace ridgeline::comm::detail

// How fast the hosts of a run reach each other, found out before it begins: one slow cable, or a host whose network
// adapter fell back to a lower rate, slows every step of all, and nothing else would say which.
//
// The first rank of every host speaks for it. In each round a host meets one other, never the same twice: host i meets
// host i XOR x. A quick check takes x = 1, 2, 4, ..., so that every host is measured in as many rounds as there are
// bits in the number of hosts; a thorough one takes every x, which meets every pair. A pair sends both ways at once.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ridgeline/comm/communicator.h"

namespace ridgeline::comm {

enum class LinkCheck { quick, thorough };

// Who meets `host` in each round; -1: nobody.
std::vector<int> partners_of(int host, int hosts, LinkCheck how);

// Of a pair of hosts, as the one sees it that waits longer.
struct LinkSpeed {
  int first = -1, second = -1;  // hosts, ascending
  double bytes_per_second = 0;  // each way
  double latency = 0;           // seconds, of a message of a few bytes; the least of several

  // Than others usually are: less than a quarter of their rate; or more than four times their latency, and over 1 ms.
  bool slower_than(const LinkSpeed& usual) const;
};

struct HostLinks {
  std::string name;
  int first_rank = 0;
  LinkSpeed median;   // of its links: each figure for itself, without hosts
  LinkSpeed slowest;  // in bytes per second
};

struct LinkReport {
  std::vector<HostLinks> hosts;
  LinkSpeed median;                // of the hosts' medians
  int64_t pairs = 0;               // that were measured
  int64_t slow_pairs = 0;          // slower than the median, twice
  std::vector<LinkSpeed> slowest;  // of these, slowest first: at most kSlowShown, and of a host kSlowOfHost
};
constexpr int kSlowShown = 16, kSlowOfHost = 4;

// Collective over the world, with two hosts or more. Every host's first rank returns the report, the others an empty
// one. A quick check sends at most 2 MiB over a link each way and stops after 0.3 s of it, a thorough one 16 MiB, 1 s
// for each link; links that are slow are measured once more. A link that is dead ends the world as any operation does.
LinkReport check_links(World& world, LinkCheck how);

}  // namespace ridgeline::comm

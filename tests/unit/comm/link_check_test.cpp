#include "ridgeline/comm/link_check.h"

#include <gtest/gtest.h>

#include <bit>
#include <set>
#include <utility>

namespace ridgeline::comm {
namespace {

// In every round two hosts name each other or nobody; the pairs that meet.
std::set<std::pair<int, int>> pairs(int hosts, LinkCheck how) {
  std::set<std::pair<int, int>> met;
  for (int host = 0; host < hosts; ++host) {
    const std::vector<int> partners = partners_of(host, hosts, how);
    for (size_t round = 0; round < partners.size(); ++round) {
      const int other = partners[round];
      if (other < 0) continue;
      EXPECT_LT(other, hosts);
      EXPECT_EQ(partners_of(other, hosts, how)[round], host);
      if (host < other) {
        EXPECT_TRUE(met.emplace(host, other).second) << host << " and " << other << " meet twice";
      }
    }
  }
  return met;
}

TEST(LinkCheck, AThoroughOneMeetsEveryPairOnce) {
  for (int hosts = 2; hosts < 40; ++hosts)
    EXPECT_EQ(pairs(hosts, LinkCheck::thorough).size(),
              static_cast<size_t>(hosts) * (static_cast<size_t>(hosts) - 1) / 2);
}

TEST(LinkCheck, AQuickOneMeetsEveryHostInFewRounds) {
  for (const int hosts : {2, 3, 4, 5, 7, 8, 100, 1023, 1024, 1025, 10'000}) {
    EXPECT_EQ(partners_of(0, hosts, LinkCheck::quick).size(), std::bit_width(static_cast<unsigned>(hosts - 1)));
    std::set<int> seen;
    for (const auto& [one, other] : pairs(hosts, LinkCheck::quick)) {
      seen.insert(one);
      seen.insert(other);
    }
    EXPECT_EQ(seen.size(), static_cast<size_t>(hosts));
  }
}

TEST(LinkCheck, ALinkIsSlowBesideOthers) {
  const LinkSpeed usual{.bytes_per_second = 400e6, .latency = 50e-6};
  EXPECT_FALSE(usual.slower_than(usual));
  EXPECT_FALSE((LinkSpeed{.bytes_per_second = 101e6, .latency = 50e-6}.slower_than(usual)));
  EXPECT_TRUE((LinkSpeed{.bytes_per_second = 99e6, .latency = 50e-6}.slower_than(usual)));
  // A processor that was busy is late by less than a millisecond, too.
  EXPECT_FALSE((LinkSpeed{.bytes_per_second = 400e6, .latency = 900e-6}.slower_than(usual)));
  EXPECT_TRUE((LinkSpeed{.bytes_per_second = 400e6, .latency = 1100e-6}.slower_than(usual)));
  const LinkSpeed far{.bytes_per_second = 400e6, .latency = 5e-3};
  EXPECT_FALSE((LinkSpeed{.bytes_per_second = 400e6, .latency = 19e-3}.slower_than(far)));
  EXPECT_TRUE((LinkSpeed{.bytes_per_second = 400e6, .latency = 21e-3}.slower_than(far)));
}

}  // namespace
}  // namespace ridgeline::comm

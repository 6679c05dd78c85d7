// Who of a host meets whom of another, and what travels between hosts in a sum.
#include "ridgeline/comm/host_layout.h"

#include <gtest/gtest.h>

#include <array>
#include <map>
#include <vector>

namespace ridgeline::comm::detail {
namespace {

std::vector<std::array<int, 3>> summands_of(const Summands& summands) {
  std::vector<std::array<int, 3>> list;
  for (const Summand& summand : summands.all) list.push_back({summand.host, summand.first, summand.count});
  return list;
}
using Rows = std::vector<std::array<int, 3>>;

TEST(HostLayout, NumbersHostsByTheirFirstMember) {
  const std::vector<int> hosts{7, 2, 7, 2, 5};
  const HostLayout layout(hosts, 8);
  EXPECT_EQ(layout.hosts(), 3);
  EXPECT_EQ(layout.host_of(3), 1);
  EXPECT_EQ(layout.host_of(4), 2);
  EXPECT_EQ(layout.place_of(2), 1);
  EXPECT_EQ(std::vector<int>(layout.members(1).begin(), layout.members(1).end()), (std::vector<int>{1, 3}));
}

TEST(HostLayout, AGroupOnOneHostTravelsAsOneSum) {
  const HostLayout layout(std::vector<int>{0, 0, 1, 1}, 2);
  const Summands& summands = layout.summands(DType::f32);
  EXPECT_EQ(summands_of(summands), (Rows{{0, 0, 2}, {1, 2, 2}}));
  EXPECT_EQ(summands.runs, (std::vector<int>{1, 1}));
  EXPECT_EQ(summands.travelling(DType::bf16), DType::f32);
  EXPECT_EQ(summands.slots, 3);  // two to add, and one for the partner
}

TEST(HostLayout, AGroupAcrossHostsTravelsMemberByMember) {
  const HostLayout layout(std::vector<int>{0, 0, 0, 1, 1, 1}, 2);
  const Summands& summands = layout.summands(DType::f32);
  EXPECT_EQ(summands_of(summands), (Rows{{0, 0, 2}, {0, 2, 1}, {1, 3, 1}, {1, 4, 2}}));
  EXPECT_EQ(summands.runs, (std::vector<int>{1, 2, 1}));
  // As many bytes in fp32 sums as in bf16 values, and more of them would be too many.
  EXPECT_EQ(summands_of(layout.summands(DType::bf16)).size(), 6U);
  EXPECT_EQ(layout.summands(DType::bf16).runs, (std::vector<int>{2, 2, 2}));
  EXPECT_EQ(layout.summands(DType::bf16).travelling(DType::bf16), DType::bf16);
}

TEST(HostLayout, GroupsOfOneTravelAsTheyAre) {
  const HostLayout layout(std::vector<int>{0, 0, 1, 1}, 1);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    EXPECT_EQ(layout.summands(dtype).all.size(), 4U);
    EXPECT_EQ(layout.summands(dtype).travelling(dtype), dtype);
  }
}

// Members of a group that lie on one host need not be neighbours in the world, but in the group.
TEST(HostLayout, AlternatingHostsHaveNoGroupOfTheirOwn) {
  const HostLayout layout(std::vector<int>{0, 1, 0, 1}, 2);
  EXPECT_EQ(layout.summands(DType::f32).all.size(), 4U);
  EXPECT_EQ(layout.summands(DType::f32).runs, (std::vector<int>{2, 2}));
}

TEST(HostLayout, EveryMemberHasOnePartnerOnEachHostAndHostsShareTheWork) {
  for (const std::vector<int>& hosts :
       {std::vector<int>{0, 0, 1, 1}, {0, 0, 0, 1}, {0, 1, 1, 1}, {0, 0, 0, 1, 1, 1, 2, 2, 2}, {0, 1, 2}}) {
    const HostLayout layout(hosts, 1);
    for (int host = 0; host < layout.hosts(); ++host) {
      std::map<int, int> met;
      int others = 0;
      for (int member = 0; member < layout.size(); ++member) {
        const int partner = layout.partner(host, member);
        EXPECT_EQ(layout.host_of(partner), host);
        if (layout.host_of(member) == host) {
          EXPECT_EQ(partner, member);
          continue;
        }
        ++others;
        ++met[partner];
      }
      const auto here = static_cast<int>(layout.members(host).size());
      if (here * (layout.hosts() - 1) != others) continue;  // uneven
      for (const auto& [partner, times] : met) EXPECT_EQ(times, layout.hosts() - 1) << partner;
    }
  }
}

}  // namespace
}  // namespace ridgeline::comm::detail

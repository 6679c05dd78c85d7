// Communicators behind a pretended link: never early, always the same bits.
#include "ridgeline/comm/throttled.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <vector>

#include "conformance.h"

namespace ridgeline::comm {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;

TEST(Throttled, TrafficIsTheLowerBoundOfARing) {
  EXPECT_EQ(all_reduce_traffic(2, 100), 100);
  EXPECT_EQ(all_reduce_traffic(4, 100), 150);
  EXPECT_EQ(all_reduce_traffic(3, 4), 6);  // 5.3 bytes cannot be sent in 5
  EXPECT_EQ(part_traffic(2, 100), 50);
  EXPECT_EQ(part_traffic(4, 100), 75);
  EXPECT_EQ(all_reduce_traffic(1, 100), 0);
  EXPECT_EQ(part_traffic(1, 100), 0);
}

TEST(Throttled, ALinkCarriesOneTransferAfterTheOther) {
  const Link link{.bytes_per_second = 1e6, .latency = milliseconds(2)};
  detail::LinkClock clock(link);
  const detail::LinkClock::Time begin{std::chrono::seconds(5)};
  EXPECT_EQ(clock.reserve(begin, 1000), begin + milliseconds(3));
  EXPECT_EQ(clock.reserve(begin + milliseconds(1), 0), begin + milliseconds(5));
  EXPECT_EQ(clock.reserve(begin + milliseconds(10), 5000), begin + milliseconds(17));
  EXPECT_EQ((Link{.latency = milliseconds(1)}.duration(1 << 30)), milliseconds(1));
  EXPECT_FALSE(Link{}.throttles());
}

// The cases compare every bit with a reduction of their own.
TEST(Throttled, EveryConformanceCaseHolds) {
  for (const auto& item : conformance::cases()) {
    SCOPED_TRACE(item.name);
    EXPECT_NO_THROW(run_threads(3,
                                {.timeout = std::chrono::seconds(60),
                                 .sum_group = 2,
                                 .link = {.bytes_per_second = 50e9, .latency = std::chrono::microseconds(20)}},
                                item.run));
  }
}

TEST(Throttled, TransfersEndNoEarlierThanTheirLink) {
  const Link link{.bytes_per_second = 1e6, .latency = milliseconds(3)};
  run_threads(2, {.timeout = std::chrono::seconds(60), .link = link}, [&](World& world) {
    const auto one = world.communicator("one"), two = world.communicator("two");
    const std::vector<int> myself = {world.rank()};
    const auto alone = world.communicator(myself, "alone");
    std::vector<float> sum(1000, 1.0F), gathered(2000);
    int64_t tiny = world.rank();
    const auto begin = std::chrono::steady_clock::now();
    const Ticket first = one->all_reduce(Ref(sum.data()), 1000, ReduceOp::sum, {"sum"});
    const Ticket second = two->all_gather(Ref(gathered.data()), 1000, {"gather"});
    const Ticket third = one->all_reduce(Ref(&tiny), 1, ReduceOp::sum, {"tiny"});
    const auto since = [&] { return std::chrono::steady_clock::now() - begin; };
    // 4000 bytes each: 7 ms, one after the other although the communicators differ; the last pays for 8 bytes.
    one->wait(first);
    EXPECT_GE(since(), milliseconds(7));
    EXPECT_EQ(sum[999], 2.0F);
    two->wait(second);
    EXPECT_GE(since(), milliseconds(14));
    one->wait(third);
    EXPECT_GE(since(), milliseconds(17) + nanoseconds(8000));
    EXPECT_EQ(tiny, 1);
    one->wait(first);  // once more: it is complete
    alone->wait(alone->all_reduce(Ref(sum.data()), 1000, ReduceOp::sum, {"alone"}));
    EXPECT_EQ(sum[0], 2.0F);
  });
}

TEST(Throttled, ASleepingRankHearsOfAFailure) {
  // The transfer would take a day.
  const Link link{.latency = std::chrono::hours(24)};
  EXPECT_THROW(run_threads(2, {.timeout = std::chrono::seconds(60), .link = link},
                           [](World& world) {
                             const auto all = world.communicator("all");
                             const Ticket ticket = all->barrier({"never"});
                             if (world.rank() == 1) throw std::runtime_error("no");
                             all->wait(ticket);
                           }),
               std::exception);
}

}  // namespace
}  // namespace ridgeline::comm

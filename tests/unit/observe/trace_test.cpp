#include "ridgeline/observe/trace.h"

#include <gtest/gtest.h>

#include <chrono>
#include <limits>
#include <nlohmann/json.hpp>
#include <thread>

#include "ridgeline/base/file.h"

namespace ridgeline::observe {
namespace {

using nlohmann::json;

json parsed(const std::string& events) {
  return json::parse("[" + events + "]");
}

TEST(Trace, EventsCarryRankLaneTimesAndNames) {
  Trace trace(3, 8);
  const uint32_t forward = trace.intern("forward \"block.0\"");
  const uint32_t reduce = trace.intern("reduce");
  EXPECT_EQ(trace.intern("reduce"), reduce);
  trace.record(Lane::compute, forward, 1, 2);  // still off
  EXPECT_EQ(trace.earliest(5), std::numeric_limits<int64_t>::max());
  trace.enable(true);
  trace.record(Lane::compute, forward, 1'000'000'123, 1'000'001'124, 7);
  trace.record(Lane::reduce, reduce, 999'999'000, 1'000'000'000);
  EXPECT_EQ(trace.earliest(0), 999'999'000);
  EXPECT_EQ(trace.earliest(5), 999'999'005);
  std::vector<json> complete, names;
  for (const json& event : parsed(trace.events_json(1'000'000'007, 7))) {
    (event.at("ph") == "X" ? complete : names).push_back(event);
  }
  ASSERT_EQ(complete.size(), 2U);
  EXPECT_EQ(complete[0].at("name"), "forward \"block.0\"");
  EXPECT_EQ(complete[0].at("pid"), 3);
  EXPECT_EQ(complete[0].at("tid"), 0);
  EXPECT_DOUBLE_EQ(complete[0].at("ts").get<double>(), 0.123);
  EXPECT_DOUBLE_EQ(complete[0].at("dur").get<double>(), 1.001);
  EXPECT_EQ(complete[0].at("args").at("n"), 7);
  EXPECT_EQ(complete[1].at("cat"), "reduce");
  EXPECT_DOUBLE_EQ(complete[1].at("ts").get<double>(), -1.0);
  EXPECT_FALSE(complete[1].contains("args"));
  ASSERT_EQ(names.size(), 6U);  // two for the rank, two for each lane that has events
  EXPECT_EQ(names[0].at("args").at("name"), "rank 3");
  EXPECT_EQ(names[4].at("args").at("name"), "reduce");
}

TEST(Trace, AFullRingKeepsTheLatest) {
  Trace trace(0, 4);
  trace.enable(true);
  const uint32_t name = trace.intern("x");
  for (int i = 0; i < 10; ++i) trace.record(Lane::gather, name, 1000 * i, 1000 * i + 500);
  EXPECT_EQ(trace.lost(), 6);
  std::vector<double> begins;
  for (const json& event : parsed(trace.events_json(0, 0))) {
    if (event.at("ph") == "X") begins.push_back(event.at("ts"));
  }
  EXPECT_EQ(begins, (std::vector<double>{6, 7, 8, 9}));
}

TEST(Trace, LanesMayBeWrittenByDifferentThreads) {
  Trace trace(0, 1000);
  trace.enable(true);
  const uint32_t name = trace.intern("x");
  {
    std::vector<std::jthread> team;
    for (int lane = 0; lane < kLanes; ++lane) {
      team.emplace_back([&, lane] {
        for (int i = 0; i < 1000; ++i) trace.record(static_cast<Lane>(lane), name, i, i + 1);
      });
    }
  }
  EXPECT_EQ(trace.lost(), 0);
  EXPECT_EQ(parsed(trace.events_json(0, 0)).size(), 2U + 2 * kLanes + 1000 * kLanes);
}

TEST(Trace, TheWallClockIsKnownToAMillisecond) {
  using std::chrono::nanoseconds, std::chrono::duration_cast;
  for (int i = 0; i < 3; ++i) {  // each may be disturbed
    const auto offset = nanoseconds(steady_to_wall());
    const auto steady = duration_cast<nanoseconds>(std::chrono::steady_clock::now().time_since_epoch());
    const auto wall = duration_cast<nanoseconds>(std::chrono::system_clock::now().time_since_epoch());
    if (std::chrono::abs(steady + offset - wall) < std::chrono::milliseconds(1)) return;
  }
  FAIL();
}

TEST(Trace, AFileHoldsAllRanksFromTimeZero) {
  Trace first(0, 4), second(1, 4), silent(2, 4);
  for (Trace* trace : {&first, &second}) {
    trace->enable(true);
    const uint32_t name = trace->intern("step");
    trace->record(Lane::exchange, name, 5'000 + 1'000 * trace->rank(), 9'000);
  }
  const auto path = std::filesystem::temp_directory_path() / "ridgeline_trace_test.json";
  const std::vector<std::string> ranks{first.events_json(5'000, 0), second.events_json(5'000, 0), "",
                                       silent.events_json(5'000, 0)};
  write_trace(path, ranks);
  const json file = json::parse(read_text(path));
  std::filesystem::remove(path);
  std::vector<double> begins;
  for (const json& event : file.at("traceEvents")) {
    if (event.at("ph") == "X") begins.push_back(event.at("ts"));
  }
  EXPECT_EQ(begins, (std::vector<double>{0, 1}));
}

}  // namespace
}  // namespace ridgeline::observe

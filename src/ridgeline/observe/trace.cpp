#include "ridgeline/observe/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <limits>

#include "ridgeline/base/error.h"
#include "ridgeline/base/json.h"
#include "ridgeline/base/output.h"

namespace ridgeline::observe {
namespace {

constexpr std::string_view kTraceStart = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n";

// Nanoseconds as microseconds with three decimals, exactly.
void append_microseconds(std::string& out, int64_t nanoseconds) {
  if (nanoseconds < 0) out += '-';
  const uint64_t size = nanoseconds < 0 ? 0 - static_cast<uint64_t>(nanoseconds) : static_cast<uint64_t>(nanoseconds);
  fmt::format_to(std::back_inserter(out), "{}.{:03}", size / 1000, size % 1000);
}

}  // namespace

std::string_view name_of(Lane lane) {
  constexpr std::array<std::string_view, kLanes> kNames{"compute", "gather", "reduce", "exchange", "copy"};
  return kNames.at(static_cast<size_t>(lane));
}

int64_t steady_to_wall() {
  const auto nanoseconds = [](auto time) {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
  };
  constexpr int kTries = 20;  // of which the shortest was disturbed least
  int64_t shortest = std::numeric_limits<int64_t>::max(), offset = 0;
  for (int i = 0; i < kTries; ++i) {
    const int64_t before = nanoseconds(std::chrono::steady_clock::now());
    const int64_t wall = nanoseconds(std::chrono::system_clock::now());
    const int64_t took = nanoseconds(std::chrono::steady_clock::now()) - before;
    if (took >= shortest) continue;
    shortest = took;
    offset = wall - (before + took / 2);
  }
  return offset;
}

Trace::Trace(int rank, int64_t capacity_per_lane) : rank_(rank) {
  RL_CHECK(capacity_per_lane, >, 0);
  for (Ring& ring : rings_) ring.events.resize(static_cast<size_t>(capacity_per_lane));
}

uint32_t Trace::intern(std::string_view name) {
  const auto [place, added] = numbers_.try_emplace(std::string(name), static_cast<uint32_t>(names_.size()));
  if (added) names_.emplace_back(name);
  return place->second;
}

void Trace::record(Lane lane, uint32_t name, int64_t begin, int64_t end, int64_t detail) {
  if (!enabled()) return;
  Ring& ring = rings_[static_cast<size_t>(lane)];
  const auto place = static_cast<size_t>(ring.written++) % ring.events.size();
  ring.events[place] = {begin, end, detail, name, 0};
}

template <typename Visit>
void Trace::for_each(const Ring& ring, Visit visit) const {
  const auto capacity = static_cast<int64_t>(ring.events.size());
  for (int64_t i = std::max<int64_t>(0, ring.written - capacity); i < ring.written; ++i) {
    visit(ring.events[static_cast<size_t>(i % capacity)]);
  }
}

int64_t Trace::lost() const {
  int64_t lost = 0;
  for (const Ring& ring : rings_) {
    lost += std::max<int64_t>(0, ring.written - static_cast<int64_t>(ring.events.size()));
  }
  return lost;
}

int64_t Trace::earliest(int64_t clock_offset) const {
  int64_t first = std::numeric_limits<int64_t>::max();
  for (const Ring& ring : rings_) {
    for_each(ring, [&](const Event& event) { first = std::min(first, event.begin + clock_offset); });
  }
  return first;
}

std::string Trace::events_json(int64_t origin, int64_t clock_offset) const {
  std::vector<std::string> names;
  for (const std::string& name : names_) names.push_back(json_string(name, NotUtf8::replace));
  std::string out =
      fmt::format(R"({{"name":"process_name","ph":"M","pid":{0},"tid":0,"args":{{"name":"rank {0}"}}}},)"
                  "\n"
                  R"({{"name":"process_sort_index","ph":"M","pid":{0},"tid":0,"args":{{"sort_index":{0}}}}})",
                  rank_);
  for (int lane = 0; lane < kLanes; ++lane) {
    const Ring& ring = rings_[static_cast<size_t>(lane)];
    if (ring.written == 0) continue;
    const std::string_view lane_name = name_of(static_cast<Lane>(lane));
    fmt::format_to(std::back_inserter(out),
                   ",\n"
                   R"({{"name":"thread_name","ph":"M","pid":{0},"tid":{1},"args":{{"name":"{2}"}}}},)"
                   "\n"
                   R"({{"name":"thread_sort_index","ph":"M","pid":{0},"tid":{1},"args":{{"sort_index":{1}}}}})",
                   rank_, lane, lane_name);
    for_each(ring, [&](const Event& event) {
      RL_CHECK(event.name, <, names.size());
      fmt::format_to(std::back_inserter(out),
                     ",\n{{\"name\":{},\"cat\":\"{}\",\"ph\":\"X\",\"pid\":{},\"tid\":{},\"ts\":", names[event.name],
                     lane_name, rank_, lane);
      append_microseconds(out, event.begin + clock_offset - origin);
      out += ",\"dur\":";
      append_microseconds(out, std::max<int64_t>(0, event.end - event.begin));
      if (event.detail >= 0) fmt::format_to(std::back_inserter(out), ",\"args\":{{\"n\":{}}}", event.detail);
      out += '}';
    });
  }
  return out;
}

bool is_trace(std::string_view start) {
  return start.starts_with(kTraceStart);
}

void write_trace(const std::filesystem::path& path, std::span<const std::string> events_of_ranks) {
  std::string text(kTraceStart);
  bool first = true;
  for (const std::string& events : events_of_ranks) {
    if (events.empty()) continue;
    if (!first) text += ",\n";
    text += events;
    first = false;
  }
  text += "\n]}\n";
  write_output(path, text);
}

}  // namespace ridgeline::observe

// What each rank did when: recorded into preallocated rings during some steps, written at the end as a JSON file that
// Perfetto (ui.perfetto.dev) and chrome://tracing open. One process per rank, one lane per stream.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace ridgeline::observe {

enum class Lane : uint8_t { compute, gather, reduce, exchange, copy };
constexpr int kLanes = 5;
std::string_view name_of(Lane lane);

// What makes nanoseconds of the steady clock, which each host begins at a moment of its own, nanoseconds since 1970,
// about which hosts agree as well as their clocks are set.
int64_t steady_to_wall();

// The events of one rank. Lanes are separate rings: each may be written by one thread at a time, different lanes by
// different threads at once. When a ring is full the oldest events are overwritten.
class Trace {
 public:
  // All memory is taken here: kLanes * capacity events of 32 bytes.
  explicit Trace(int rank, int64_t capacity_per_lane = 1 << 15);

  // A number for a name ("forward block.3"); equal names give equal numbers. Before recording: allocates.
  uint32_t intern(std::string_view name);

  // One finished operation, times in nanoseconds of the steady clock. `detail` is shown as argument "n" unless negative
  // (micro-batch, bytes, …). Allocates nothing. Does nothing while recording is off.
  void record(Lane lane, uint32_t name, int64_t begin, int64_t end, int64_t detail = -1);

  // Off at first.
  void enable(bool on) { enabled_.store(on, std::memory_order_relaxed); }
  bool enabled() const { return enabled_.load(std::memory_order_relaxed); }

  int rank() const { return rank_; }
  // Events overwritten because a ring was full.
  int64_t lost() const;

  // The events as JSON objects separated by commas (no brackets), by lane and time: what one rank sends to the one that
  // writes the file. `clock_offset` (ns) is added to every time, as steady_to_wall(); `origin` (ns) of that becomes 0.
  std::string events_json(int64_t origin, int64_t clock_offset) const;
  // Begin of the earliest event with `clock_offset` added, INT64_MAX when there is none.
  int64_t earliest(int64_t clock_offset) const;

 private:
  struct Event {
    int64_t begin, end, detail;
    uint32_t name;
    uint32_t unused;
  };
  struct Ring {
    std::vector<Event> events;
    int64_t written = 0;
  };
  template <typename Visit>
  void for_each(const Ring& ring, Visit visit) const;

  int rank_;
  std::atomic<bool> enabled_{false};
  std::vector<std::string> names_;
  std::unordered_map<std::string, uint32_t> numbers_;  // of names_
  std::array<Ring, kLanes> rings_;
};

// Whether a file that begins so is one that write_trace wrote.
bool is_trace(std::string_view start);
// Writes the file from the ranks' events_json().
void write_trace(const std::filesystem::path& path, std::span<const std::string> events_of_ranks);

}  // namespace ridgeline::observe

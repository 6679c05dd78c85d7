#include "ridgeline/comm/throttled.h"

#include <algorithm>
#include <cmath>
#include <thread>

#include "ridgeline/comm/rank_world.h"

namespace ridgeline::comm {

std::chrono::nanoseconds Link::duration(int64_t traffic) const {
  const double seconds = bytes_per_second > 0 ? static_cast<double>(traffic) / bytes_per_second : 0;
  return latency + std::chrono::nanoseconds(std::llround(seconds * 1e9));
}

int64_t part_traffic(int ranks, int64_t bytes) {
  return bytes / ranks * (ranks - 1);
}

int64_t all_reduce_traffic(int ranks, int64_t bytes) {
  return (2 * bytes * (ranks - 1) + ranks - 1) / ranks;
}

namespace detail {
namespace {

// A sleeping rank looks this often whether the world has failed.
constexpr std::chrono::milliseconds kNap{100};

}  // namespace

LinkClock::Time LinkClock::reserve(Time now, int64_t traffic) {
  free_ = std::max(now, free_) + link_.duration(traffic);
  return free_;
}

Ticket ThrottledCommunicator::start(const Request& request) {
  const Ticket ticket = inner_->request(request);
  const int64_t traffic = traffic_of(request, rank(), size());
  deadlines_[ticket.number % kDeadlines] = {ticket.number, clock_.reserve(std::chrono::steady_clock::now(), traffic)};
  return ticket;
}

void ThrottledCommunicator::wait(Ticket ticket) {
  const Deadline& deadline = deadlines_[ticket.number % kDeadlines];
  while (deadline.ticket == ticket.number) {
    world_.check_failed();
    const auto left = deadline.time - std::chrono::steady_clock::now();
    if (left.count() <= 0) break;
    std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(left, kNap));
  }
  inner_->wait(ticket);
}

}  // namespace detail
}  // namespace ridgeline::comm

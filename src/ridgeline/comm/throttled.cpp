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

int64_t bytes_of(ConstRef buffer, int64_t count) {
  return count * size_of(buffer.dtype);
}

}  // namespace

LinkClock::Time LinkClock::reserve(Time now, int64_t traffic) {
  free_ = std::max(now, free_) + link_.duration(traffic);
  return free_;
}

Ticket ThrottledCommunicator::started(Ticket ticket, int64_t traffic) {
  deadlines_[ticket.number % kDeadlines] = {ticket.number, clock_.reserve(std::chrono::steady_clock::now(), traffic)};
  return ticket;
}

Ticket ThrottledCommunicator::all_reduce(Ref buffer, int64_t count, ReduceOp op, const Label& label) {
  return started(inner_->all_reduce(buffer, count, op, label), all_reduce_traffic(size(), bytes_of(buffer, count)));
}

Ticket ThrottledCommunicator::reduce_scatter(Ref buffer, int64_t shard, ReduceOp op, const Label& label) {
  return started(inner_->reduce_scatter(buffer, shard, op, label),
                 part_traffic(size(), size() * bytes_of(buffer, shard)));
}

Ticket ThrottledCommunicator::all_gather(Ref buffer, int64_t shard, const Label& label) {
  return started(inner_->all_gather(buffer, shard, label), part_traffic(size(), size() * bytes_of(buffer, shard)));
}

Ticket ThrottledCommunicator::broadcast(Ref buffer, int64_t count, int root, const Label& label) {
  return started(inner_->broadcast(buffer, count, root, label), bytes_of(buffer, count));
}

Ticket ThrottledCommunicator::all_to_all(ConstRef send, Ref receive, int64_t part, const Label& label) {
  return started(inner_->all_to_all(send, receive, part, label), part_traffic(size(), size() * bytes_of(send, part)));
}

Ticket ThrottledCommunicator::exchange(std::span<const Send> sends, std::span<const Receive> receives,
                                       const Label& label) {
  int64_t sent = 0, received = 0;
  for (const Send& send : sends) sent += send.peer == rank() ? 0 : bytes_of(send.data, send.count);
  for (const Receive& receive : receives)
    received += receive.peer == rank() ? 0 : bytes_of(receive.data, receive.count);
  return started(inner_->exchange(sends, receives, label), std::max(sent, received));
}

Ticket ThrottledCommunicator::barrier(const Label& label) {
  return started(inner_->barrier(label), 0);
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

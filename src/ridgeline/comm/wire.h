// What carries messages between the processes of a run: MPI, or TCP connections of our own. All that is known of either
// stands here; collectives, their order of summation, labels, time limits and failures are the same code above it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <type_traits>
#include <vector>

#include "ridgeline/base/error.h"

namespace ridgeline::comm::detail {

// A message cannot be passed on: a peer or the way to it is gone, or something else arrives than was expected.
class Undeliverable : public Error {
  using Error::Error;
};

// Messages that somebody waits for together.
struct Batch {
  int open = 0;  // how many of them are not done
};

// Messages between the members of one communicator, who are named by their numbers in it. Every call is made by the
// rank's own thread, and none waits. What one member sends to another under one tag arrives in the order in which it
// was sent; receives are posted in that same order, before or after the message is there. Messages under different tags
// do not wait for each other. A send may be done before its receive is posted, as far as the system has room for it,
// and no further. Throws Undeliverable.
class Channel {
 public:
  static constexpr int kTags = 4;

  virtual ~Channel() = default;
  // Memory, and the batch, stay the caller's, and good until the message is done or withdrawn. Both ends name the same
  // `tag` (0 … kTags-1) and the same number of bytes; another number is an error of the receiver.
  virtual void send(const void* data, int64_t bytes, int member, int tag, Batch& batch) = 0;
  virtual void receive(void* data, int64_t bytes, int member, int tag, Batch& batch) = 0;
  // Passes on what can be now; whether anything was, since the last look.
  virtual bool progress() = 0;
  // Members of the batch's messages that are not done, each once, as far as they fit; how many. Nothing is allocated.
  virtual int missing(const Batch& batch, std::span<int> members) const = 0;
  // The end of the channel, whatever is posted: no memory is touched any more. For what has failed.
  virtual void withdraw() = 0;
};

class Wire {
 public:
  virtual ~Wire() = default;
  virtual const char* name() const = 0;  // World::backend
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Collective over all ranks, which wait; for start-up. `all` has room for size() times `bytes`.
  virtual void all_gather(const void* own, void* all, int64_t bytes) = 0;
  virtual void broadcast(void* data, int64_t bytes, int root) = 0;

  // Collective over `ranks` (ascending, the same list and key on each; this rank is one of them), and may wait for
  // them. The wire outlives it.
  virtual std::unique_ptr<Channel> channel(std::span<const int> ranks, uint64_t key) = 0;

  // Watchers see every rank from now on: what does not come is found out and named by them.
  virtual void watched() {}

  // Every rank has done all that it came for. Nothing is called afterwards. `exit_status`: as in WorldOptions.
  virtual void leave(const std::function<int()>& /*exit_status*/) {}
};

template <typename Value>
std::vector<Value> all_gather(Wire& wire, const Value& own) {
  static_assert(std::is_trivially_copyable_v<Value>);
  std::vector<Value> all(static_cast<size_t>(wire.size()));
  wire.all_gather(&own, all.data(), sizeof(Value));
  return all;
}

// Appends `one` to the first `count` of `all`, unless it is there or there is no room.
inline void add_once(std::span<int> all, size_t& count, int one) {
  for (size_t i = 0; i < count; ++i) {
    if (all[i] == one) return;
  }
  if (count < all.size()) all[count++] = one;
}

}  // namespace ridgeline::comm::detail

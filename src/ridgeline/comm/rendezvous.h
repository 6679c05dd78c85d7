// How processes that nobody has connected find each other, over TCP: all come to rank 0, which listens at a place that
// everybody knows. When all are there it tells them the run's secret; then each talks to rank 0 alone, which passes on
// what is for all. For start-up: time and connections of rank 0 grow with the ranks.
//
// Who comes says first which rank of how many it is and, where rank 0 wants one, the secret that the environment gave
// it: it keeps other runs and strangers out, but nothing is encrypted. What is no such greeting is dropped and counted.
// A failure is told where it is found: rank 0 tells before the others hear of it, and they hear that it has.
#pragma once

#include <functional>
#include <list>
#include <string>
#include <vector>

#include "ridgeline/base/error.h"
#include "ridgeline/comm/control_messages.h"
#include "ridgeline/comm/rendezvous_setup.h"
#include "ridgeline/comm/socket.h"

namespace ridgeline::comm::detail {

enum class RendezvousWord : uint32_t;

class Rendezvous {
 public:
  // Tells a failure to people; whether that is done, here or by another rank, so that nobody is to print it again.
  using Tell = std::function<bool(const Failure&)>;

  // Returns when every rank is there. Throws Error on each: two processes are one rank, or count the ranks otherwise,
  // have another secret or version; and at the timeout with the ranks that are missing, or what was tried to reach rank
  // 0. What has been told by `tell` is thrown, here and below, as a RankFailure that is not to be reported.
  explicit Rendezvous(const RendezvousSetup& setup, Tell tell = {});

  const ControlSecret& secret() const { return secret_; }  // of this run: random, the same on all ranks
  int strangers() const { return strangers_; }
  // This end of the connection to rank 0, and the other one; all 0 on rank 0 itself.
  ControlAddress own_address() const { return own_address_; }
  ControlAddress root_address() const { return root_address_; }

  // As Wire has them. Throw Error on all ranks when one is gone or does not come within the timeout.
  void all_gather(const void* own, void* all, int64_t bytes);
  void broadcast(void* data, int64_t bytes, int root);
  // Collective: every rank knows of this failure, rank 0 tells it, and every rank throws it.
  [[noreturn]] void give_up(const Failure& failure);

 private:
  struct Arrival;  // a connection that has not said who it is

  void serve();
  void accept_all(int listener, std::list<Arrival>& arrivals) const;
  bool hear(Arrival& arrival);  // false when it is to be dropped
  void admit(Arrival& arrival);
  void forget_the_gone();
  bool complete() const;
  void join();
  Socket connect_to_root(int64_t limit);
  std::vector<int> missing_ranks() const;

  int64_t limit() const;  // of what begins now
  void give(int rank, const void* data, size_t bytes);
  void take(int rank, void* data, size_t bytes);
  bool hear_word(int rank, RendezvousWord word, void* data, size_t bytes, int64_t limit);
  [[noreturn]] void fail(const Failure& failure);
  [[noreturn]] void fail_for(int rank, const std::string& what);
  [[noreturn]] void fail_for_missing();

  const RendezvousSetup setup_;
  const Tell tell_;
  ControlSecret secret_{};
  ControlAddress own_address_{}, root_address_{};
  std::vector<Socket> ranks_;  // of rank 0: to each; of the others: the first, to rank 0
  int strangers_ = 0;
};

}  // namespace ridgeline::comm::detail

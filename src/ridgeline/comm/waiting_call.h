// A rank in a call that waits for other ranks and gives no time back, as MPI's that make a communicator.
#pragma once

#include <condition_variable>
#include <mutex>
#include <span>
#include <string>
#include <thread>

#include "ridgeline/comm/host.h"

namespace ridgeline::comm::detail {

// From construction to destruction a thread does what a rank that waits does itself (RankWorld): it says that the rank
// waits and for whom, and past the timeout it asks the watcher who it is that does not come. The verdict reaches this
// rank like any other failure; where the call does not come back even then, the watcher ends the process after the
// grace. The thread calls neither MPI nor the caller.
class WaitingCall {
 public:
  // `ranks`: of the world, this one among them. `what`: for the message.
  WaitingCall(Host& host, int local, std::span<const int> ranks, std::string what);
  ~WaitingCall();
  WaitingCall(const WaitingCall&) = delete;
  WaitingCall& operator=(const WaitingCall&) = delete;

 private:
  void look();
  void ask();

  Host& host_;
  RankState& state_;
  const std::string what_;
  int others_ = 0;  // how many are named as blocked_on
  std::mutex mutex_;
  std::condition_variable wake_;
  bool back_ = false;
  std::thread thread_;
};

}  // namespace ridgeline::comm::detail

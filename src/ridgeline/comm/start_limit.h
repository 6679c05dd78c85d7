// Ends a process whose run does not come together. The start of an MPI gives no time back: where a rank is missing (no
// such program on its node, a library, a crash) MPI_Init and the first exchanges of the others would wait for it for
// ever. Until watchers are connected nobody else can say so.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "ridgeline/comm/communicator.h"
#include "ridgeline/comm/start_word.h"

namespace ridgeline::comm::detail {

// A short timeout of operations is not meant for a launcher that starts processes on many hosts.
constexpr std::chrono::milliseconds kLeastStart{10'000};

// A thread that counts the time from its construction to its destruction, as far as this process ran: being stopped is
// no waiting. When it comes to `limit` it tells, once per job (StartWord), and leaves the process by _Exit(1).
class StartLimit {
 public:
  StartLimit(const WorldOptions& options, std::chrono::milliseconds limit);
  ~StartLimit();
  StartLimit(const StartLimit&) = delete;
  StartLimit& operator=(const StartLimit&) = delete;

  // What is waited in from now on, for the message; a literal.
  void waits_in(const char* what) { what_.store(what); }

 private:
  void count();
  bool over_within(std::chrono::milliseconds time);  // the ranks have come together
  Failure failure() const;

  const std::chrono::milliseconds limit_;
  const int rank_;  // -1 where nobody says
  const StartWord word_;
  std::atomic<const char*> what_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool over_ = false;
  std::thread thread_;
};

}  // namespace ridgeline::comm::detail

// Who says why a start has failed, once per job, while the ranks are not connected and cannot agree: the lowest that is
// there. Rank 0 says it at once; every other leaves that to those before it for a while, and says it where no word is
// in the failure file by then. Without such a file ranks 0 and 1 say it.
#pragma once

#include <chrono>
#include <cstdint>

#include "ridgeline/comm/communicator.h"

namespace ridgeline::comm::detail {

class StartWord {
 public:
  // `rank`: -1 where nobody says which one this process is, which then speaks for itself.
  StartWord(const WorldOptions& options, int rank);

  // How long this rank leaves the word to others, in a start that may take `limit`.
  std::chrono::milliseconds turn(std::chrono::milliseconds limit) const;
  // After that time: on_failure, and the failure file with its folder, unless another rank has told. True when either
  // has; false where whoever catches the failure is to print it.
  bool tell(const Failure& failure) const;

 private:
  const WorldOptions options_;
  const int rank_;
  const int64_t began_;  // wall clock, seconds
};

}  // namespace ridgeline::comm::detail

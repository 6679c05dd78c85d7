// What a rank throws when the world has failed, for programs that print it.
#pragma once

#include <string>
#include <string_view>

#include "ridgeline/base/error.h"
#include "ridgeline/comm/communicator.h"

namespace ridgeline::comm {

// The first failure of a run, thrown on every rank and out of run_threads and run_mpi.
class RankFailure : public Error {
 public:
  RankFailure(const Failure& failure, bool report, bool leave_at_once)
      : Error(failure.what, failure.next), failure_(failure), report_(report), leave_at_once_(leave_at_once) {}

  const Failure& failure() const { return failure_; }
  // True in the one process that should print it; false in the others, and where WorldOptions::on_failure has been
  // called for it.
  bool report() const { return report_; }
  // True when a rank's thread did not come back and still runs: its stack may refer to anything, so the program prints
  // and leaves by std::_Exit, without destructors.
  bool leave_at_once() const { return leave_at_once_; }

 private:
  Failure failure_;
  bool report_, leave_at_once_;
};

// FOLDER/rank-0012.log
std::string rank_log_path(std::string_view folder, int rank);

// Thrown by a rank on behalf of all: the run is refused before it begins. No rank is to blame, so none is named beyond
// the message, and no failure file is written: the folder may be another run's.
class Refusal : public Error {
  using Error::Error;
};

}  // namespace ridgeline::comm

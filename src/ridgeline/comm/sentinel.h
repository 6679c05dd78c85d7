// A small process beside the MPI ranks of a host. When a rank dies, a launcher may kill the others within a
// millisecond, before any of them can say who it was; this process is not the launcher's child, so it lives to write it
// down. It also ends ranks that do not come back after a failure: a rank that computes, hangs or is stopped would keep
// the job alive.
#pragma once

#include <memory>

#include "ridgeline/comm/host.h"

namespace ridgeline::comm::detail {

// A pipe that closes when the rank dies. Made by every rank before the host's Sentinel.
class LifePipe {
 public:
  explicit LifePipe(RankState& state);
  ~LifePipe();
  LifePipe(const LifePipe&) = delete;
  LifePipe& operator=(const LifePipe&) = delete;
  void watched();  // the Sentinel has its end

 private:
  int read_ = -1, write_ = -1;
};

class Sentinel {
 public:
  // Forks; only the host's first rank does this. The new process shares `host`'s memory and calls its on_failure.
  explicit Sentinel(const Host& host);
  // After a good end stops the process; after a failure it is left to finish on its own.
  ~Sentinel();
  Sentinel(const Sentinel&) = delete;
  Sentinel& operator=(const Sentinel&) = delete;

 private:
  const Host& host_;
  int process_ = -1;
};

}  // namespace ridgeline::comm::detail

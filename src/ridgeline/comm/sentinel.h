// A small process beside the ranks of a host, where these are processes. When a rank dies, a launcher may kill the
// others within a millisecond, before any of them can say who it was; this process is not the launcher's child, so it
// lives to write it down, and to tell the watchers of the other hosts (control.h). It also ends ranks that do not come
// back after a failure: a rank that computes, hangs or is stopped would keep the job alive.
#pragma once

#include <memory>
#include <optional>

#include "ridgeline/base/error.h"
#include "ridgeline/comm/control_links.h"
#include "ridgeline/comm/host.h"

namespace ridgeline::comm::detail {

// A pipe from a rank to its host's Sentinel: it closes when the rank dies, and a byte in it says that the rank's state
// is worth a look. Made by every rank before the Sentinel.
class LifePipe {
 public:
  explicit LifePipe(RankState& state);
  ~LifePipe();
  LifePipe(const LifePipe&) = delete;
  LifePipe& operator=(const LifePipe&) = delete;
  void watched(Host& host);  // the Sentinel has its end

 private:
  int read_ = -1, write_ = -1;
};

class Sentinel {
 public:
  // Forks; only the host's first rank does this. The new process shares `host`'s memory and calls its on_failure. When
  // the constructor returns it watches; it leaves by itself, soon after the ranks have departed or are gone.
  Sentinel(const Host& host, const ControlSetup& setup);
  ~Sentinel();
  Sentinel(const Sentinel&) = delete;
  Sentinel& operator=(const Sentinel&) = delete;

  // Waits until it is connected with its parent's. What stands in the way, if anything.
  std::optional<Error> connected();

 private:
  int words_ = -1;  // what the process has to say at start-up
};

}  // namespace ridgeline::comm::detail

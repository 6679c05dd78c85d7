// SIGTERM, SIGUSR1 and Ctrl-C ask a run to stop after the current step; SIGTERM or Ctrl-C once more quits at once, also
// out of a step that never ends.
#pragma once

namespace ridgeline::train {

// Installs the handlers for the life of the object (one at a time) and restores the old ones afterwards. A second
// SIGTERM or SIGINT ends the process with 128 + its number, the code of a process that the signal itself ended, and one
// line on stderr. A launcher may pass on what the terminal or the scheduler has sent to the process as well, so what
// arrives within kSameMilliseconds after the first is the same request; SIGUSR1, which schedulers send as a warning
// before SIGTERM, counts for none. The first SIGINT is answered at once where stderr is a terminal: a step may take
// minutes, and whoever sees nothing presses again.
class StopSignals {
 public:
  static constexpr int kSameMilliseconds = 100;

  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  // The number of the signal that asked to stop, 0 while none has.
  static int requested();
};

}  // namespace ridgeline::train

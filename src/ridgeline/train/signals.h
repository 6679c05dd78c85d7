// SIGTERM, SIGUSR1 and Ctrl-C ask a run to stop after the current step; a second Ctrl-C quits at once.
#pragma once

namespace ridgeline::train {

// Installs the handlers for the life of the object (one at a time) and restores the old ones afterwards.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  // The number of the signal that asked to stop, 0 while none has.
  static int requested();
};

}  // namespace ridgeline::train

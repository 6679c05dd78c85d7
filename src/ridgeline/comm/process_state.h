// What proc(5) says of a process that need not be a child of this one.
#pragma once

namespace ridgeline::comm::detail {

struct ProcessState {
  char letter = 0;      // R, S, D, T, t, Z, ...; 0: there is no such process
  int exit_status = 0;  // as of wait(2), from when it begins to end until somebody has waited for it; 0 else
  bool ends = false;    // runs no code of its own any more; its memory and descriptors are being given back

  bool is_dead() const { return ends || letter == 0 || letter == 'Z' || letter == 'X'; }
};
ProcessState process_state(int process);

}  // namespace ridgeline::comm::detail

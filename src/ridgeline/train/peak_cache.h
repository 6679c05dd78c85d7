// The machine's arithmetic peak, measured once and kept per CPU model, so that a run can print its MFU from the first
// step.
#pragma once

#include "ridgeline/base/dtype.h"
#include "ridgeline/device/machine.h"

namespace ridgeline::train {

// FLOP/s of one thread while all processors of `machine` are busy, for products of `dtype`. Read from
// $XDG_CACHE_HOME/ridgeline/peak.json (default ~/.cache), else measured (0.1 s) and written there; a cache that cannot
// be read or written is no error. With `again`: measured in any case, and the better of both is kept and returned.
double peak_flops_per_thread(DType dtype, const device::Machine& machine, bool again = false);

}  // namespace ridgeline::train

// What the command line may ask of this machine: checked before anything is started or touched, with the options that
// asked for it.
#pragma once

#include <cstdint>
#include <string_view>

#include "ridgeline/device/machine.h"

namespace ridgeline::cli {

// Error when `ranks` ranks of `threads` threads each are more than one process should start: beyond 1,024, and sixteen
// per processor, they only wait for each other. `asked`: what asked for them ("--ranks 8, train.threads = 4").
void require_threads(const device::Machine& machine, int64_t ranks, int64_t threads, std::string_view asked);

// What --threads means: all processors where it is 0. Error as above.
int threads_or_all(int threads);
// The same for each of `ranks` ranks of this process: a share of the processors where it is 0.
int threads_of_rank(const device::Machine& machine, int threads, int ranks);

// Error when so many bytes are not free here, for memory that no plan covers.
void require_bytes(const device::Machine& machine, double bytes, std::string_view asked);

}  // namespace ridgeline::cli

// A program as people read it: every operation with its stream, what it waits for, and what it writes, adds to, reads.
#pragma once

#include <string>

#include "ridgeline/parallel/dataflow.h"

namespace ridgeline::plan {

// A table, one line per operation, numbered as `after` and the buffers of the inventory number them.
std::string program_listing(const parallel::Program& program, const parallel::Dataflow& dataflow);

}  // namespace ridgeline::plan

// `ridgeline launch`: a run as a job of a cluster, planned before it is queued.
#pragma once

#include "ridgeline/cli/command.h"

namespace ridgeline::cli {

void add_launch(const Command& program);

}  // namespace ridgeline::cli

// `ridgeline migrate`: one configuration out of what users of other trainers have.
#pragma once

#include "ridgeline/cli/command.h"

namespace ridgeline::cli {

void add_migrate(const Command& program);

}  // namespace ridgeline::cli

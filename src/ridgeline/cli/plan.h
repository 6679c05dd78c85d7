// `ridgeline plan`.
#pragma once

namespace ridgeline::cli {

class Command;

// Registers the subcommand. Errors leave its action as ridgeline::Error.
void add_plan(const Command& program);

}  // namespace ridgeline::cli

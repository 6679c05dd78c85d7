// `ridgeline eval`.
#pragma once

namespace ridgeline::cli {

class Command;

// Registers the subcommand. Errors leave its action as ridgeline::Error.
void add_eval(const Command& program);

}  // namespace ridgeline::cli

// `ridgeline inspect`.
#pragma once

namespace ridgeline::cli {

class Command;

// Registers the subcommand. Errors leave its action as ridgeline::Error.
void add_inspect(const Command& program);

}  // namespace ridgeline::cli

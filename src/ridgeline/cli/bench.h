// `ridgeline bench`.
#pragma once

namespace ridgeline::cli {

class Command;

// Registers the subcommand. Errors leave its action as ridgeline::Error.
void add_bench(const Command& program);

}  // namespace ridgeline::cli

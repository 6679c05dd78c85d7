// `ridgeline export`.
#pragma once

namespace ridgeline::cli {

class Command;

// Registers the subcommand. Errors leave its action as ridgeline::Error.
void add_export(const Command& program);

}  // namespace ridgeline::cli

// `ridgeline prepare`: text files to a token dataset.
#pragma once

namespace ridgeline::cli {

class Command;

// Registers the subcommand. Errors leave its action as ridgeline::Error.
void add_prepare(const Command& program);

}  // namespace ridgeline::cli

// `ridgeline train`.
#pragma once

namespace ridgeline::cli {

class Command;

// Registers the subcommand. Errors leave its action as ridgeline::Error.
void add_train(const Command& program);

}  // namespace ridgeline::cli

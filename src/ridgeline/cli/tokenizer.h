// `ridgeline tokenizer train|encode|decode`.
#pragma once

namespace ridgeline::cli {

class Command;

// Registers the subcommands. Errors leave their actions as ridgeline::Error.
void add_tokenizer(const Command& program);

}  // namespace ridgeline::cli

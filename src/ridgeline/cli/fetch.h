// `ridgeline fetch`: models, tokenizers and datasets from a Hugging Face-compatible hub.
#pragma once

namespace ridgeline::cli {

class Command;

// Registers the subcommand. Errors leave its action as ridgeline::Error.
void add_fetch(const Command& program);

}  // namespace ridgeline::cli

// `ridgeline tokenizer train|encode|decode`.
#pragma once

namespace CLI {  // NOLINT(readability-identifier-naming): the library's
class App;
}

namespace ridgeline::cli {

// Registers the subcommands; their work is done in CLI11's callbacks, errors leave them as ridgeline::Error.
void add_tokenizer(CLI::App& app);

}  // namespace ridgeline::cli

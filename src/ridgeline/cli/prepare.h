// `ridgeline prepare`: text files to a token dataset.
#pragma once

namespace CLI {  // NOLINT(readability-identifier-naming): the library's
class App;
}

namespace ridgeline::cli {

// Registers the subcommand; its work is done in CLI11's callback, errors leave it as ridgeline::Error.
void add_prepare(CLI::App& app);

}  // namespace ridgeline::cli

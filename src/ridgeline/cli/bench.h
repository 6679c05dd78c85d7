// `ridgeline bench`.
#pragma once

namespace CLI {
class App;
}

namespace ridgeline::cli {

// Registers the subcommand; its work is done in CLI11's callback, errors leave it as ridgeline::Error.
void add_bench(CLI::App& app);

}  // namespace ridgeline::cli

// How the program ends when somebody stops it: Ctrl-C, SIGTERM, a closed terminal; or takes away what it reads.
#pragma once

namespace ridgeline::cli {

// From here on SIGINT, SIGTERM and SIGHUP (each unless it is ignored, as in a background job) remove the temporary
// files, say "stopped", and end the process by that signal: a shell sees 128 + its number. Commands that do better
// (training saves first) take the signals over while they run. Likewise SIGBUS, which an input that is cut while it is
// mapped gives, and shared memory that there is no room for: it says which of them, by name.
void end_cleanly_when_stopped();

}  // namespace ridgeline::cli

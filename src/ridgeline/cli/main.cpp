// The program: one subcommand per file; this one only knows how a command line begins and how a process ends.
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>

#include "ridgeline/base/error.h"
#include "ridgeline/cli/command.h"
#include "ridgeline/cli/commands.h"
#include "ridgeline/cli/failures.h"
#include "ridgeline/cli/ranks.h"
#include "ridgeline/cli/stop.h"
#include "ridgeline/cli/version.h"
#include "ridgeline/comm/failure.h"

namespace ridgeline::cli {
namespace {

constexpr const char* kDescription = "Ridgeline trains language models, from a laptop to a supercomputer.";

constexpr const char* kFooter =
    R"(The main job, on any text of yours (blank lines between documents):
  ridgeline tokenizer train --vocab 4096 --out tokenizer corpus.txt
  ridgeline prepare --tokenizer tokenizer --out data/corpus corpus.txt
  ridgeline train --config configs/quickstart.toml --ranks 2 --set data.train=data/corpus data.tokenizer=tokenizer --out runs/first
  ridgeline train --config configs/quickstart.toml --ranks 2 --set data.train=data/corpus data.tokenizer=tokenizer --out runs/first --resume
  ridgeline generate --checkpoint runs/first --prompt "Once upon a time"
  ridgeline export --checkpoint runs/first --out first_hugging_face

Ctrl-C finishes the step, saves and stops; --resume goes on with the same bits.
`ridgeline COMMAND --help` has examples. `ridgeline train --print-config` shows every key of a configuration.)";

bool is_command(const char* word) {
  for (const Entry& command : kCommands) {
    if (std::strcmp(word, command.name) == 0) return true;
  }
  return false;
}

bool waits_for_ranks(const char* word) {
  for (const char* command : {"train", "prepare", "eval", "generate"}) {
    if (std::strcmp(word, command) == 0) return true;
  }
  return false;
}

// Ranks whose command line makes sense wait for this one: it joins them to say what is wrong with its own.
[[noreturn]] void release_ranks(const std::string& rendezvous, const UsageError& error) {
  comm::run_launched({.on_failure = print_failure}, rendezvous,
                     [&](comm::World&) { throw comm::Refusal(error.message(), error.next_step()); });
  throw error;
}

int run(int argc, char** argv) {
  CommandLine line("ridgeline", kDescription, kFooter, version_text);
  for (const Entry& command : kCommands) command.add(line.program());

  if (argc < 2) {
    std::fputs(line.help().c_str(), stdout);
    return 0;
  }
  if (argv[1][0] != '-' && !is_command(argv[1])) return report_unknown_command(argv[1]);
  try {
    line.run(argc, argv);
  } catch (const UsageError& error) {
    const std::string rendezvous = rendezvous_of(argc, argv);
    if (waits_for_ranks(argv[1]) && comm::launched(rendezvous)) release_ranks(rendezvous, error);
    throw;
  }
  return 0;
}

// A full disk behind stdout is a failure of a command that prints its result; a reader that left is none.
int flush_output() {
  errno = 0;
  if (std::fflush(stdout) != 0 && errno != EPIPE) {
    return report_failure(std::make_exception_ptr(system_error("standard output", errno)));
  }
  return 0;
}

}  // namespace
}  // namespace ridgeline::cli

int main(int argc, char** argv) {
  using namespace ridgeline::cli;  // NOLINT(google-build-using-namespace)
  std::signal(SIGPIPE, SIG_IGN);   // a closed pipe is an error of that write, not the end of a training run
  end_cleanly_when_stopped();
  int code = 1;
  try {
    code = run(argc, argv);
  } catch (...) {
    code = report_failure(std::current_exception());
    std::fflush(stdout);
    // After a failure threads of a stalled rank may still run on what destructors would take away.
    std::_Exit(code);
  }
  const int flushed = flush_output();
  return code != 0 ? code : flushed;
}

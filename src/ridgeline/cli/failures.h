// How the program ends when something is wrong: the one place that prints errors and chooses exit codes.
//   0  done      1  something failed (input, files, network, peers)      2  the command line makes no sense
//   3  done, but some records of the input were skipped (Incomplete)      128 + n  stopped by signal n (stop.h)
//  75  stopped and saved: the same command with --resume goes on (Unfinished; EX_TEMPFAIL of sysexits.h)
#pragma once

#include <exception>
#include <span>
#include <string>

namespace ridgeline::comm {
struct Failure;
}

namespace ridgeline::cli {

// Prints "ridgeline: error: …" and the next step to stderr, once per host under a launcher, and returns the
// exit code: 2 for a UsageError, else 1. A reader that closed the pipe is no failure.
int report_failure(std::exception_ptr failure);

// Prints "note: …" lines to stderr, each once per host under a launcher.
void print_notes(std::span<const std::string> notes);

// Prints the first failure of a world's ranks as soon as it is known: comm::WorldOptions::on_failure.
void print_failure(const comm::Failure& failure);

// "ridgeline: error: no such command 'trian'" with the nearest one. Returns 2.
int report_unknown_command(const char* word);

}  // namespace ridgeline::cli

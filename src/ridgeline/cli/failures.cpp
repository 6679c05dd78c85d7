#include "ridgeline/cli/failures.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <new>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "ridgeline/base/error.h"
#include "ridgeline/base/random.h"
#include "ridgeline/cli/commands.h"
#include "ridgeline/comm/failure.h"

namespace ridgeline::cli {
namespace {

constexpr int kFailed = 1;
constexpr int kUsage = 2;

// Never throws: there may be nobody left to read.
void print_error(const std::string& what, const std::string& next) {
  const std::string text =
      fmt::format("ridgeline: error: {}\n{}{}", what, next.empty() ? "" : "  " + next, next.empty() ? "" : "\n");
  std::fflush(stdout);
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

// Whether this process is the first of its launcher's on this host to take `what`. The name is an abstract socket's,
// which lives as long as the process: nothing is left behind. In doubt true.
bool first_to_say(const std::string& what) {
  const std::string name = fmt::format("ridgeline-failure-{}-{}", ::getppid(), hash_name(what));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;  // sun_path[0] = 0: abstract
  std::copy_n(name.begin(), std::min(name.size(), sizeof address.sun_path - 1), address.sun_path + 1);
  const int descriptor = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);  // closed by the end of the process
  if (descriptor < 0) return true;
  return ::bind(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 || errno != EADDRINUSE;
}

// An error before the ranks know each other (a bad configuration) usually meets all of them: one per host says it, and
// stays long enough for the others to see that it did.
void print_once(const std::string& what, const std::string& next) {
  if (!comm::launched_by_mpi()) return print_error(what, next);
  if (!first_to_say(what)) return;
  print_error(what, next);
  std::this_thread::sleep_for(std::chrono::seconds(1));
}

// "ridgeline tokenizer train": the innermost subcommand that was understood.
const CLI::App& innermost(const CLI::App& app, std::string& path) {
  const CLI::App* command = &app;
  path = "ridgeline";
  while (!command->get_subcommands().empty()) {
    command = command->get_subcommands().front();
    path += " " + command->get_name();
  }
  return *command;
}

std::vector<std::string> words_of(const CLI::App& command) {
  std::vector<std::string> words;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames()) words.push_back("--" + name);
  }
  for (const CLI::App* sub : command.get_subcommands([](const CLI::App*) { return true; }))
    words.push_back(sub->get_name());
  return words;
}

// What CLI11 says, in words: its checks for positive numbers print the largest double in full.
std::string explain(const CLI::App& command, const std::string& path, const CLI::ParseError& error) {
  std::string what = error.what();
  while (!what.empty() && what.back() == '\n') what.pop_back();
  const std::string value_mark = "Value ", range_mark = " not in range ";
  const size_t value = what.find(value_mark), range = what.find(range_mark);
  if (value != std::string::npos && range != std::string::npos && what.size() > range + 300) {
    const std::string text = what.substr(value + value_mark.size(), range - value - value_mark.size());
    return fmt::format("{}{} is no positive number", what.substr(0, value), text);
  }
  if (error.get_name() != "RequiredError" || command.get_subcommands([](const CLI::App*) { return true; }).empty())
    return what;
  std::vector<std::string> names;
  for (const CLI::App* sub : command.get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(sub->get_name());
  return fmt::format("{}: say which: {}", path, fmt::join(names, " | "));
}

}  // namespace

void print_failure(const comm::Failure& failure) {
  print_error(failure.what, failure.next);
}

int report_failure(std::exception_ptr failure) {
  try {
    std::rethrow_exception(std::move(failure));
  } catch (const comm::RankFailure& error) {
    if (error.report()) print_error(error.message(), error.next_step());
  } catch (const Error& error) {
    print_once(error.message(), error.next_step());
  } catch (const std::bad_alloc&) {
    print_once("out of memory", "`ridgeline plan` shows what a run needs; a smaller train.micro_batch needs less.");
  } catch (const std::system_error& error) {
    if (error.code() == std::error_code(EPIPE, std::generic_category()) ||
        error.code() == std::error_code(EPIPE, std::system_category())) {
      return 0;
    }
    print_once(error.what(), "");
  } catch (const std::exception& error) {
    print_once(fmt::format("unexpected: {}", error.what()),
               "This is a defect of Ridgeline: please report it with the command line.");
  }
  return kFailed;
}

int report_usage(const CLI::App& app, const CLI::ParseError& error) {
  if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) return app.exit(error);  // --help, --version
  std::string path, hint;
  const CLI::App& command = innermost(app, path);
  std::string what = explain(command, path, error);
  if (const std::vector<std::string> extras = app.remaining(true); !extras.empty()) {
    what = fmt::format("{}: {} does not take this", extras.front(), path);
    const std::string word = extras.front().substr(0, extras.front().find('='));
    if (const std::string guess = nearest(word, words_of(command)); !guess.empty())
      hint = fmt::format("Did you mean {}? ", guess);
  }
  print_error(what, fmt::format("{}`{} --help` shows its options.", hint, path));
  return kUsage;
}

int report_unknown_command(const char* word) {
  std::vector<std::string> names;
  for (const Command& command : kCommands) names.emplace_back(command.name);
  const std::string guess = nearest(word, names);
  print_error(fmt::format("no such command: {}", word), guess.empty()
                                                            ? fmt::format("Commands: {}.", fmt::join(names, ", "))
                                                            : fmt::format("Did you mean {}?", guess));
  return kUsage;
}

}  // namespace ridgeline::cli

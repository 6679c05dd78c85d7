#include "ridgeline/cli/failures.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

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
#include "ridgeline/cli/command.h"
#include "ridgeline/cli/commands.h"
#include "ridgeline/cli/incomplete.h"
#include "ridgeline/comm/failure.h"

namespace ridgeline::cli {
namespace {

constexpr int kFailed = 1;
constexpr int kUsage = 2;
constexpr int kIncomplete = 3;

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
  if (!comm::may_have_company()) return print_error(what, next);
  if (!first_to_say(what)) return;
  print_error(what, next);
  std::this_thread::sleep_for(std::chrono::seconds(1));
}

}  // namespace

void print_failure(const comm::Failure& failure) {
  const std::string log = failure.log.empty() ? "" : fmt::format("What it did last: {}", failure.log);
  print_error(failure.what, failure.next + (failure.next.empty() || log.empty() ? "" : "\n  ") + log);
}

void print_notes(std::span<const std::string> notes) {
  for (const std::string& note : notes) {
    if (!comm::may_have_company() || first_to_say(note)) fmt::print(stderr, "note: {}\n", note);
  }
}

int report_failure(std::exception_ptr failure) {
  try {
    std::rethrow_exception(std::move(failure));
  } catch (const comm::RankFailure& error) {
    if (error.report()) print_error(error.message(), error.next_step());
  } catch (const UsageError& error) {
    print_once(error.message(), error.next_step());
    return kUsage;
  } catch (const Unfinished&) {
    return kUnfinished;
  } catch (const Incomplete& incomplete) {
    print_error(incomplete.message(), incomplete.next_step());
    return kIncomplete;
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

int report_unknown_command(const char* word) {
  std::vector<std::string> names;
  for (const Entry& command : kCommands) names.emplace_back(command.name);
  const std::string guess = nearest(word, names);
  print_error(fmt::format("no such command: {}", word), guess.empty()
                                                            ? fmt::format("Commands: {}.", fmt::join(names, ", "))
                                                            : fmt::format("Did you mean {}?", guess));
  return kUsage;
}

}  // namespace ridgeline::cli

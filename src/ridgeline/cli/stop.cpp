#include "ridgeline/cli/stop.h"

#include <unistd.h>

#include <csignal>
#include <cstring>

#include "ridgeline/base/temporary_file.h"

namespace ridgeline::cli {
namespace {

const char* name_of(int signal) {
  return signal == SIGINT ? "SIGINT" : signal == SIGTERM ? "SIGTERM" : "SIGHUP";
}

void say(const char* text) {
  [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, text, std::strlen(text));
}

// Only what a handler may do. Whatever other threads are in the middle of, the process does not live on.
void end_by(int signal, const char* what, const char* who) {
  remove_temporary_files();
  say("\nridgeline: ");
  say(what);
  say(who);
  say("\n");
  std::signal(signal, SIG_DFL);
  sigset_t only;
  ::sigemptyset(&only);
  ::sigaddset(&only, signal);
  ::pthread_sigmask(SIG_UNBLOCK, &only, nullptr);
  ::raise(signal);
  ::_exit(128 + signal);
}

extern "C" void on_stop(int signal) {
  end_by(signal, "stopped by ", name_of(signal));
}

extern "C" void on_lost_file(int signal) {
  end_by(signal, "error: a file became shorter while it was read, its disk fails, or /dev/shm is full (SIGBUS)",
         "\n  Start again when nobody writes to the input files any more; df /dev/shm tells of the last.");
}

}  // namespace

void end_cleanly_when_stopped() {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction action {};
    if (::sigaction(signal, nullptr, &action) != 0 || action.sa_handler == SIG_IGN) continue;
    action = {};
    action.sa_handler = on_stop;
    ::sigfillset(&action.sa_mask);
    ::sigaction(signal, &action, nullptr);
  }
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // which have words of their own
  // Inputs are read where they lie (MappedFile). Libraries below MPI have taken this signal already, for a backtrace.
  struct sigaction action {};
  action.sa_handler = on_lost_file;
  ::sigaction(SIGBUS, &action, nullptr);
#endif
}

}  // namespace ridgeline::cli

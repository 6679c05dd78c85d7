#include "ridgeline/cli/stop.h"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstring>
#include <initializer_list>

#include "ridgeline/base/mapped_at.h"
#include "ridgeline/base/temporary_file.h"

namespace ridgeline::cli {
namespace {

const char* name_of(int signal) {
  switch (signal) {
    case SIGINT:
      return "SIGINT";
    case SIGTERM:
      return "SIGTERM";
    case SIGBUS:
      return "SIGBUS";
    default:
      return "SIGHUP";
  }
}

void say(const char* text) {
  [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, text, std::strlen(text));
}

// Only what a handler may do. Whatever other threads are in the middle of, the process does not live on; of several
// that come here, the first speaks.
void end_by(int signal, std::initializer_list<const char*> words) {
  static std::atomic_flag ending = ATOMIC_FLAG_INIT;
  while (ending.test_and_set()) ::pause();
  remove_temporary_files();
  say("\nridgeline: ");
  for (const char* const word : words) say(word);
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
  end_by(signal, {"stopped by ", name_of(signal)});
}

extern "C" void on_lost_memory(int signal, siginfo_t* info, void*) {
  if (info->si_code <= 0) return end_by(signal, {"stopped by ", name_of(signal)});  // sent by a process
  const MappedAt mapped = mapped_at(info->si_addr);
  const char* const name = mapped.name.data();
  switch (mapped.kind) {
    case MappedAt::Kind::cut_file:
      return end_by(signal, {"error: '", name, "' became shorter while it was read (SIGBUS)\n",
                             "  Start again when nobody writes to it any more."});
    case MappedAt::Kind::file:
      return end_by(signal, {"error: '", name, "' cannot be read or written where it is mapped (SIGBUS)\n",
                             "  Its disk fails, or is full, or the server that it is on took it away."});
    case MappedAt::Kind::shared_memory:
      return end_by(signal, {"error: there is no room for the shared memory '", name, "' (SIGBUS)\n",
                             "  `df /dev/shm`, and the job's limit on memory, tell of it; or use ranks as threads."});
    case MappedAt::Kind::other:
      return end_by(signal, {"error: memory cannot be reached (SIGBUS)\n", "  The kernel's log (dmesg) may say why."});
  }
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
  action.sa_sigaction = on_lost_memory;
  action.sa_flags = SA_SIGINFO;
  ::sigfillset(&action.sa_mask);
  ::sigaction(SIGBUS, &action, nullptr);
#endif
}

}  // namespace ridgeline::cli

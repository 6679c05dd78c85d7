#include "ridgeline/train/signals.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <ctime>

#include "ridgeline/base/temporary_file.h"

namespace ridgeline::train {
namespace {

constexpr std::array kSignals = {SIGTERM, SIGUSR1, SIGINT};
std::atomic<int> requested_signal{0};
std::atomic<int64_t> first_milliseconds{0};  // when SIGTERM or SIGINT came first; 0: not yet
std::atomic<bool> watched{false};            // somebody reads standard error as it comes: it is a terminal
std::array<struct sigaction, kSignals.size()> previous;

int64_t milliseconds() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000 + 1;
}

template <size_t size>
void say(const char (&text)[size]) {
  [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, text, size - 1);
}

// Only what is safe in a signal handler, whatever the interrupted thread was about.
extern "C" void on_signal(int number) {
  const int error = errno;
  if (number != SIGUSR1) {
    int64_t first = 0;
    const int64_t now = milliseconds();
    if (!first_milliseconds.compare_exchange_strong(first, now) && now - first > StopSignals::kSameMilliseconds) {
      if (number == SIGINT) {
        say("\nridgeline: second Ctrl-C, quitting without saving\n");
      } else {
        say("\nridgeline: second SIGTERM, quitting without saving\n");
      }
      remove_temporary_files();
      ::_exit(128 + number);
    }
    if (first == 0 && number == SIGINT && watched.load())
      say("\nridgeline: Ctrl-C: the running step is finished and saved; once more quits at once, without saving\n");
  }
  requested_signal.store(number);
  errno = error;
}

}  // namespace

StopSignals::StopSignals() {
  requested_signal.store(0);
  first_milliseconds.store(0);
  watched.store(::isatty(STDERR_FILENO) == 1);
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  for (size_t i = 0; i < kSignals.size(); ++i) ::sigaction(kSignals[i], &action, &previous[i]);
}

StopSignals::~StopSignals() {
  for (size_t i = 0; i < kSignals.size(); ++i) ::sigaction(kSignals[i], &previous[i], nullptr);
  requested_signal.store(0);
}

int StopSignals::requested() {
  return requested_signal.load();
}

}  // namespace ridgeline::train

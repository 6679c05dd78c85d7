#include "ridgeline/train/signals.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>

namespace ridgeline::train {
namespace {

constexpr std::array kSignals = {SIGTERM, SIGUSR1, SIGINT};
std::atomic<int> requested_signal{0};
std::array<struct sigaction, kSignals.size()> previous;

extern "C" void on_signal(int number) {
  if (number == SIGINT && requested_signal.load() == SIGINT) {
    constexpr char text[] = "\nridgeline: second Ctrl-C, quitting without saving\n";
    [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, text, sizeof text - 1);
    ::_exit(130);
  }
  requested_signal.store(number);
}

}  // namespace

StopSignals::StopSignals() {
  requested_signal.store(0);
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

#include "ridgeline/comm/sentinel.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "ridgeline/comm/watch.h"

namespace ridgeline::comm::detail {
namespace {

// Whatever comes until the other end says no more, or `wanted` bytes.
std::string read_words(int file, size_t wanted) {
  std::string words;
  char bytes[512];
  while (words.size() < wanted) {
    const ssize_t count = ::read(file, bytes, std::min(sizeof(bytes), wanted - words.size()));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    words.append(bytes, static_cast<size_t>(count));
  }
  return words;
}

// Out of the launcher's reach, and holding nothing of the rank's but its stderr; `words` becomes 1 and the listening
// socket 3, where it is not -1.
void leave_the_rank(int words, int listener) {
  ::setsid();
  ::prctl(PR_SET_NAME, "ridgeline-watch");
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGUSR1, SIGUSR2, SIGALRM}) ::signal(signal, SIG_IGN);
  // Whoever runs at once when a rank dies sees who was first. Neither is granted to everybody.
  const sched_param lowest{.sched_priority = ::sched_get_priority_min(SCHED_FIFO)};
  if (::sched_setscheduler(0, SCHED_FIFO, &lowest) != 0) ::setpriority(PRIO_PROCESS, 0, -10);
  const int nothing = ::open("/dev/null", O_RDWR);
  ::dup2(nothing, 0);
  ::dup2(words, 1);
  if (listener >= 0) {
    ::dup2(listener, 3);
  } else {
    ::close(3);
  }
  ::syscall(SYS_close_range, 4U, ~0U, 0U);
}

}  // namespace

LifePipe::LifePipe(RankState& state) {
  int ends[2] = {-1, -1};
  if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) throw system_error("cannot make a pipe", errno);
  read_ = ends[0];
  constexpr int kHigh = 900;  // below the usual limit of 1,024
  const int high = ::fcntl(ends[1], F_DUPFD_CLOEXEC, kHigh);
  write_ = high >= 0 ? high : ends[1];
  if (high >= 0) ::close(ends[1]);
  state.life_file.store(read_);
}

LifePipe::~LifePipe() {
  if (read_ >= 0) ::close(read_);
  ::close(write_);
}

void LifePipe::watched(Host& host) {
  ::close(read_);
  read_ = -1;
  host.set_watcher(write_);
}

Sentinel::Sentinel(const Host& host, const ControlSetup& setup) {
  int words[2] = {-1, -1};
  if (::pipe2(words, O_CLOEXEC) != 0) throw system_error("cannot make a pipe", errno);
  const int process = ::fork();
  if (process < 0) throw system_error("cannot start the process that watches over the ranks", errno);
  if (process == 0) {
    leave_the_rank(words[1], setup.listener);
    ControlSetup own = setup;
    if (own.listener >= 0) own.listener = 3;
    Watch(host, own, 1).run();
    ::_exit(0);
  }
  ::close(words[1]);
  words_ = words[0];
  // Ranks that died before the watch began could not be told apart.
  if (read_words(words_, 1).empty()) throw Error("the process that watches over the ranks did not start");
}

Sentinel::~Sentinel() {
  ::close(words_);
}

std::optional<Error> Sentinel::connected() {
  const std::string words = read_words(words_, 4096);
  const size_t line = words.find('\n');
  if (words == "connected\n") return std::nullopt;
  if (line == std::string::npos) return Error("the process that watches over the ranks of this host has ended");
  return Error(words.substr(0, line), words.substr(line + 1));
}

}  // namespace ridgeline::comm::detail

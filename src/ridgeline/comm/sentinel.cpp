#include "ridgeline/comm/sentinel.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <vector>

#include "ridgeline/base/error.h"

namespace ridgeline::comm::detail {
namespace {

constexpr int kLookMilliseconds = 200;

int open_process(int process) {
  return static_cast<int>(::syscall(SYS_pidfd_open, process, 0));
}
void kill_process(int handle) {
  ::syscall(SYS_pidfd_send_signal, handle, SIGKILL, nullptr, 0);
}

void report_death(const Host& host, int local) {
  const int rank = host.world_rank(local);
  const std::string position = host.position(local);
  host.fail({.rank = rank,
             .host = host.host_name(),
             .operation = position,
             .what = fmt::format(
                 "rank {} on host {} died (process {}, killed from outside or out of memory), last seen in {}", rank,
                 host.host_name(), host.state(local).process.load(), position.empty() ? "no operation yet" : position),
             .next =
                 "Look for \"Out of memory\" in the kernel's log (dmesg) and in the job's log; resume from the last "
                 "checkpoint."});
}

// What the watch holds of a rank: a handle that becomes readable when the process is dead, and the reading end of a
// pipe whose writing end only the rank has.
struct Watched {
  int process = -1;
  int pipe = -1;
};

bool dead_within(int handle, int milliseconds) {
  pollfd one{handle, POLLIN, 0};
  return ::poll(&one, 1, milliseconds) == 1;
}

// Looks at deaths one by one: an epoll queue keeps them in the order in which they happened, so the first is the
// culprit even when the launcher has killed the rest before this process got to run. The pipe is what makes the order
// right: a dying process closes its descriptors before it counts as dead, the launcher acts as soon as its own socket
// among them is closed, and this pipe, having the highest number, is closed first.
[[noreturn]] void watch(const Host& host, int queue, std::vector<Watched>& ranks) {
  int64_t failed_since = 0;
  size_t alive = ranks.size();
  while (alive > 0) {
    epoll_event event{};
    if (::epoll_wait(queue, &event, 1, kLookMilliseconds) == 1) {
      const auto local = static_cast<int>(event.data.u32 / 2);
      Watched& rank = ranks[static_cast<size_t>(local)];
      const bool is_process = event.data.u32 % 2 == 1;
      ::epoll_ctl(queue, EPOLL_CTL_DEL, is_process ? rank.process : rank.pipe, nullptr);
      // A closed pipe alone may mean that the program closes whatever it finds.
      const bool dead = is_process || dead_within(rank.process, 1000);
      if (dead && !host.failed() && host.state(local).departed.load() == 0) report_death(host, local);
      if (is_process) {
        --alive;
        ::close(rank.process);
        rank.process = -1;
      }
      continue;
    }
    if (!host.failed()) continue;
    const int64_t now = steady_nanoseconds();
    if (failed_since == 0) failed_since = now;
    if (now - failed_since < std::chrono::nanoseconds(host.options().grace).count()) continue;
    for (const Watched& rank : ranks) {
      if (rank.process >= 0) kill_process(rank.process);
    }
  }
  ::_exit(0);
}

bool add(int queue, int file, uint32_t events, uint32_t what) {
  epoll_event event{};
  event.events = events;
  event.data.u32 = what;
  return file >= 0 && ::epoll_ctl(queue, EPOLL_CTL_ADD, file, &event) == 0;
}

}  // namespace

LifePipe::LifePipe(RankState& state) {
  int ends[2] = {-1, -1};
  if (::pipe2(ends, O_CLOEXEC) != 0) throw system_error("cannot make a pipe", errno);
  read_ = ends[0];
  constexpr int kHigh = 900;  // below the usual limit of 1,024
  const int high = ::fcntl(ends[1], F_DUPFD_CLOEXEC, kHigh);
  write_ = high >= 0 ? high : ends[1];
  if (high >= 0) ::close(ends[1]);
  state.life_file.store(read_);
}

LifePipe::~LifePipe() {
  watched();
  ::close(write_);
}

void LifePipe::watched() {
  if (read_ >= 0) ::close(read_);
  read_ = -1;
}

Sentinel::Sentinel(const Host& host) : host_(host) {
  std::vector<Watched> ranks(static_cast<size_t>(host.ranks()));
  int ready[2] = {-1, -1};
  if (::pipe2(ready, O_CLOEXEC) != 0) throw system_error("cannot make a pipe", errno);
  process_ = ::fork();
  if (process_ < 0) throw system_error("cannot start the process that watches over the ranks", errno);
  if (process_ > 0) {
    // Ranks that died before the watch began could not be told apart.
    ::close(ready[1]);
    char byte = 0;
    if (::read(ready[0], &byte, 1) < 0) {
      // Interrupted: the watch begins a little later, no more.
    }
    ::close(ready[0]);
    return;
  }
  // From here on in the new process: out of the launcher's reach, and holding nothing of the rank's but its stderr.
  ::setsid();
  ::prctl(PR_SET_NAME, "ridgeline-watch");
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGUSR1, SIGUSR2}) ::signal(signal, SIG_IGN);
  ::setpriority(PRIO_PROCESS, 0, -10);  // helps to see who died first; not granted to everybody
  const int nothing = ::open("/dev/null", O_RDWR);
  ::dup2(nothing, 0);
  ::dup2(ready[1], 1);
  ::syscall(SYS_close_range, 3U, ~0U, 0U);
  const int queue = ::epoll_create1(0);
  for (int local = 0; local < host.ranks(); ++local) {
    Watched& rank = ranks[static_cast<size_t>(local)];
    const RankState& state = host.state(local);
    rank.process = open_process(state.process.load());
    // Without such handles (an old kernel) there is no watch: the launcher and the timeouts must do.
    if (!add(queue, rank.process, EPOLLIN, static_cast<uint32_t>(2 * local + 1))) ::_exit(0);
    rank.pipe = ::open(fmt::format("/proc/{}/fd/{}", state.process.load(), state.life_file.load()).c_str(),
                       O_RDONLY | O_NONBLOCK);
    add(queue, rank.pipe, 0, static_cast<uint32_t>(2 * local));  // it tells only when it is closed
  }
  ::close(1);  // ready
  watch(host, queue, ranks);
}

Sentinel::~Sentinel() {
  if (host_.failed()) return;
  ::kill(process_, SIGKILL);
  ::waitpid(process_, nullptr, 0);
}

}  // namespace ridgeline::comm::detail

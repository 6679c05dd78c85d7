#include "ridgeline/comm/sentinel.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
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

// Of those that died since the last look the first one. Usually there is one; when the launcher was quicker than this
// process, the one that has been collected already died first.
int first_dead(const Host& host, const std::vector<pollfd>& handles) {
  int first = -1;
  for (int local = 0; local < host.ranks(); ++local) {
    const RankState& state = host.state(local);
    if (handles[static_cast<size_t>(local)].revents == 0 || state.departed.load() != 0) continue;
    const bool collected = ::kill(state.process.load(), 0) != 0;
    if (first < 0 || collected) first = local;
    if (collected) break;
  }
  return first;
}

[[noreturn]] void watch(const Host& host, std::vector<pollfd>& handles) {
  int64_t failed_since = 0;
  for (;;) {
    ::poll(handles.data(), handles.size(), kLookMilliseconds);
    if (!host.failed()) {
      const int dead = first_dead(host, handles);
      if (dead >= 0) report_death(host, dead);
    }
    size_t alive = 0;
    for (pollfd& handle : handles) {
      if (handle.revents != 0) handle.fd = -1;  // poll passes over it from now on
      handle.revents = 0;
      if (handle.fd >= 0) ++alive;
    }
    if (alive == 0) ::_exit(0);
    if (!host.failed()) continue;
    const int64_t now = steady_nanoseconds();
    if (failed_since == 0) failed_since = now;
    if (now - failed_since > std::chrono::nanoseconds(host.options().grace).count()) {
      for (const pollfd& handle : handles) {
        if (handle.fd >= 0) kill_process(handle.fd);
      }
    }
  }
}

}  // namespace

Sentinel::Sentinel(const Host& host) : host_(host) {
  std::vector<pollfd> handles(static_cast<size_t>(host.ranks()));
  process_ = ::fork();
  if (process_ < 0) throw system_error("cannot start the process that watches over the ranks", errno);
  if (process_ > 0) return;
  // From here on in the new process: out of the launcher's reach, and holding nothing of the rank's but its stderr.
  ::setsid();
  ::prctl(PR_SET_NAME, "ridgeline-watch");
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGUSR1, SIGUSR2}) ::signal(signal, SIG_IGN);
  ::setpriority(PRIO_PROCESS, 0, -10);  // helps to see who died first; not granted to everybody
  const int nothing = ::open("/dev/null", O_RDWR);
  ::dup2(nothing, 0);
  ::dup2(nothing, 1);
  ::syscall(SYS_close_range, 3U, ~0U, 0U);
  for (int local = 0; local < host.ranks(); ++local) {
    handles[static_cast<size_t>(local)] = {open_process(host.state(local).process.load()), POLLIN, 0};
    if (handles[static_cast<size_t>(local)].fd < 0 && errno == ESRCH && host.state(local).departed.load() == 0) {
      report_death(host, local);
    }
  }
  watch(host, handles);
}

Sentinel::~Sentinel() {
  if (host_.failed()) return;
  ::kill(process_, SIGKILL);
  ::waitpid(process_, nullptr, 0);
}

}  // namespace ridgeline::comm::detail

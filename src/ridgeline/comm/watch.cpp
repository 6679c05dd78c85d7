#include "ridgeline/comm/watch.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>

#include "ridgeline/comm/process_state.h"

namespace ridgeline::comm::detail {
namespace {

constexpr int kLookMilliseconds = 200, kHurryMilliseconds = 10;
constexpr int kEvents = 64;
constexpr int64_t kLinger = kSecond / 2;  // for neighbours that come to ask for the verdict
constexpr int64_t kLastWords = kSecond;   // of ranks, to unwind and to print
constexpr int64_t kFarewell = kSecond;    // for neighbours to hear the last word

int open_process(int process) {
  return static_cast<int>(::syscall(SYS_pidfd_open, process, 0));
}

int64_t wall_nanoseconds() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

bool add(int queue, int file, uint32_t events, uint64_t what) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = what;
  return file >= 0 && ::epoll_ctl(queue, EPOLL_CTL_ADD, file, &event) == 0;
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
                 "checkpoint.",
             .death = true});
}

}  // namespace

Watch::Watch(const Host& host, const ControlSetup& setup, int words)
    : host_(host),
      setup_(setup),
      words_(words),
      queue_(::epoll_create1(EPOLL_CLOEXEC)),
      control_(setup.host, setup.names, setup.times, steady_nanoseconds()),
      links_(setup, queue_),
      ranks_(static_cast<size_t>(host.ranks())),
      connect_limit_(steady_nanoseconds() + setup.connect_limit) {
  for (int local = 0; local < host.ranks(); ++local) open_rank(local);
  say("w");
}

void Watch::open_rank(int local) {
  Watched& rank = ranks_[static_cast<size_t>(local)];
  const RankState& state = host_.state(local);
  rank.process = open_process(state.process.load());
  add(queue_, rank.process, EPOLLIN, static_cast<uint64_t>(2 * local + 1));
  rank.pipe = ::open(fmt::format("/proc/{}/fd/{}", state.process.load(), state.life_file.load()).c_str(),
                     O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  add(queue_, rank.pipe, EPOLLIN, static_cast<uint64_t>(2 * local));
}

void Watch::say(const std::string& words) {
  if (words_ >= 0 && ::write(words_, words.data(), words.size()) < 0) {
    // The rank that would read it is dead, which is seen soon.
  }
}

// Of the rank that was seen to go, and one that was struck before: a process gives its memory back before it closes its
// descriptors, and in between MPI may end another that still reads that memory. Exit codes tell them apart. The
// launcher may have begun to kill the others, too; but it strikes all of them.
int Watch::first_to_die(int local) const {
  const auto status_of = [&](int rank) { return process_state(host_.state(rank).process.load()).exit_status; };
  const auto struck = [](int status) {
    const int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    return signal == SIGKILL || signal == SIGSEGV || signal == SIGBUS || signal == SIGILL || signal == SIGFPE;
  };
  const int status = status_of(local);
  if (status == 0 || struck(status)) return local;  // 0: not known any more
  int first = local, others = 0;
  for (int other = 0; other < host_.ranks(); ++other) {
    if (other == local || !struck(status_of(other))) continue;
    first = other;
    ++others;
  }
  return others == 1 ? first : local;
}

// Looks at deaths one by one: an epoll queue keeps them in the order in which they happened, so the first is the
// culprit even when the launcher has killed the rest before this process got to run. The pipe is what makes the order
// right: a dying process closes its descriptors before it counts as dead, the launcher acts as soon as its own socket
// among them is closed, and this pipe, having the highest number, is closed first.
void Watch::on_event(uint64_t data, int64_t now) {
  if (data >= ControlLinks::kMark) return links_.handle(data, now, control_);
  const auto local = static_cast<int>(data / 2);
  if (data % 2 == 1) return on_death(local, true);
  on_pipe(local);
}

void Watch::on_pipe(int local) {
  char bytes[256];
  ssize_t count = 0;
  do {
    count = ::read(ranks_[static_cast<size_t>(local)].pipe, bytes, sizeof(bytes));
  } while (count == static_cast<ssize_t>(sizeof(bytes)));
  if (count != 0) return;
  ranks_[static_cast<size_t>(local)].closed = wall_nanoseconds();
  on_death(local, false);
}

void Watch::on_death(int local, bool is_process) {
  Watched& rank = ranks_[static_cast<size_t>(local)];
  int& file = is_process ? rank.process : rank.pipe;
  const int first = first_to_die(local);
  // A closed pipe alone may mean that the program closes whatever it finds. Until a process that ends counts as dead
  // may take long on a busy machine: nobody waits for it here, where other hosts' words would wait, too.
  const bool dead = is_process || process_state(host_.state(local).process.load()).is_dead();
  if (dead && !host_.failed() && host_.state(local).departed.load() == 0) {
    died_ = rank.closed;
    report_death(host_, first);
  }
  if (is_process || (dead && rank.process < 0)) rank.alive = false;
  ::close(file);
  file = -1;
}

void Watch::look_at_ranks(int64_t now) {
  if (host_.failed() && !failure_told_) {
    failure_told_ = true;
    control_.failed_here(host_.failure(), now, died_ != 0 ? died_ : wall_nanoseconds());
  }
  bool all_departed = true;
  for (int local = 0; local < host_.ranks(); ++local) {
    RankState& state = host_.state(local);
    all_departed = all_departed && state.departed.load(std::memory_order_acquire) != 0;
    if (stall_told_ || state.stalled.load(std::memory_order_acquire) == 0) continue;
    stall_told_ = true;
    Stall stall{};
    stall.rank = host_.world_rank(local);
    put_text(stall.operation, state.stalled_in.load());
    put_text(stall.what, state.stalled_what.load());
    control_.stalled_here(stall, now);
  }
  if (!all_departed || departed_told_) return;
  departed_told_ = true;
  control_.departed_here(now);
}

std::vector<Suspect> Watch::suspects(int64_t now) const {
  const int64_t stale =
      std::max<int64_t>(std::chrono::nanoseconds(host_.options().timeout).count() / 2, 3 * kSecond / 10);
  std::vector<Suspect> found;
  for (int local = 0; local < host_.ranks(); ++local) {
    const RankState& state = host_.state(local);
    const char running = process_state(state.process.load()).letter;
    const bool waits = state.blocked.load(std::memory_order_relaxed) > 0;
    const int64_t heartbeat = state.heartbeat.load(std::memory_order_relaxed);
    Suspect suspect{};
    if (running == 'T' || running == 't') {
      suspect.standing = Standing::stopped;
    } else if (state.departed.load(std::memory_order_acquire) != 0) {
      suspect.standing = Standing::ended;
    } else if (!waits) {
      suspect.standing = Standing::busy;
    } else if (now - heartbeat > stale) {
      suspect.standing = Standing::not_running;
    } else {
      continue;
    }
    suspect.rank = host_.world_rank(local);
    suspect.host = setup_.host;
    suspect.process = state.process.load();
    const int64_t moved = std::max(heartbeat, state.moved.load(std::memory_order_relaxed));
    suspect.idle_milliseconds = std::max<int64_t>(now - moved, 0) / 1'000'000;
    put_text(suspect.position, host_.position(local));
    found.push_back(suspect);
  }
  return found;
}

// What Control has decided, until it has nothing more to say.
void Watch::act(int64_t now) {
  for (;;) {
    const Control::Actions actions = control_.take();
    if (actions.record) {
      failure_told_ = true;
      host_.fail(*actions.record);
    }
    if (actions.announce) host_.announce();
    if (actions.settled && !actions.announce) host_.keep_quiet();
    for (const auto& [peer, message] : actions.send) links_.send(peer, message);
    if (actions.leave) {
      host_.board().everyone_departed.store(1, std::memory_order_release);
    }
    // At start-up settle_start says what is wrong.
    if (actions.reach >= 0) links_.reach(actions.reach, words_ >= 0 ? INT64_MAX : now + setup_.times.reach, now);
    if (!actions.look) return;
    control_.looked(*actions.look, suspects(now), now);
  }
}

// The rank that waits for it learns whether the parent has answered. False when it has not, and will not.
bool Watch::settle_start(int64_t now) {
  if (words_ < 0) return true;
  const int parent = parent_of(setup_.host);
  const bool there = parent < 0 || links_.knows(parent);
  if (!there && now < connect_limit_ && !host_.failed()) return true;
  if (there) {
    say("connected\n");
  } else {
    const auto& names = setup_.names;
    say(fmt::format(
        "host {} ({}) cannot reach host {} ({}) for the control connection; tried {}\nLet the hosts of a job "
        "connect to each other over TCP on any port (a firewall?), or name the network with "
        "RIDGELINE_INTERFACE, for example RIDGELINE_INTERFACE=ib0.",
        names[static_cast<size_t>(setup_.host)].host, names[static_cast<size_t>(setup_.host)].ranks,
        names[static_cast<size_t>(parent)].host, names[static_cast<size_t>(parent)].ranks, links_.tried()));
  }
  ::close(words_);
  words_ = -1;
  return there;
}

void Watch::end_ranks(int64_t now) {
  if (!host_.failed()) return;
  if (failed_since_ == 0) failed_since_ = now;
  const bool grace_is_over = now - failed_since_ >= std::chrono::nanoseconds(host_.options().grace).count();
  for (size_t local = 0; local < ranks_.size(); ++local) {
    if (!ranks_[local].alive) continue;
    // One that is stopped will not come back; but its death has the launcher end the others, who may still speak.
    const bool is_stopped = process_state(host_.state(static_cast<int>(local)).process.load()).letter == 'T';
    if (!grace_is_over && (!is_stopped || now - failed_since_ < kLastWords)) continue;
    if (ranks_[local].process >= 0) {
      ::syscall(SYS_pidfd_send_signal, ranks_[local].process, SIGKILL, nullptr, 0);
    } else {
      ::kill(host_.state(static_cast<int>(local)).process.load(), SIGKILL);
    }
  }
}

// After a good end at once, after a failure when the ranks are gone; the neighbours hear the last word before.
bool Watch::done(int64_t now) {
  if (!control_.ended() && !host_.failed()) return false;
  const bool ranks_left = std::any_of(ranks_.begin(), ranks_.end(), [](const Watched& rank) { return rank.alive; });
  if (host_.failed() && ranks_left) return false;
  if (ended_since_ == 0) ended_since_ = now;
  const bool others = setup_.names.size() > 1;
  if (host_.failed() && others && now - ended_since_ < kLinger) return false;
  if (host_.failed() && !others && host_.board().failure.settled.load() == 0) return false;
  links_.finish();
  return links_.finished() || now - ended_since_ > kLinger + kFarewell;
}

void Watch::run() {
  for (;;) {
    epoll_event events[kEvents];
    const bool hurry = words_ >= 0 || host_.failed() || control_.in_a_hurry() || control_.ended();
    const int count = ::epoll_wait(queue_, events, kEvents, hurry ? kHurryMilliseconds : kLookMilliseconds);
    const int64_t now = steady_nanoseconds();
    for (int i = 0; i < count; ++i) {
      on_event(events[i].data.u64, now);
      look_at_ranks(now);
    }
    look_at_ranks(now);
    act(now);
    if (count < kEvents) {  // what has arrived has been read
      links_.tick(now, control_);
      control_.tick(now);
      act(now);
    }
    if (!settle_start(now)) return;
    end_ranks(now);
    if (done(now)) return;
  }
}

}  // namespace ridgeline::comm::detail

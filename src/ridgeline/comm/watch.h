// What the process of a Sentinel does: looks at the deaths of its host's ranks, and keeps a Control in touch with the
// watchers of other hosts.
#pragma once

#include <string>
#include <vector>

#include "ridgeline/comm/control_links.h"
#include "ridgeline/comm/host.h"

namespace ridgeline::comm::detail {

class Watch {
 public:
  // Writes to `words`: a byte when it watches; then, and no more, "connected\n", or what is wrong and, on the next
  // line, what to do about it. `setup` lives longer.
  Watch(const Host& host, const ControlSetup& setup, int words);
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  // Returns when there is nothing left to do.
  void run();

 private:
  // What it holds of a rank: a handle that becomes readable when the process is dead (-1 where the system has none),
  // and the reading end of a pipe whose writing end only the rank has.
  struct Watched {
    int process = -1;
    int pipe = -1;
    bool alive = true;
    int64_t closed = 0;  // when its pipe was, wall clock
  };

  void open_rank(int local);
  void say(const std::string& words);
  void on_event(uint64_t data, int64_t now);
  void on_pipe(int local);
  void on_death(int local, bool is_process);
  int first_to_die(int local) const;
  void look_at_ranks(int64_t now);  // has one failed, stalled, have all departed?
  void act(int64_t now);
  bool settle_start(int64_t now);
  void end_ranks(int64_t now);
  bool done(int64_t now);
  std::vector<Suspect> suspects(int64_t now) const;

  const Host& host_;
  const ControlSetup& setup_;
  int words_;
  int queue_;
  Control control_;
  ControlLinks links_;
  std::vector<Watched> ranks_;
  int64_t connect_limit_;
  int64_t died_ = 0;  // when the rank whose death was reported closed its pipe
  int64_t failed_since_ = 0, ended_since_ = 0;
  bool failure_told_ = false, stall_told_ = false, departed_told_ = false;
};

}  // namespace ridgeline::comm::detail

// What this process may use of the machine that it runs on: read once, at the start of a command, and passed on as a
// value. Whoever asks the system again later gets another answer: the processors of a thread that has been bound to
// one of them are that one, which is how memory was once planned for one thread and used by two.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ridgeline/device/cpu/worker_team.h"

namespace ridgeline::device {

struct Machine {
  // The most that RIDGELINE_PROCESSORS may pretend.
  static constexpr int kMaxProcessors = 4096;

  // The processor of each thread that this process may keep busy: ascending numbers of those in its affinity mask.
  // With RIDGELINE_PROCESSORS=N in the environment (1 … kMaxProcessors, for tests and for sharing a machine) the first
  // N of them, and from the start again where there are fewer: a machine of N processors is then pretended.
  std::vector<int> processors = {0};
  // How many ranks of the run may use some of them, this one included; 0: as many as share the machine. Processes of
  // one host learn it from each other (comm::World::ranks_on_processors), a launcher having given each its own or not.
  int ranks_on_processors = 0;
  std::string model_name = "unknown CPU";
  // Bytes that can still be had, the largest number where nothing limits them: free memory of the host (MemAvailable),
  // what the memory limits of this process's cgroup and of those above it leave, addresses that the process can still
  // map (RLIMIT_AS).
  int64_t memory = kUnlimited, cgroup_memory = kUnlimited, addresses = kUnlimited;

  static constexpr int64_t kUnlimited = INT64_MAX;

  // Asks the system. Throws Error where RIDGELINE_PROCESSORS is no such number. No thread of this process is bound
  // (BoundThread) meanwhile; breaking that aborts.
  static Machine read();

  int count() const { return static_cast<int>(processors.size()); }
  // Threads of each of `ranks` ranks that share the machine, or of the ranks that share the processors, where that is
  // known; evenly, at least 1.
  int threads_per_rank(int ranks) const;
  // Where the team of thread rank `rank` of `ranks` runs, with `threads` members each. When together they fill the
  // processors exactly, each member is bound to its own: kernels were seen to leave two busy threads on one CPU for
  // milliseconds while another stood idle. Else the scheduler knows better.
  WorkerTeam::Place place_of_rank(int rank, int ranks, int threads) const;
};

// What is left under the memory limits of a cgroup and of those above it, read below `root` (/sys/fs/cgroup) for the
// process whose /proc/…/cgroup has the text `membership`. Version 2: memory.max and memory.current; version 1:
// memory/…/memory.limit_in_bytes and memory.usage_in_bytes. The largest number where there is no limit.
int64_t cgroup_headroom(const std::filesystem::path& root, std::string_view membership);

}  // namespace ridgeline::device

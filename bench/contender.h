// Programs that train, stepped in turn so that slow minutes of the machine hit all of them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bench/process.h"
#include "bench/worker.h"

namespace ridgeline::bench {

// One mode in the race: the seconds of its steps, round by round.
struct Contender {
  std::string name;
  std::unique_ptr<Process> process;
  std::vector<double> seconds, update_seconds;  // the latter of ours only
  int64_t tokens = 0;
  int64_t resident = 0;  // of its largest process
  int64_t planned = 0;
  int64_t offloaded = 0;  // bytes in files, of all ranks
  std::string limited;    // why its steps have fewer tokens than asked for; "" when they have not

  // `keep`: into `seconds`.
  void step(int count, bool keep);
};

// `program bench worker` with these options.
Contender start_worker(const std::string& program, const WorkerOptions& work, const std::string& name);

struct RaceOptions {
  int rounds = 5;
  int steps_per_round = 1;
  bool verbose = true;  // a line per round on stderr
};
// Interleaved rounds, after a step of each that does not count.
void race(const RaceOptions& options, std::vector<Contender>& contenders);

}  // namespace ridgeline::bench

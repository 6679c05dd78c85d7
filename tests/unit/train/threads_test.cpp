// Runs with the threads that they take by themselves.
#include <fmt/format.h>

#include <filesystem>

#include "../many_cases.h"
#include "small_run.h"

namespace ridgeline::train {
namespace {

class ThreadsOfARun : public SmallRun {
 protected:
  static Config sized(Config sized) {
    sized.train.threads = 0;
    return sized;
  }
  // On a machine of so many processors, of which there are fewer in truth; watched.
  void run_on(int processors, const Config& run_config, int ranks, const std::string& name) {
    JobOptions options;
    options.out = folder_ / name;
    options.guard = true;
    device::Machine machine = device::Machine::read();
    const std::vector<int> real = machine.processors;
    machine.processors.clear();
    for (size_t i = 0; i < static_cast<size_t>(processors); ++i) machine.processors.push_back(real[i % real.size()]);
    check(run_config, ranks);
    const Job job = prepare_job(run_config, options, machine, mesh_of(run_config, ranks));
    EXPECT_EQ(job.threads_per_rank, std::max(1, processors / ranks));
    comm::run_threads(ranks, {.timeout = std::chrono::seconds(60)},
                      [&](comm::World& world) { run_training(job, world); });
  }
};

TEST_F(ThreadsOfARun, GiveTheBitsOfOneThread) {
  ManyCases cases(10);  // one of each precision and number of ranks are left then
  for (const char* const precision : {"fp32", "bf16"}) {
    const Config one = config({std::string("train.precision=") + precision});
    for (const int ranks : {1, 2}) {
      const std::string alone = fmt::format("one_{}_{}", precision, ranks);
      for (const int processors : {2, 4, 6}) {
        if (cases.skips()) continue;
        if (!std::filesystem::exists(folder_ / alone)) run(one, ranks, alone);
        const std::string name = fmt::format("{}_{}_of_{}", precision, ranks, processors);
        run_on(processors, sized(one), ranks, name);
        EXPECT_EQ(losses(name), losses(alone)) << name;
        EXPECT_EQ(state(name, 8), state(alone, 8)) << name;
      }
    }
  }
}

// The fault that made runs compute NaN: threads were counted, and once more when one of them had been bound.
TEST_F(ThreadsOfARun, AreRefusedWhereMemoryIsPlannedForFewer) {
  JobOptions options;
  options.out = folder_ / "fault";
  Job job = prepare_job(sized(config()), options, device::Machine::read(), mesh_of(sized(config()), 1));
  job.threads_per_rank = 2;
  job.machine.processors = {0};
  EXPECT_DEATH(comm::run_threads(1, {}, [&](comm::World& world) { run_training(job, world); }),
               "memory is planned for a team of 1, but a team of 2 runs on it");
}

}  // namespace
}  // namespace ridgeline::train

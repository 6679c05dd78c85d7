// One of our own training modes as a process that steps when told to: each line N on standard input runs N steps and
// prints {"step_seconds": [...], "update_seconds": [...], "loss" of the last, "tokens", "peak_resident_bytes",
// "planned_bytes", "offloaded_bytes"}.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ridgeline/train/config.h"

namespace ridgeline::bench {

struct WorkerOptions {
  std::string preset = "gpt2-124m";  // "": sizes in `set`
  std::string precision = "fp32";
  int ranks = 1;
  int threads = 2;          // per rank
  int64_t batch = 4;        // sequences per step over all ranks
  int64_t micro_batch = 0;  // 0: a rank's share at once
  int64_t sequence = 1024;
  int64_t head_chunk = 512;
  std::vector<std::string> set;  // more keys of the configuration, "parallel.shard=optimizer"
  // A pretended link (comm::Link); 0 and 0 for none.
  double link_bytes_per_second = 0;
  int64_t link_nanoseconds = 0;
};

// The configuration that the worker runs.
train::Config config_of(const WorkerOptions& options);

void run_worker(const WorkerOptions& options);

}  // namespace ridgeline::bench

// One of our own training modes as a process that steps when told to: each line N on standard input runs N steps and
// prints {"step_seconds": [...], "tokens", "peak_resident_bytes", "planned_bytes"}.
#pragma once

#include <cstdint>
#include <string>

namespace ridgeline::bench {

struct WorkerOptions {
  std::string preset = "gpt2-124m";
  std::string precision = "fp32";
  int ranks = 1;
  int threads = 2;          // per rank
  int64_t batch = 4;        // sequences per step over all ranks
  int64_t micro_batch = 0;  // 0: a rank's share at once
  int64_t sequence = 1024;
  int64_t head_chunk = 1024;
};

void run_worker(const WorkerOptions& options);

}  // namespace ridgeline::bench

// Training speed of whole steps beside the floor of their work and beside PyTorch, in interleaved rounds of one run.
#pragma once

#include <string>
#include <vector>

#include "bench/report.h"
#include "bench/worker.h"

namespace ridgeline::bench {

struct TrainBenchOptions {
  WorkerOptions work;  // model, batch, sequence; precision, ranks and threads are set per row
  std::vector<std::string> precisions = {"fp32", "bf16"};
  int cpus = 2;
  int rounds = 5;
  int steps_per_round = 1;
  std::string program;  // this executable
  std::string peers;    // environment made by bench/peers/setup.sh; "" for none
  std::string peer_script = "bench/peers/gpt2_pytorch.py";
  // What gpt2_pytorch.py calls its modes (one process) and parallel modes (one process per CPU); -tuned for each.
  std::vector<std::string> peer_modes = {"eager", "eager-tuned", "compile-tuned"};
  double peer_limit = 120;  // s: a peer that would take longer for a step gets fewer tokens, and its row says so
  bool verbose = true;      // a line per round on stderr
};

std::vector<Row> train_rows(const TrainBenchOptions& options);

}  // namespace ridgeline::bench

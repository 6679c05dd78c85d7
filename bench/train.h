// Training speed of whole steps beside the floor of their work and beside PyTorch, in interleaved rounds of one run.
#pragma once

#include <string>
#include <vector>

#include "bench/contender.h"
#include "bench/report.h"

namespace ridgeline::bench {

struct TrainBenchOptions {
  WorkerOptions work;  // model, batch, sequence; precision, ranks and threads are set per row
  std::vector<std::string> precisions = {"fp32", "bf16"};
  int cpus = 2;
  RaceOptions race;
  // Only the races whose name contains one of these: PRECISION_own, _shard_LEVEL, _recompute_KIND, _tensor,
  // _pipeline_SCHEDULE, _offload_file, _beside_PEERMODE; empty: all. Error: one that no race's name contains.
  std::vector<std::string> rows;
  std::string program;  // this executable
  std::string peers;    // environment made by bench/peers/setup.sh; "" for none
  std::string peer_script = "bench/peers/gpt2_pytorch.py";
  // What gpt2_pytorch.py calls its modes (one process) and parallel modes (one process per CPU); -tuned for each.
  std::vector<std::string> peer_modes = {"eager",           "eager-tuned", "compile-tuned",   "ddp",
                                         "zero_redundancy", "fsdp2",       "deepspeed_zero1", "deepspeed_zero2",
                                         "deepspeed_zero3"};
  int64_t cut_batch = 8;          // sequences, and micro-batches, of a step of the rows _tensor and _pipeline
  std::string offload_directory;  // on the disk to offload to; "": the system's folder for temporary files
  int64_t offload_buffer = train::Config().optimizer.offload_buffer;
  double peer_limit = 120;  // s: a peer that would take longer for a step gets fewer tokens, and its row says so
};

std::vector<Row> train_rows(const TrainBenchOptions& options);

}  // namespace ridgeline::bench

// The training loop. A job is prepared once per process (files opened, data indexed), then every rank runs it.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ridgeline/base/lock_file.h"
#include "ridgeline/checkpoint/manifest.h"
#include "ridgeline/comm/communicator.h"
#include "ridgeline/comm/mesh.h"
#include "ridgeline/data/sampler.h"
#include "ridgeline/device/machine.h"
#include "ridgeline/model/transformer_config.h"
#include "ridgeline/parallel/inventory.h"
#include "ridgeline/parallel/memory_guard.h"
#include "ridgeline/parallel/program.h"
#include "ridgeline/train/config.h"
#include "ridgeline/train/run_tokenizer.h"
#include "ridgeline/train/sample_order.h"

namespace ridgeline::train {

struct JobOptions {
  std::filesystem::path out;
  // One run at a time writes to `out`: held by the process that writes there (rank 0's). Null: prepare_job takes it.
  std::shared_ptr<const LockFile> lock;
  bool writes = true;  // false: another process holds the lock
  bool resume = false;
  std::optional<std::filesystem::path> resume_from;  // a step_… folder; default: the newest in out/checkpoints
  bool verify_data = false;                          // all of .bin is read before the run begins: verify_data.h
  bool logs = false;                                 // every rank writes a RankLog
  bool other_data = false;                           // resuming on other data than the checkpoint's is meant
  std::optional<std::filesystem::path> trace;        // Perfetto JSON of steps trace_first … trace_last of this start
  int64_t trace_first = 2, trace_last = 4;
  bool guard = parallel::kGuardByDefault;  // every buffer is watched: parallel::MemoryGuard
  std::FILE* console = nullptr;            // progress and messages of rank 0; null: silent
  // Asked before the order of samples is built, with its bytes in every process; throws when there is no room. Null:
  // the order must fit into this host's free memory.
  std::function<void(int64_t)> admit_order;
  double max_time = 0;  // seconds after `began` at which the run is to have stopped and saved; 0: no such limit
  // When the command began: the start-up message counts from here to the end of the first step.
  std::chrono::steady_clock::time_point began = std::chrono::steady_clock::now();
};

// The programs of a run: evaluation, then a step for every global batch that the run can have, ascending.
constexpr int kEvaluationProgram = 0;
constexpr int kFirstStepProgram = 1;

// What a configuration that passes check() means on a machine, for a rank of its mesh (mesh_of): pure, so that `plan`
// says what `train` does.
int threads_per_rank(const Config& config, const device::Machine& machine, int ranks_of_machine);
parallel::Sharding sharding_of(const Config& config, const comm::Mesh& mesh);
parallel::RunShape run_shape(const Config& config, const device::Machine& machine, const comm::Placement& place);
std::vector<parallel::Program> run_programs(const Config& config, const comm::Placement& place);

// What all ranks of a process share. Immutable once prepared.
struct Job {
  Config config;
  JobOptions options;
  device::Machine machine;
  comm::Mesh mesh;
  SampleOrder order;  // recorded in checkpoints
  std::shared_ptr<const data::TrainingSamples> train;
  std::shared_ptr<const data::EvaluationWindows> valid;  // null: no validation data
  // UTF-8 bytes of text per predicted token of the validation data, all of which is read for it; 0 when unknown, and in
  // processes that write nothing (JobOptions::writes).
  double bytes_per_token = 0;
  bool validation_differs = false;         // from the checkpoint's: the best loss so far does not count
  std::vector<std::string> data_messages;  // for people, once the run begins
  RunTokenizer tokenizer;                  // kept in checkpoints
  DType arithmetic = DType::f32;           // of products
  int threads_per_rank = 0;
  int threads = 0;        // of all ranks together
  double peak_flops = 0;  // of these threads, for `arithmetic`; measured only in the process that writes, else 0
  double prepare_seconds = 0;
  std::optional<checkpoint::CheckpointEntry> from;  // what a resumed run goes on from
  bool finished = false;  // that is the end of the run: nothing to do, and nothing else here is set
};

// Opens and checks everything outside: data, tokenizer, output folder (Error when it already holds a run and this is no
// resume; when it is one and there is nothing to resume; when another process runs in it). `opened`: data that are
// open already.
Job prepare_job(const Config& config, JobOptions options, const device::Machine& machine, const comm::Mesh& mesh,
                RunData opened = {});
// Makes the folder of a run and takes its lock: what prepare_job does first.
std::shared_ptr<const LockFile> lock_run(const std::filesystem::path& out);
// Before --resume: LockHeld, which says who, where a run that has no checkpoint yet is being written.
void require_no_first_run(const std::filesystem::path& out);

struct TrainingResult {
  int64_t step = 0;
  bool stopped = false;        // by a signal or a limit of time, before the last step or its evaluation was through
  bool nothing_to_do = false;  // the run was finished before
  std::optional<double> loss;  // of the last step, where one was taken
  std::optional<double> validation_loss;  // nats per token
};

// Runs the job as one rank of `world`. Collective. Rank 0 writes metrics, events and messages.
TrainingResult run_training(const Job& job, comm::World& world);

}  // namespace ridgeline::train

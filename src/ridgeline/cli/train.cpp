#include "ridgeline/cli/train.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <memory>
#include <optional>
#include <utility>

#include "ridgeline/base/error.h"
#include "ridgeline/base/output.h"
#include "ridgeline/cli/command.h"
#include "ridgeline/cli/failures.h"
#include "ridgeline/cli/run_config.h"
#include "ridgeline/comm/communicator.h"
#include "ridgeline/device/machine.h"
#include "ridgeline/observe/trace.h"
#include "ridgeline/plan/memory_report.h"
#include "ridgeline/train/output_folder.h"
#include "ridgeline/train/remedy.h"
#include "ridgeline/train/run_folder.h"
#include "ridgeline/train/sample_order.h"
#include "ridgeline/train/signals.h"
#include "ridgeline/train/trainer.h"

namespace ridgeline::cli {
namespace {

struct Options {
  RunConfigOptions run;
  train::JobOptions job;
  std::string out, resume_from, trace;
  bool print_config = false, ignore_plan = false, quiet = false;
};

// The first of the launcher's variables that is there, as a number; 1 without any.
int launcher_says(std::initializer_list<const char*> names) {
  for (const char* const name : names) {
    if (const char* const value = std::getenv(name)) return std::max(1, std::atoi(value));
  }
  return 1;
}
// The number of processes that the MPI launcher started, and of those on this host, before MPI itself is initialised.
int launched_ranks() {
  return launcher_says({"PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS"});
}
int launched_on_host() {
  return launcher_says({"MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_TASKS_PER_NODE"});
}

// Before anything is allocated. Every process of an MPI run asks for all ranks of its host, none having allocated yet;
// for itself alone in its cgroup, which its peers may share or not; and its addresses hold what its peers share, too.
// `order_bytes`: of each process, for the order of samples.
void require_memory(const train::Config& config, const device::Machine& machine, int ranks, bool mpi,
                    int64_t order_bytes) {
  const int on_host = mpi ? launched_on_host() : ranks;
  const plan::MemoryReport report = train::memory_report(config, machine, ranks);
  plan::Limit addresses = plan::address_limit(machine, mpi ? 1 : ranks);
  if (mpi) addresses.bytes -= report.peer_visible * (on_host - 1);
  const auto require = [&](plan::Limit limit, int processes) {
    train::require_index_fits(config, order_bytes, limit.bytes / processes, limit.of);
    limit.beside = order_bytes * processes;
    plan::require_fits(report, limit, [&] { return train::nearest_remedy(config, machine, ranks, limit); });
  };
  require(plan::host_limit(machine, on_host), mpi ? on_host : 1);
  require(plan::cgroup_limit(machine, mpi ? 1 : ranks), 1);
  require(addresses, 1);
}

void print_result(const train::TrainingResult& result, const std::string& out, int64_t steps) {
  if (result.nothing_to_do) {
    fmt::print("nothing to do: '{}' is finished, at step {} of train.steps = {}; raise train.steps to go on\n", out,
               result.step, steps);
  } else {
    std::string text = fmt::format("{} at step {}", result.stopped ? "stopped" : "finished", result.step);
    const char* separator = ": ";
    if (result.loss) text += fmt::format("{}loss {:.4f}", std::exchange(separator, ", "), *result.loss);
    if (result.validation_loss)
      text += fmt::format("{}validation loss {:.4f} nats per token", separator, *result.validation_loss);
    fmt::print("{}\n", text);
  }
  std::fflush(stdout);
}

void run(Options& options) {
  const bool mpi = comm::launched_by_mpi();
  if (mpi) options.run.ranks = launched_ranks();
  if (options.print_config) {
    // Every key, also of a configuration that is not complete yet.
    const train::Config given = train::parse_config(options.run.config, options.run.overrides);
    fmt::print("{}", train::to_toml(given, train::Detail::documented));
    return;
  }
  const device::Machine machine = device::Machine::read();
  if (options.out.empty())
    throw Error("--out is missing", "Name the folder for checkpoints and metrics: --out runs/first");
  options.job.out = options.out;
  if (!options.resume_from.empty()) {
    options.job.resume = true;
    options.job.resume_from = options.resume_from;
  }
  const std::optional<checkpoint::CheckpointEntry> from = train::resumed_checkpoint(options.job);
  const train::Config config = read_run_config(options.run, from ? from->folder : std::filesystem::path());
  if (!options.trace.empty()) options.job.trace = options.trace;
  options.job.guard = parallel::guard_requested();
  options.job.console = options.quiet ? nullptr : stderr;
  std::vector<std::filesystem::path> inputs;
  if (!options.run.config.empty()) inputs.emplace_back(options.run.config);
  train::require_replaceable_run(options.job.out, inputs);
  if (options.job.trace) require_writable(*options.job.trace, "--trace", inputs, observe::is_trace);

  const auto admit = [&](int64_t order_bytes) {
    if (!options.ignore_plan) require_memory(config, machine, options.run.ranks, mpi, order_bytes);
  };
  admit(0);  // before anything is opened
  options.job.admit_order = admit;
  const train::Job job = train::prepare_job(config, options.job, machine, options.run.ranks);
  const train::StopSignals signals;
  const comm::WorldOptions world{
      .timeout = std::chrono::milliseconds(static_cast<int64_t>(config.parallel.timeout * 1000)),
      .failure_file = (options.job.out / train::kFailureName).string(),
      .on_failure = print_failure,
      .processors = machine.count()};
  const auto body = [&](comm::World& ranks) {
    const train::TrainingResult result = train::run_training(job, ranks);
    if (ranks.rank() == 0) print_result(result, options.out, config.train.steps);
  };
  if (mpi) {
    comm::run_mpi(world, body);
  } else {
    comm::run_threads(options.run.ranks, world, body);
  }
}

}  // namespace

void add_train(const Command& program) {
  const auto options = std::make_shared<Options>();
  const Command command = program.subcommand("train", "Train a model, or go on with a run");
  command.footer(
      "Under --out: config.toml (every key with its value), metrics.jsonl (a line per step), tensorboard/, "
      "checkpoints/step_…\n"
      "Ctrl-C, SIGTERM and SIGUSR1 finish the step, save and stop; --resume goes on with the same bits. Ctrl-C or "
      "SIGTERM\n"
      "once more quits at once, without saving.\n"
      "RIDGELINE_PROCESSORS=N in the environment uses N processors instead of all; RIDGELINE_GUARD=1 watches every\n"
      "buffer (slower, the same bits), to find a defect of Ridgeline.\n\n"
      "Examples:\n"
      "  ridgeline train --config configs/quickstart.toml --ranks 2 --out runs/first\n"
      "  ridgeline train --config configs/quickstart.toml --ranks 2 --out runs/first --resume --set train.steps=2000\n"
      "  mpirun -n 2 ridgeline train --config configs/quickstart.toml --out runs/mpi\n"
      "  ridgeline train --config configs/quickstart.toml --print-config     every key, its default, unit and meaning");
  add_run_config(command, options->run, kThreadRanks);
  command.option("--out", options->out, "Folder of the run").placeholder("DIR");
  command.flag("--resume", options->job.resume, "Go on with the newest checkpoint in --out");
  command
      .option("--resume-from", options->resume_from,
              "Go on with this checkpoint instead of the newest; later ones move to checkpoints/branch_…")
      .placeholder("DIR");
  command.flag("--other-data", options->job.other_data,
               "Resume on other data, data.split, train.sequence or train.seed than the checkpoint's: the order of "
               "samples then begins anew");
  command.option("--trace", options->trace, "Write what each rank did when, for ui.perfetto.dev")
      .placeholder("FILE.json");
  command.option("--trace-first", options->job.trace_first, Range{},
                 "First step of the trace, counted from this start");
  command.option("--trace-last", options->job.trace_last, Range{}, "Last step of the trace");
  command.flag("--print-config", options->print_config, "Print the effective configuration with comments and stop");
  command.flag("--ignore-plan", options->ignore_plan, "Start even when the plan says that memory does not suffice");
  command.flag("--quiet", options->quiet, "No progress");
  command.action([options] { run(*options); });
}

}  // namespace ridgeline::cli

#include "ridgeline/cli/train.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "ridgeline/base/error.h"
#include "ridgeline/base/output.h"
#include "ridgeline/cli/command.h"
#include "ridgeline/cli/failures.h"
#include "ridgeline/cli/incomplete.h"
#include "ridgeline/cli/limits.h"
#include "ridgeline/cli/link_report.h"
#include "ridgeline/cli/ranks.h"
#include "ridgeline/cli/run_config.h"
#include "ridgeline/comm/communicator.h"
#include "ridgeline/comm/failure.h"
#include "ridgeline/comm/link_check.h"
#include "ridgeline/device/machine.h"
#include "ridgeline/observe/trace.h"
#include "ridgeline/plan/memory_report.h"
#include "ridgeline/train/agreement.h"
#include "ridgeline/train/find_documents.h"
#include "ridgeline/train/host_work.h"
#include "ridgeline/train/output_folder.h"
#include "ridgeline/train/remedy.h"
#include "ridgeline/train/run_folder.h"
#include "ridgeline/train/sample_order.h"
#include "ridgeline/train/signals.h"
#include "ridgeline/train/trainer.h"

namespace ridgeline::cli {
namespace {

struct TrainOptions {
  RunConfigOptions run;
  train::JobOptions job;
  std::string out, resume_from, trace, rendezvous;
  bool resume_or_start = false, print_config = false, check_links = false, ignore_plan = false, quiet = false;
  std::atomic<bool> stopped = false;  // what the run's ranks report
};

constexpr const char* kStartOnHosts =
    "Start one process on every host: srun --nodes=4 --ntasks-per-node=1 ridgeline train --check-links.";

// The ranks on this host: each a process, or threads of this one.
struct RanksHere {
  int count = 1;
  bool processes = false;
};

// Before anything is allocated. Every process of a run of several asks for all ranks of its host, none having allocated
// yet; for itself alone in its cgroup, which its peers may share or not; and its addresses hold what its peers share,
// too. `order_bytes`: of each process, for the order of samples.
void require_memory(const train::Config& config, const device::Machine& machine, int ranks, RanksHere here,
                    int64_t order_bytes) {
  const comm::Mesh mesh = train::mesh_of(config, ranks);
  const int of_process = here.processes ? 1 : here.count;
  const plan::MemoryReport report = train::memory_report(config, machine, mesh);
  plan::Limit addresses = plan::address_limit(machine, of_process);
  if (here.processes) addresses.bytes -= report.peer_visible * (here.count - 1);
  const auto require = [&](plan::Limit limit, int processes) {
    train::require_index_fits(config, order_bytes, limit.bytes / processes, limit.of);
    limit.beside = order_bytes * processes;
    plan::require_fits(
        report, limit, [&] { return train::nearest_remedy(config, machine, mesh, limit); },
        train::most_of_it(config, report));
  };
  require(plan::host_limit(machine, here.count), here.processes ? here.count : 1);
  require(plan::cgroup_limit(machine, of_process), 1);
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

// A complete and checked configuration that fits into memory, and the options of its job.
train::Config read_options(TrainOptions& options, const device::Machine& machine, RanksHere here) {
  if (options.out.empty())
    throw Error("--out is missing", "Name the folder for checkpoints and metrics: --out runs/first");
  options.job.out = options.out;
  if (!options.resume_from.empty()) {
    options.job.resume = true;
    options.job.resume_from = options.resume_from;
  }
  if (options.job.resume && !options.job.resume_from) train::require_no_first_run(options.job.out);
  if (options.resume_or_start && train::has_checkpoints(options.job.out)) options.job.resume = true;
  const std::optional<checkpoint::CheckpointEntry> from = train::resumed_checkpoint(options.job);
  train::Config config = read_run_config(options.run, from ? from->folder : std::filesystem::path());
  if (!options.trace.empty()) options.job.trace = options.trace;
  options.job.guard = parallel::guard_requested();
  options.job.console = options.quiet ? nullptr : stderr;
  std::vector<std::filesystem::path> inputs;
  if (!options.run.config.empty()) inputs.emplace_back(options.run.config);
  train::require_replaceable_run(options.job.out, inputs);
  if (options.job.trace) require_writable(*options.job.trace, "--trace", inputs, observe::is_trace);
  require_threads(machine, here.processes ? 1 : here.count, train::threads_per_rank(config, machine, options.run.ranks),
                  fmt::format("--ranks {}, train.threads = {}", options.run.ranks, config.train.threads));
  if (!options.ignore_plan) require_memory(config, machine, options.run.ranks, here, 0);  // before anything is opened
  return config;
}

// The order of samples counts when its size is known. `config` lives as long as the options.
void admit_order(TrainOptions& options, const train::Config& config, const device::Machine& machine, RanksHere here) {
  options.job.admit_order = [&options, &config, &machine, here](int64_t order_bytes) {
    if (!options.ignore_plan) require_memory(config, machine, options.run.ranks, here, order_bytes);
  };
}

comm::WorldOptions world_options(TrainOptions& options, const device::Machine& machine,
                                 const train::Config::Parallel& parallel) {
  return {
      .timeout = std::chrono::milliseconds(static_cast<int64_t>(parallel.timeout * 1000)),
      .sum_group = static_cast<int>(parallel.sum_group),
      .failure_file = options.out.empty() ? "" : (std::filesystem::path(options.out) / train::kFailureName).string(),
      .log_folder = options.out.empty() ? "" : (std::filesystem::path(options.out) / train::kLogsName).string(),
      .log_every_rank = options.job.logs,
      .on_failure = print_failure,
      .exit_status = [&options] { return options.stopped ? kUnfinished : 0; },
      .processors = machine.processors};
}

void train_on(comm::World& ranks, const train::Job& job, TrainOptions& options) {
  const train::TrainingResult result = train::run_training(job, ranks);
  options.stopped = result.stopped;
  if (ranks.rank() == 0) print_result(result, options.out, job.config.train.steps);
}

void run_threads(TrainOptions& options, const device::Machine& machine) {
  const train::Config config = read_options(options, machine, {options.run.ranks, false});
  admit_order(options, config, machine, {options.run.ranks, false});
  train::find_documents(train::dataset_names(config), machine, options.job.console);
  const train::Job job = train::prepare_job(config, options.job, machine, train::mesh_of(config, options.run.ranks));
  const train::StopSignals signals;
  comm::run_threads(options.run.ranks, world_options(options, machine, config.parallel),
                    [&](comm::World& ranks) { train_on(ranks, job, options); });
}

// Every process may have been started otherwise: they agree before anything is allocated, and again when all have
// opened what they need. What goes wrong until then is said once, for all.
void run_as_rank(TrainOptions& options, device::Machine machine, comm::World& ranks) {
  machine.ranks_on_processors = ranks.ranks_on_processors();
  const RanksHere here{ranks.ranks_of_host(), true};
  options.run.ranks = ranks.size();
  options.job.writes = ranks.rank() == 0;
  train::Config config;
  bool of_llmc = false;
  train::Standing standing = train::standing_of([&] {
    config = read_options(options, machine, here);
    admit_order(options, config, machine, here);
    train::require_data(config);
    of_llmc = train::any_of_llmc(config);
    if (options.job.writes) options.job.lock = train::lock_run(options.job.out);
    return std::vector<train::Fact>();
  });
  standing.asks = of_llmc;
  // Hosts may have the same data in another form: where any has some of llm.c, all find their documents together.
  if (train::agree(ranks, standing)) train::find_documents(ranks, config, machine, options.job.console);
  train::RunData opened;
  train::agree(ranks, train::facts_of(ranks, config, options.job, opened));
  if (ranks.hosts() > 1) {
    const std::string slow = slow_links_text(comm::check_links(ranks, comm::LinkCheck::quick));
    if (ranks.rank() == 0 && !slow.empty()) fmt::print(stderr, "note: {}", slow);
  }
  std::optional<train::Job> job;
  train::agree_when_done(ranks, {"preparation of a run"}, [&](const std::atomic<bool>&) {
    job = train::prepare_job(config, options.job, machine, train::mesh_of(config, ranks.size()), std::move(opened));
    return std::vector<train::Fact>{train::folder_fact(options.job)};
  });
  train_on(ranks, *job, options);
}

// --check-links: measures, and no more.
void measure_links(comm::World& ranks) {
  train::agree(ranks, {.facts = {{"--check-links", "given"}}});
  if (ranks.hosts() == 1) throw comm::Refusal("--check-links: all ranks are on one host", kStartOnHosts);
  const std::string text = links_text(comm::check_links(ranks, comm::LinkCheck::thorough));
  if (ranks.rank() != 0) return;
  fmt::print("{}", text);
  std::fflush(stdout);
}

// What a world is made with before all agree: the configuration's own, where it can be read.
train::Config::Parallel parallel_of(const RunConfigOptions& options) {
  try {
    return train::parse_config(options.config, options.overrides).parallel;
  } catch (const Error&) {
    return {};  // to be said when all ranks are there
  }
}

void run(TrainOptions& options) {
  if (options.print_config) {
    // Every key, also of a configuration that is not complete yet.
    const train::Config given = train::parse_config(options.run.config, options.run.overrides);
    fmt::print("{}", train::to_toml(given, train::Detail::documented));
    return;
  }
  const device::Machine machine = device::Machine::read();
  if (comm::launched(options.rendezvous) && options.check_links) {
    comm::run_launched(world_options(options, machine, parallel_of(options.run)), options.rendezvous, measure_links);
  } else if (comm::launched(options.rendezvous)) {
    const train::StopSignals signals;
    comm::run_launched(world_options(options, machine, parallel_of(options.run)), options.rendezvous,
                       [&](comm::World& ranks) { run_as_rank(options, machine, ranks); });
  } else {
    comm::require_company();
    if (options.check_links) throw Error("--check-links: there is one process, on one host", kStartOnHosts);
    run_threads(options, machine);
  }
  if (options.stopped) throw Unfinished();
}

}  // namespace

void add_train(const Command& program) {
  const auto options = std::make_shared<TrainOptions>();
  const Command command = program.subcommand("train", "Train a model, or go on with a run");
  command.footer(
      "Under --out: config.toml (every key with its value), metrics.jsonl (a line per step), tensorboard/, "
      "checkpoints/step_…\n"
      "Ctrl-C, SIGTERM and SIGUSR1 finish the step, save and stop, and so does a Slurm job's time limit "
      "(train.stop_before_limit);\n"
      "the exit code is then 75, and --resume goes on with the same bits. Ctrl-C or SIGTERM once more quits at once, "
      "without saving.\n"
      "RIDGELINE_PROCESSORS=N in the environment uses N processors instead of all; RIDGELINE_GUARD=1 watches every\n"
      "buffer (slower, the same bits), to find a defect of Ridgeline.\n\n"
      "Examples:\n"
      "  ridgeline train --config configs/quickstart.toml --ranks 2 --out runs/first\n"
      "  ridgeline train --config configs/quickstart.toml --ranks 2 --out runs/first --resume --set train.steps=2000\n"
      "  mpirun -n 2 ridgeline train --config configs/quickstart.toml --out runs/mpi\n"
      "  srun -n 16 ridgeline train --config configs/gpt2_124m.toml --out runs/hosts --rendezvous slurm     without "
      "MPI\n"
      "  ridgeline train --config configs/quickstart.toml --print-config     every key, its default, unit and meaning");
  add_run_config(command, options->run, kThreadRanks);
  add_rendezvous(command, options->rendezvous);
  command.option("--out", options->out, "Folder of the run").placeholder("DIR");
  command.flag("--resume", options->job.resume, "Go on with the newest checkpoint in --out");
  command.flag("--resume-or-start", options->resume_or_start,
               "Go on with the newest checkpoint in --out, or begin when there is none yet: for jobs that are queued "
               "again");
  command
      .option("--resume-from", options->resume_from,
              "Go on with this checkpoint instead of the newest; later ones move to checkpoints/branch_…")
      .placeholder("DIR");
  command.flag("--other-data", options->job.other_data,
               "Resume on other data, data.split, train.sequence or train.seed than the checkpoint's: the order of "
               "samples then begins anew");
  command.flag("--verify-data", options->job.verify_data,
               "Read all of the data first: it must be what `prepare` wrote, on every host");
  command.flag("--logs", options->job.logs,
               "Every rank writes a line per step, and what it did last before a failure, to logs/rank-….log in --out; "
               "else a failure leaves the latter of 16 ranks");
  command.duration("--max-time", options->job.max_time,
                   "Save and stop so that the command ends after this time: 90m, 1:30:00, 5400s");
  command.option("--trace", options->trace, "Write what each rank did when, for ui.perfetto.dev")
      .placeholder("FILE.json");
  command.option("--trace-first", options->job.trace_first, Range{},
                 "First step of the trace, counted from this start");
  command.option("--trace-last", options->job.trace_last, Range{}, "Last step of the trace");
  command.flag("--check-links", options->check_links,
               "Only measure how fast every two hosts reach each other, and print it");
  command.flag("--print-config", options->print_config, "Print the effective configuration with comments and stop");
  command.flag("--ignore-plan", options->ignore_plan, "Start even when the plan says that memory does not suffice");
  command.flag("--quiet", options->quiet, "No progress");
  command.action([options] { run(*options); });
}

}  // namespace ridgeline::cli

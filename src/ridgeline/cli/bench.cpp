#include "ridgeline/cli/bench.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "bench/comm.h"
#include "bench/machine.h"
#include "bench/ops.h"
#include "bench/overlap.h"
#include "bench/train.h"
#include "ridgeline/base/file.h"
#include "ridgeline/device/machine.h"

namespace ridgeline::cli {
namespace {

struct Options {
  std::string json, filter;
  int threads = 0, rounds = 5, ranks = 2;
  int64_t bytes = 498'000'000;
  bench::TrainBenchOptions train;
  bench::WorkerOptions worker;
  bench::OverlapOptions overlap;
};

void report(const Options& options, const std::vector<bench::Row>& rows) {
  fmt::print("{}", bench::to_table(rows));
  if (options.json.empty()) return;
  std::string text;
  for (const bench::Row& row : rows) text += bench::to_json(row).dump() + "\n";
  write_atomically(options.json, text);
}

int threads(const Options& options) {
  return options.threads > 0 ? options.threads : device::Machine::read().count();
}

void add_work(CLI::App& command, bench::WorkerOptions& work) {
  command.add_option("--preset", work.preset, "Model")->capture_default_str();
  command.add_option("--batch", work.batch, "Sequences per step over all ranks")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command.add_option("--micro-batch", work.micro_batch, "Sequences at once per rank; 0: its whole share")
      ->capture_default_str();
  command.add_option("--sequence", work.sequence, "Tokens per sequence")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command.add_option("--head-chunk", work.head_chunk, "Tokens per chunk of the loss head")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command.add_option("--set", work.set, "Override a key of our configuration; may be given often")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(true)
      ->take_all();
}

std::string own_program() {
  return std::filesystem::read_symlink("/proc/self/exe").string();
}

void add_overlap(CLI::App& command, const std::shared_ptr<Options>& options) {
  bench::OverlapOptions& overlap = options->overlap;
  const auto number = [&](const char* name, auto& value, const char* meaning) {
    command.add_option(name, value, meaning)->capture_default_str()->check(CLI::PositiveNumber);
  };
  number("--layers", overlap.layers, "Blocks of the model");
  number("--width", overlap.width, "Width of the model");
  number("--vocab", overlap.vocab, "Vocabulary");
  number("--sequence", overlap.sequence, "Tokens per sequence");
  number("--micro-batches", overlap.micro_batches, "Of one sequence, per step and rank; each is reduced at once");
  number("--prefetch", overlap.prefetch, "Blocks between the start of a transfer and the wait for it");
  number("--share", overlap.share, "Time of a step's transfers on the link, of its computation");
  number("--latency", overlap.link_nanoseconds, "Nanoseconds per transfer");
  command.add_option("--levels", overlap.levels, "Of sharding")->capture_default_str();
  command.callback([options] {
    options->overlap.program = own_program();
    options->overlap.race.rounds = options->rounds;
    report(*options, bench::overlap_rows(options->overlap));
  });
}

}  // namespace

void add_bench(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("bench", "Measure this machine, the operators, the collectives, whole training steps");
  command->require_subcommand(1);
  command->footer(
      "Every figure stands beside what bounds it: the floor of its work at this machine's measured peaks, or a named "
      "peer.\n\n"
      "Examples:\n"
      "  ridgeline bench machine\n"
      "  ridgeline bench ops --filter attention --json ops.jsonl\n"
      "  mpirun -n 2 ridgeline bench comm\n"
      "  ridgeline bench overlap\n"
      "  ridgeline bench train --rows shard,recompute              one choice beside another\n"
      "  ridgeline bench train --rows offload --offload-directory /nvme\n"
      "  ridgeline bench train --peers /tmp/ridgeline-peers        beside PyTorch (bench/peers/setup.sh makes that "
      "folder)");
  const auto common = [&](CLI::App* sub) {
    sub->add_option("--json", options->json, "Also write the rows, one JSON object per line")->type_name("FILE");
    sub->add_option("--threads", options->threads, "0: all CPUs")->capture_default_str();
    sub->add_option("--rounds", options->rounds, "Median of this many rounds")
        ->capture_default_str()
        ->check(CLI::PositiveNumber);
    return sub;
  };
  CLI::App* machine = common(command->add_subcommand("machine", "Arithmetic peaks and memory bandwidth"));
  machine->callback([options] { report(*options, bench::machine_rows(threads(*options))); });

  CLI::App* ops = common(command->add_subcommand("ops", "Every operator on the shapes of GPT-2 124M"));
  ops->add_option("--filter", options->filter, "Only operators whose name contains this")->type_name("TEXT");
  ops->callback([options] { report(*options, bench::op_rows(threads(*options), options->rounds, options->filter)); });

  CLI::App* comm =
      common(command->add_subcommand("comm", "Collectives between ranks of this host (threads, or MPI under mpirun)"));
  comm->add_option("--ranks", options->ranks, "Thread ranks")->capture_default_str()->check(CLI::PositiveNumber);
  comm->add_option("--bytes", options->bytes, "Size of the buffer")->capture_default_str()->check(CLI::PositiveNumber);
  comm->callback([options] {
    const std::vector<bench::Row> rows = bench::comm_rows(options->ranks, options->bytes, options->rounds);
    if (!rows.empty()) report(*options, rows);
  });

  CLI::App* train =
      common(command->add_subcommand("train", "Whole training steps, beside their floor and beside PyTorch"));
  add_work(*train, options->train.work);
  train->add_option("--precision", options->train.precisions, "Of fp32, bf16, fp16")
      ->capture_default_str()
      ->delimiter(',');
  train
      ->add_option("--rows", options->train.rows,
                   "Only races whose name contains one of these: PRECISION_own, PRECISION_shard_LEVEL, "
                   "PRECISION_recompute_KIND, PRECISION_offload_file, PRECISION_beside_PEERMODE")
      ->delimiter(',');
  train
      ->add_option("--offload-directory", options->train.offload_directory,
                   "Folder on the disk that offload_file writes to (a GPT-2 124M takes 1 GB there); default: the "
                   "system's for temporary files")
      ->type_name("DIR");
  train->add_option("--offload-buffer", options->train.offload_buffer, "Window of offload_file in memory")
      ->capture_default_str()
      ->transform(CLI::AsSizeValue(true))
      ->type_name("SIZE");
  train->add_option("--peers", options->train.peers, "Environment made by bench/peers/setup.sh")->type_name("DIR");
  train->add_option("--peer-script", options->train.peer_script, "The peer's program")
      ->capture_default_str()
      ->type_name("FILE");
  train
      ->add_option("--peer-modes", options->train.peer_modes,
                   "eager, compile (one process); ddp, zero_redundancy, fsdp2, deepspeed_zero1, deepspeed_zero2, "
                   "deepspeed_zero3 (a process per CPU); each with -tuned for jemalloc and huge pages")
      ->capture_default_str()
      ->delimiter(',');
  train
      ->add_option("--peer-limit", options->train.peer_limit,
                   "Seconds: a peer whose step would take longer steps on fewer tokens, and its row says so; 0: never")
      ->capture_default_str();
  train->callback([options] {
    options->train.cpus = threads(*options);
    options->train.race.rounds = options->rounds;
    options->train.program = own_program();
    report(*options, bench::train_rows(options->train));
  });

  add_overlap(*common(command->add_subcommand(
                  "overlap", "Steps of every sharding level on a slow link, which computation should hide")),
              options);

  // The process behind each of our rows of `train` and `overlap`.
  CLI::App* worker = command->add_subcommand("worker", "")->group("");
  add_work(*worker, options->worker);
  worker->add_option("--precision", options->worker.precision);
  worker->add_option("--ranks", options->worker.ranks);
  worker->add_option("--threads", options->worker.threads);
  worker->add_option("--link-bandwidth", options->worker.link_bytes_per_second);
  worker->add_option("--link-latency", options->worker.link_nanoseconds);
  worker->callback([options] { bench::run_worker(options->worker); });
}

}  // namespace ridgeline::cli

#include "ridgeline/cli/bench.h"

#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "bench/comm.h"
#include "bench/machine.h"
#include "bench/ops.h"
#include "bench/overlap.h"
#include "bench/read.h"
#include "bench/tokenize.h"
#include "bench/train.h"
#include "ridgeline/base/json.h"
#include "ridgeline/base/output.h"
#include "ridgeline/cli/command.h"
#include "ridgeline/cli/limits.h"
#include "ridgeline/comm/communicator.h"
#include "ridgeline/device/machine.h"

namespace ridgeline::cli {
namespace {

struct BenchOptions {
  std::string json, filter;
  int threads = 0, rounds = 5, ranks = 2;
  int64_t bytes = 498'000'000;
  bench::TrainBenchOptions train;
  bench::WorkerOptions worker;
  bench::OverlapOptions overlap;
  bench::ReadOptions read;
  bench::TokenizeOptions tokenize;
};

void report(const BenchOptions& options, const std::vector<bench::Row>& rows) {
  fmt::print("{}", bench::to_table(rows));
  if (options.json.empty()) return;
  std::string text;
  for (const bench::Row& row : rows) text += json_text(bench::to_json(row)) + "\n";
  write_output(options.json, text);
}

// Rows of `bench`, one JSON object per line: what --json may replace.
bool are_rows(std::string_view start) {
  const auto row = parse_json_if_any(start.substr(0, start.find('\n')));
  return row.is_object() && row.contains("name") && row.contains("value") && row.contains("unit") &&
         row.contains("floor");
}

// Before the work, not after it.
void require_json(const BenchOptions& options) {
  if (!options.json.empty()) require_writable(options.json, "--json", {}, are_rows);
}

int threads(const BenchOptions& options) {
  return threads_or_all(options.threads);
}

void run_comm(const BenchOptions& options) {
  require_json(options);
  const device::Machine machine = device::Machine::read();
  if (!comm::launched()) {
    const std::string asked = fmt::format("--ranks {}, --bytes {}", options.ranks, options.bytes);
    require_threads(machine, options.ranks, 1, asked);
    require_bytes(machine, static_cast<double>(options.ranks) * static_cast<double>(options.bytes), asked);
  }
  const std::vector<bench::Row> rows = bench::comm_rows(options.ranks, options.bytes, options.rounds);
  if (!rows.empty()) report(options, rows);
}

void add_work(const Command& command, bench::WorkerOptions& work) {
  command.option("--preset", work.preset, "Model");
  command.option("--batch", work.batch, kMicroBatch, "Sequences per step over all ranks");
  command.option("--micro-batch", work.micro_batch, Range{0, kMicroBatch.last},
                 "Sequences at once per rank; 0: its whole share");
  command.option("--sequence", work.sequence, kSequence, "Tokens per sequence");
  command.option("--head-chunk", work.head_chunk, kSequence, "Tokens per chunk of the loss head");
  command.list("--set", work.set, "Override a key of our configuration; may be given often").placeholder("KEY=VALUE");
}

std::string own_program() {
  return std::filesystem::read_symlink("/proc/self/exe").string();
}

void add_overlap(const Command& command, const std::shared_ptr<BenchOptions>& options) {
  bench::OverlapOptions& overlap = options->overlap;
  command.option("--layers", overlap.layers, Range{1, 4096}, "Blocks of the model");
  command.option("--width", overlap.width, Range{1, 1 << 20}, "Width of the model");
  command.option("--vocab", overlap.vocab, Range{1, 1 << 24}, "Vocabulary");
  command.option("--sequence", overlap.sequence, kSequence, "Tokens per sequence");
  command.option("--micro-batches", overlap.micro_batches, Range{1, 4096},
                 "Of one sequence, per step and rank; each is reduced at once");
  command.option("--prefetch", overlap.prefetch, Range{1, 4096},
                 "Blocks between the start of a transfer and the wait for it");
  command.option("--share", overlap.share, RealRange{1e-3, 1e3},
                 "Time of a step's transfers on the link, of its computation");
  command.option("--latency", overlap.link_nanoseconds, Range{1, 1'000'000'000}, "Nanoseconds per transfer");
  command.option("--levels", overlap.levels, "Of sharding; or tensor: slices instead");
  command.action([options] {
    require_json(*options);
    options->overlap.program = own_program();
    options->overlap.race.rounds = options->rounds;
    report(*options, bench::overlap_rows(options->overlap));
  });
}

void add_bench_train(const Command& command, const std::shared_ptr<BenchOptions>& options) {
  bench::TrainBenchOptions& train = options->train;
  add_work(command, train.work);
  command.list("--precision", train.precisions, "Of fp32, bf16, fp16").separated_by(',');
  command
      .list("--rows", train.rows,
            "Only races whose name contains one of these: PRECISION_own, PRECISION_shard_LEVEL, "
            "PRECISION_recompute_KIND, PRECISION_tensor, PRECISION_pipeline_SCHEDULE, PRECISION_offload_file, "
            "PRECISION_beside_PEERMODE")
      .separated_by(',');
  command
      .option("--offload-directory", train.offload_directory,
              "Folder on the disk that offload_file writes to (a GPT-2 124M takes 1 GB there); default: the system's "
              "for temporary files")
      .placeholder("DIR");
  command.size("--offload-buffer", train.offload_buffer, Range{1, int64_t{1} << 40},
               "Window of offload_file in memory");
  command.option("--peers", train.peers, "Environment made by bench/peers/setup.sh").placeholder("DIR");
  command.option("--peer-script", train.peer_script, "The peer's program").placeholder("FILE");
  command
      .list("--peer-modes", train.peer_modes,
            "eager, compile (one process); ddp, zero_redundancy, fsdp2, deepspeed_zero1, deepspeed_zero2, "
            "deepspeed_zero3 (a process per CPU); each with -tuned for jemalloc and huge pages")
      .separated_by(',');
  command.option("--peer-limit", train.peer_limit, RealRange{0, 1e6},
                 "Seconds: a peer whose step would take longer steps on fewer tokens, and its row says so; 0: never");
  command.action([options] {
    require_json(*options);
    options->train.cpus = threads(*options);
    options->train.race.rounds = options->rounds;
    options->train.program = own_program();
    report(*options, bench::train_rows(options->train));
  });
}

void add_read(const Command& command, const std::shared_ptr<BenchOptions>& options) {
  bench::ReadOptions& read = options->read;
  command.list("INPUT", read.inputs, "Files, folders, patterns").required().placeholder("INPUT");
  command.option("--tokenizer", read.tokenizer, "Its files; the default is GPT-2's, in Ridgeline's sources")
      .placeholder("DIR");
  command
      .option("--folder", read.folder,
              "Where datasets are written, and removed; default: the system's folder for temporary files")
      .placeholder("DIR");
  command.action([options] {
    require_json(*options);
    options->read.threads = threads(*options);
    options->read.rounds = options->rounds;
    report(*options, bench::read_rows(options->read));
  });
}

void add_tokenize(const Command& command, const std::shared_ptr<BenchOptions>& options) {
  bench::TokenizeOptions& tokenize = options->tokenize;
  command.option("--json", options->json, "Also write the rows, one JSON object per line").placeholder("FILE");
  command.option("--rounds", options->rounds, Range{1, 10000}, "Median of this many rounds");
  command.option("--peers", tokenize.peers, "Environment made by bench/peers/setup_tokenizers.sh").placeholder("DIR");
  command.option("--peer-script", tokenize.peer_script, "The peers' program").placeholder("FILE");
  command.option("--tokenizer", tokenize.tokenizer, "Its files; the default is GPT-2's, in Ridgeline's sources")
      .placeholder("DIR");
  command
      .option("--corpora", tokenize.corpora,
              "Folder with english.txt, code.txt and cjk.txt. Default: english from perl-doc's pages and "
              "/usr/share/doc, code from /usr/include and Python's library, cjk from the Chinese, Japanese and Korean "
              "messages in /usr/share/locale; what is shorter than half of --size is repeated")
      .placeholder("DIR");
  command.size("--size", tokenize.bytes, Range{1 << 20, int64_t{1} << 34}, "Bytes of each corpus");
  command.action([options] {
    require_json(*options);
    options->tokenize.rounds = options->rounds;
    report(*options, bench::tokenize_rows(options->tokenize));
  });
}

}  // namespace

void add_bench(const Command& program) {
  const auto options = std::make_shared<BenchOptions>();
  const Command command = program.subcommand(
      "bench", "Measure this machine, the operators, the collectives, whole training steps, reading, the tokenizer");
  command.needs_subcommand();
  command.footer(
      "Every figure stands beside what bounds it: the floor of its work at this machine's measured peaks, or a named "
      "peer.\n\n"
      "Examples:\n"
      "  ridgeline bench machine\n"
      "  ridgeline bench ops --filter attention --json ops.jsonl\n"
      "  mpirun -n 2 ridgeline bench comm\n"
      "  ridgeline bench overlap\n"
      "  ridgeline bench read corpus.jsonl.zst corpus.txt.gz\n"
      "  ridgeline bench train --rows shard,recompute              one choice beside another\n"
      "  ridgeline bench train --rows offload --offload-directory /nvme\n"
      "  ridgeline bench train --peers /tmp/ridgeline-peers        beside PyTorch (bench/peers/setup.sh makes that "
      "folder)\n"
      "  ridgeline bench tokenize --peers /tmp/ridgeline-peers     beside gigatoken and others "
      "(bench/peers/setup_tokenizers.sh)");
  const auto common = [&](const char* name, const char* help) {
    const Command sub = command.subcommand(name, help);
    sub.option("--json", options->json, "Also write the rows, one JSON object per line").placeholder("FILE");
    sub.option("--threads", options->threads, kThreads, "0: all CPUs");
    sub.option("--rounds", options->rounds, Range{1, 10000}, "Median of this many rounds");
    return sub;
  };
  const Command machine = common("machine", "Arithmetic peaks and memory bandwidth");
  machine.action([options] {
    require_json(*options);
    report(*options, bench::machine_rows(threads(*options)));
  });

  const Command ops = common("ops", "Every operator on the shapes of GPT-2 124M");
  ops.option("--filter", options->filter, "Only operators whose name contains this");
  ops.action([options] {
    require_json(*options);
    report(*options, bench::op_rows(threads(*options), options->rounds, options->filter));
  });

  const Command comm =
      common("comm", "Collectives between ranks (threads; processes under mpirun, or with RIDGELINE_RENDEZVOUS)");
  comm.option("--ranks", options->ranks, kThreadRanks, "Thread ranks");
  comm.option("--bytes", options->bytes, Range{1, int64_t{1} << 36}, "Size of the buffer");
  comm.action([options] { run_comm(*options); });

  add_read(common("read", "Corpora: unpacking, parsing, encoding, and all of `prepare` beside each"), options);
  add_bench_train(common("train", "Whole training steps, beside their floor and beside PyTorch"), options);
  add_overlap(common("overlap", "Steps of every sharding level on a slow link, which computation should hide"),
              options);
  add_tokenize(command.subcommand("tokenize",
                                  "Encoding English, code and CJK on one and two threads, beside gigatoken, "
                                  "tiktoken and Hugging Face's tokenizers"),
               options);

  // The process behind each of our rows of `train` and `overlap`.
  const Command worker = command.hidden_subcommand("worker");
  bench::WorkerOptions& work = options->worker;
  add_work(worker, work);
  worker.option("--precision", work.precision, "");
  worker.option("--ranks", work.ranks, kThreadRanks, "");
  worker.option("--threads", work.threads, kThreads, "");
  worker.option("--link-bandwidth", work.link_bytes_per_second, RealRange{0, 1e18}, "");
  worker.option("--link-latency", work.link_nanoseconds, Range{}, "");
  worker.action([options] { bench::run_worker(options->worker); });
}

}  // namespace ridgeline::cli

#include "ridgeline/cli/prepare.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "ridgeline/base/output.h"
#include "ridgeline/cli/command.h"
#include "ridgeline/cli/corpus_arguments.h"
#include "ridgeline/cli/corpus_report.h"
#include "ridgeline/cli/input_checksums.h"
#include "ridgeline/cli/limits.h"
#include "ridgeline/cli/prepare_report.h"
#include "ridgeline/cli/ranks.h"
#include "ridgeline/comm/communicator.h"
#include "ridgeline/data/dataset_output.h"
#include "ridgeline/data/prepare.h"
#include "ridgeline/data/sharing_rounds.h"
#include "ridgeline/data/token_inputs.h"
#include "ridgeline/device/machine.h"
#include "ridgeline/observe/format.h"
#include "ridgeline/observe/progress.h"

namespace ridgeline::cli {
namespace {

struct PrepareOptions {
  std::string tokenizer, json, rendezvous;
  std::filesystem::path out;
  data::PrepareSettings settings;  // without its corpus
  CorpusArguments corpus;
  bool no_end_of_document = false;
  bool specials = false;
  bool verify = false;
  int64_t rank_timeout = 3600;  // seconds
};

class PrepareBar {
 public:
  explicit PrepareBar(std::string label) : label_(std::move(label)) {}
  void operator()(const data::PrepareProgress& now) {
    if (!progress_) {
      observe::ProgressOptions look;
      look.label = label_;
      look.unit = "bytes";
      look.total = now.bytes_total;
      look.output = stderr;
      progress_ = std::make_unique<observe::Progress>(look);
    }
    progress_->note(fmt::format("{}, {}", observe::format_counted(now.documents, "document"),
                                observe::format_counted(now.tokens, "token")));
    progress_->update(now.bytes_done);
  }
  void finish() {
    if (progress_) progress_->finish();
  }

 private:
  std::string label_;
  std::unique_ptr<observe::Progress> progress_;
};

// Verifying what earlier starts did, where that takes long.
class VerifyBar {
 public:
  void operator()(int64_t done, int64_t total) {
    constexpr std::chrono::seconds kShort{2};  // nobody needs to be told
    if (!progress_ && done < total && std::chrono::steady_clock::now() - begin_ > kShort)
      progress_.emplace(observe::ProgressOptions{
          .label = "prepare: verify what is done", .total = total, .unit = "bytes", .start = done, .output = stderr});
    if (!progress_) return;
    progress_->update(done);
    if (done == total) progress_.reset();
  }

 private:
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  std::optional<observe::Progress> progress_;
};

struct Prepared {
  data::PrepareResult result;
  double seconds = 0;
};

void say_now(const std::string& text) {
  fmt::print(stderr, "prepare: {}\n", text);
}

// Before anything is made of them; each rank reads some.
void verify_before(const data::PrepareSettings& settings) {
  const data::PrepareSharing& sharing = settings.sharing;
  if (data::are_token_inputs(settings.inputs))
    throw UsageError("--verify: the inputs are token ids, and checksums are looked for beside files of text",
                     "Leave it out, and compare them with sha256sum -c.");
  if (std::find(settings.inputs.begin(), settings.inputs.end(), data::kStandardInput) != settings.inputs.end())
    throw UsageError("--verify: standard input (-) has no checksum", "Leave out one of the two.");
  const std::vector<std::filesystem::path> files = data::look_at_inputs(settings.inputs).paths();
  data::SharingRounds rounds(sharing);
  const InputChecksums checked =
      verify_inputs(files, settings.threads, sharing.index, sharing.count, [&] { rounds.go_on(); });
  rounds.finish();
  std::array<int64_t, 2> counts = {checked.verified, static_cast<int64_t>(checked.without.size())};
  sharing.sum(counts);
  if (counts[0] == 0) {
    throw Error(
        "--verify: the input files have no checksums beside them",
        "They are called NAME_sha256.txt, checksum.sha256 or SHA256SUMS: get them from where the corpus is from.");
  }
  if (sharing.index > 0) return;
  say_now(fmt::format(
      "{} written beside {}",
      observe::format_counted(counts[0], "input file has the SHA-256 that is", "input files have the SHA-256 that is"),
      counts[0] == 1 ? "it" : "them"));
  if (counts[1] > 0) {
    say_now(fmt::format("{} none there{}", observe::format_counted(counts[1], "has", "have"),
                        checked.without.empty() ? "" : fmt::format(", such as '{}'", checked.without.front())));
  }
}

// As rank `settings.sharing.index`; the first shows its own progress.
Prepared prepare_as(const PrepareOptions& options, const data::PrepareSettings& settings) {
  const data::PrepareSharing& sharing = settings.sharing;
  if (!options.json.empty()) require_writable(options.json, "--json", settings.inputs, is_prepare_report);
  const data::Tokenizer tokenizer = data::Tokenizer::load(options.tokenizer);
  if (options.verify) verify_before(settings);
  VerifyBar verify_bar;
  data::PrepareSettings own = settings;
  if (sharing.index == 0) own.verified = std::ref(verify_bar);
  const auto begin = std::chrono::steady_clock::now();
  Prepared prepared;
  if (data::are_token_inputs(settings.inputs)) {
    PrepareBar bar("prepare");
    prepared.result = data::prepare_from_tokens(tokenizer, own, std::ref(bar));
    bar.finish();
  } else if (sharing.index > 0) {
    data::prepare_dataset(tokenizer, own);
  } else {
    PrepareBar bar(sharing.count == 1 ? "prepare" : fmt::format("prepare, rank 0 of {}", sharing.count));
    prepared.result = data::prepare_dataset(tokenizer, own, std::ref(bar));
    bar.finish();
  }
  prepared.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return prepared;
}

// All ranks share the files. Nothing on those that are not the first. Whatever one of them may lack, its tokenizer,
// say, is looked for when they know each other: else the others would wait for it to come.
std::optional<Prepared> prepare_on_ranks(const PrepareOptions& options) {
  std::optional<Prepared> first;
  const std::chrono::milliseconds patience = std::chrono::seconds(options.rank_timeout);
  run_ranks(
      1, options.rendezvous,
      [&](comm::World& world) {
        const std::unique_ptr<comm::Communicator> all = world.communicator("prepare");
        device::Machine machine = device::Machine::read();
        machine.ranks_on_processors = world.ranks_on_processors();
        data::PrepareSettings settings = options.settings;
        settings.threads = threads_of_rank(machine, settings.threads, 1);
        settings.sharing.index = world.rank();
        settings.sharing.count = world.size();
        settings.sharing.round = std::min(settings.sharing.round, patience / 4);
        settings.sharing.add_up = [&](std::span<int64_t> values) {
          if (values.empty()) return;
          all->wait(all->all_reduce(values.data(), static_cast<int64_t>(values.size()), comm::ReduceOp::sum,
                                    {"parts of the dataset"}));
        };
        Prepared prepared = prepare_as(options, settings);
        if (world.rank() == 0) first = std::move(prepared);
      },
      patience);
  return first;
}

void run_prepare(PrepareOptions& options) {
  data::PrepareSettings& settings = options.settings;
  settings.inputs = options.corpus.inputs;
  settings.corpus = options.corpus.with_filters();
  settings.prefix = data::dataset_prefix(options.out);
  settings.tokenizer = options.tokenizer;
  settings.end_of_document = !options.no_end_of_document;
  settings.say = say_now;
  settings.specials = options.specials ? data::Specials::recognise : data::Specials::as_text;
  if (!options.json.empty() && data::is_of_dataset(options.json, settings.prefix))
    throw UsageError(
        fmt::format("--json {}: a file of the dataset '{}' has that name", options.json, settings.prefix.string()),
        "Choose another name for the report.");
  std::optional<Prepared> prepared;
  if (comm::launched(options.rendezvous)) {
    prepared = prepare_on_ranks(options);
    if (!prepared) return;
  } else {
    comm::require_company();
    settings.threads = threads_or_all(settings.threads);
    prepared = prepare_as(options, settings);
  }
  const data::PrepareResult& result = prepared->result;
  fmt::print("{}", prepare_report(result, settings.prefix, prepared->seconds));
  if (!options.json.empty()) write_output(options.json, prepare_report_json(result, prepared->seconds));
  report_corpus(result.corpus_options, result.corpus, {result.passed_over, result.repeated});
}

}  // namespace

void add_prepare(const Command& program) {
  const auto options = std::make_shared<PrepareOptions>();
  options->settings.threads = 0;
  const Command command = program.subcommand("prepare", "Turn text files into a token dataset (.bin, .idx, .json)");
  command.footer(
      std::string(kInputHelp) +
      "Output: PREFIX.bin and PREFIX.idx in Megatron's format, and PREFIX.json about their origin; a dataset that\n"
      "`prepare` wrote there is replaced, nothing else is.\n"
      "What is done lies in PREFIX.partial until all is: after any end, the same command goes on there.\n"
      "Ranks (mpirun, srun, --rendezvous) share the input, on a file system that all see.\n"
      "Exit code 3: all done, but lines without a document were skipped (--strict stops at the first).\n\n"
      "Example:\n"
      "  ridgeline prepare --tokenizer tokenizer --out data/pages pages.txt\n"
      "  ridgeline prepare --tokenizer gpt2 --out data/web --key body part_1.jsonl part_2.jsonl.gz\n"
      "  ridgeline prepare --tokenizer gpt2 --out data/oscar --blocks 128 oscar.txt.gz\n"
      "  ridgeline prepare --tokenizer gpt2 --out data/br --drop-quality-warnings noisy,tiny OSCAR-2301/br_meta\n"
      "  srun -N 4 ridgeline prepare --tokenizer gpt2 --out data/en --rendezvous slurm OSCAR-2301/en_meta");
  command
      .option("--tokenizer", options->tokenizer,
              "Folder with tokenizer.json, vocab.json and merges.txt, or tokenizer.model")
      .required()
      .placeholder("DIR");
  command.option("--out", options->out, "Files to write, without .bin").required().placeholder("PREFIX");
  add_corpus_arguments(command, options->corpus);
  command.option("--json", options->json, "Also write what is reported at the end").placeholder("FILE");
  command
      .option("--threads", options->settings.threads, kThreads,
              "Threads of each rank, 0 = all cores; no effect on the result")
      .placeholder("N");
  command
      .option("--blocks", options->settings.block, Range{data::kLeastBlock, (int64_t{1} << 31) - 1},
              "Cut each document into blocks of N tokens, each a training sample of its own, and drop what does not "
              "fill one; without end-of-document tokens")
      .placeholder("N")
      .no_default();
  add_rendezvous(command, options->rendezvous);
  command.option("--rank-timeout", options->rank_timeout, Range{4, 7 * 24 * 3600},
                 "Seconds that ranks wait for one that does not go on (that one has died they notice at once)");
  command.flag("--verify", options->verify,
               "Compare the files first with the SHA-256 beside them (OSCAR: *_sha256.txt, checksum.sha256)");
  command.flag("--fresh", options->settings.fresh,
               "Begin anew: remove what an unfinished one has left in PREFIX.partial");
  command.size("--part", options->settings.part_bytes, Range{1, int64_t{1} << 40},
               "Input that is prepared, and kept after an end, as one; no effect on the result");
  command.flag("--no-eod", options->no_end_of_document, "Append no end-of-document token to documents");
  command.flag("--specials", options->specials,
               "Recognise names of special tokens such as <|endoftext|> in the text; otherwise they are text");
  command.action([options] { run_prepare(*options); });
}

}  // namespace ridgeline::cli

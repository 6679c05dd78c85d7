#include "ridgeline/cli/prepare.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <memory>

#include "ridgeline/base/output.h"
#include "ridgeline/cli/command.h"
#include "ridgeline/cli/corpus_arguments.h"
#include "ridgeline/cli/corpus_report.h"
#include "ridgeline/cli/limits.h"
#include "ridgeline/cli/prepare_report.h"
#include "ridgeline/data/prepare.h"
#include "ridgeline/observe/progress.h"

namespace ridgeline::cli {
namespace {

struct PrepareOptions {
  std::string tokenizer;
  std::string json;
  data::PrepareSettings settings;  // without its corpus
  CorpusArguments corpus;
  bool no_end_of_document = false;
  bool specials = false;
};

void run_prepare(PrepareOptions& options) {
  data::PrepareSettings& settings = options.settings;
  settings.inputs = options.corpus.inputs;
  settings.corpus = options.corpus.with_filters();
  settings.tokenizer = options.tokenizer;
  settings.threads = threads_or_all(settings.threads);
  settings.end_of_document = !options.no_end_of_document;
  settings.specials = options.specials ? data::Specials::recognise : data::Specials::as_text;
  if (!options.json.empty()) require_writable(options.json, "--json", settings.inputs, is_prepare_report);
  const data::Tokenizer tokenizer = data::Tokenizer::load(options.tokenizer);

  const auto begin = std::chrono::steady_clock::now();
  std::unique_ptr<observe::Progress> progress;
  const data::PrepareResult result = data::prepare_dataset(tokenizer, settings, [&](const data::PrepareProgress& now) {
    if (!progress) {
      observe::ProgressOptions look;
      look.label = "prepare";
      look.unit = "bytes";
      look.total = now.bytes_total;
      look.output = stderr;
      progress = std::make_unique<observe::Progress>(look);
    }
    progress->note(fmt::format("{} documents, {} tokens", now.documents, now.tokens));
    progress->update(now.bytes_done);
  });
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (progress) progress->finish();
  fmt::print("{}", prepare_report(result, settings.prefix, seconds));
  if (!options.json.empty()) write_output(options.json, prepare_report_json(result, seconds));
  report_corpus(result.corpus_options, result.corpus, result.passed_over);
}

}  // namespace

void add_prepare(const Command& program) {
  const auto options = std::make_shared<PrepareOptions>();
  const Command command = program.subcommand("prepare", "Turn text files into a token dataset (.bin, .idx, .json)");
  command.footer(
      std::string(kInputHelp) +
      "Output: PREFIX.bin and PREFIX.idx in Megatron's format, and PREFIX.json about their origin; a dataset that\n"
      "`prepare` wrote there is replaced, nothing else is.\n"
      "Exit code 3: all done, but lines without a document were skipped (--strict stops at the first).\n\n"
      "Example:\n"
      "  ridgeline prepare --tokenizer tokenizer --out data/pages pages.txt\n"
      "  ridgeline prepare --tokenizer gpt2 --out data/web --key body part_1.jsonl part_2.jsonl.gz\n"
      "  ridgeline prepare --tokenizer gpt2 --out data/oscar --blocks 128 oscar.txt.gz\n"
      "  ridgeline prepare --tokenizer gpt2 --out data/br --drop-quality-warnings noisy,tiny OSCAR-2301/br_meta");
  command
      .option("--tokenizer", options->tokenizer,
              "Folder with tokenizer.json, vocab.json and merges.txt, or tokenizer.model")
      .required()
      .placeholder("DIR");
  command.option("--out", options->settings.prefix, "Files to write, without .bin").required().placeholder("PREFIX");
  add_corpus_arguments(command, options->corpus);
  command.option("--json", options->json, "Also write what is reported at the end").placeholder("FILE");
  command.option("--threads", options->settings.threads, kThreads, "Threads, 0 = all cores; no effect on the result")
      .placeholder("N");
  command
      .option("--blocks", options->settings.block, Range{data::kLeastBlock, (int64_t{1} << 31) - 1},
              "Cut each document into blocks of N tokens, each a training sample of its own, and drop what does not "
              "fill one; without end-of-document tokens")
      .placeholder("N")
      .no_default();
  command.flag("--no-eod", options->no_end_of_document, "Append no end-of-document token to documents");
  command.flag("--specials", options->specials,
               "Recognise names of special tokens such as <|endoftext|> in the text; otherwise they are text");
  command.action([options] { run_prepare(*options); });
}

}  // namespace ridgeline::cli

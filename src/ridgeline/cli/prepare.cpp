#include "ridgeline/cli/prepare.h"

#include <fmt/format.h>

#include <cstdio>
#include <memory>

#include "ridgeline/cli/command.h"
#include "ridgeline/cli/corpus_report.h"
#include "ridgeline/cli/limits.h"
#include "ridgeline/data/prepare.h"
#include "ridgeline/observe/progress.h"

namespace ridgeline::cli {
namespace {

struct PrepareOptions {
  std::string tokenizer;
  data::PrepareSettings settings;
  bool no_end_of_document = false;
  bool specials = false;
};

void print_summary(const data::PrepareResult& result, const std::filesystem::path& prefix) {
  const data::DatasetNote& note = result.note;
  fmt::print("{0}.bin, {0}.idx, {0}.json: {1} documents, {2} tokens, {3} bytes of text ({4:.2f} bytes per token)\n",
             prefix.string(), note.documents, note.tokens, note.text_bytes,
             static_cast<double>(note.text_bytes) / static_cast<double>(note.tokens));
}

void run_prepare(PrepareOptions& options) {
  data::PrepareSettings& settings = options.settings;
  settings.tokenizer = options.tokenizer;
  settings.threads = threads_or_all(settings.threads);
  settings.end_of_document = !options.no_end_of_document;
  settings.specials = options.specials ? data::Specials::recognise : data::Specials::as_text;
  const data::Tokenizer tokenizer = data::Tokenizer::load(options.tokenizer);

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
  if (progress) progress->finish();
  print_summary(result, settings.prefix);
  report_corpus(result.corpus_options, result.corpus);
}

}  // namespace

void add_prepare(const Command& program) {
  const auto options = std::make_shared<PrepareOptions>();
  const Command command = program.subcommand("prepare", "Turn text files into a token dataset (.bin, .idx, .json)");
  command.footer(
      "Input: .txt (blank lines between documents, as in OSCAR 2019) and .jsonl (one object per line).\n"
      "Output: PREFIX.bin and PREFIX.idx in Megatron's format, and PREFIX.json about their origin; a dataset that\n"
      "`prepare` wrote there is replaced, nothing else is.\n"
      "Exit code 3: all done, but lines without a document were skipped (--strict stops at the first).\n\n"
      "Example:\n"
      "  ridgeline prepare --tokenizer tokenizer --out data/pages pages.txt\n"
      "  ridgeline prepare --tokenizer gpt2 --out data/web --key content part_1.jsonl part_2.jsonl");
  command.option("--tokenizer", options->tokenizer, "Folder with tokenizer.json, or vocab.json and merges.txt")
      .required()
      .placeholder("DIR");
  command.option("--out", options->settings.prefix, "Files to write, without .bin").required().placeholder("PREFIX");
  command.list("INPUT", options->settings.inputs, "Text files, .txt or .jsonl").required().placeholder("FILE");
  command.option("--key", options->settings.corpus.key, "Where a JSON line has its text").placeholder("NAME");
  command.flag("--strict", options->settings.corpus.strict,
               "Stop at invalid UTF-8 or a bad JSON line instead of counting it");
  command.option("--threads", options->settings.threads, kThreads, "Threads, 0 = all cores; no effect on the result")
      .placeholder("N");
  command.flag("--no-eod", options->no_end_of_document, "Append no end-of-document token to documents");
  command.flag("--specials", options->specials,
               "Recognise names of special tokens such as <|endoftext|> in the text; otherwise they are text");
  command.action([options] { run_prepare(*options); });
}

}  // namespace ridgeline::cli

#include "ridgeline/cli/tokenizer.h"

#include <fmt/format.h>

#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>

#include "ridgeline/base/error.h"
#include "ridgeline/base/lock_file.h"
#include "ridgeline/cli/command.h"
#include "ridgeline/cli/corpus_arguments.h"
#include "ridgeline/cli/corpus_report.h"
#include "ridgeline/cli/limits.h"
#include "ridgeline/data/tokenizer.h"
#include "ridgeline/data/tokenizer_output.h"
#include "ridgeline/data/tokenizer_trainer.h"
#include "ridgeline/observe/format.h"
#include "ridgeline/observe/progress.h"

namespace ridgeline::cli {
namespace {

struct TokenizerTrainOptions {
  data::TokenizerTraining training;  // without its corpus
  CorpusArguments corpus;
  std::string out;
};

struct CodeOptions {
  std::string tokenizer;
  std::string text;
  std::vector<int32_t> ids;
  bool specials = false;
  bool show = false;
};

// One bar for reading, one for merging.
class TrainingProgress {
 public:
  void operator()(const data::TrainerProgress& now) {
    if (!bar_ || now.reading != reading_) {
      reading_ = now.reading;
      observe::ProgressOptions look;
      look.label = now.reading ? "count words" : "merge";
      look.unit = now.reading ? "bytes" : "merges";
      look.total = now.total;
      look.output = stderr;
      bar_.reset();
      bar_ = std::make_unique<observe::Progress>(look);
    }
    bar_->update(now.done);
  }

 private:
  std::unique_ptr<observe::Progress> bar_;
  bool reading_ = true;
};

void run_train(const TokenizerTrainOptions& options) {
  data::TokenizerTraining training = options.training;
  training.threads = threads_or_all(training.threads);
  training.inputs = options.corpus.inputs;
  training.corpus = options.corpus.with_filters();
  training.corpus.markers = {"<|endoftext|>"};  // what it will be called
  data::require_replaceable_tokenizer(options.out, training.inputs);
  const auto lock =
      LockFile::of_folder(options.out, fmt::format("the tokenizer in '{}'", options.out), "ridgeline tokenizer train");
  const data::TrainedTokenizer trained = [&] {
    TrainingProgress progress;
    return data::train_tokenizer(training, std::ref(progress));
  }();
  trained.tokenizer.save(options.out);
  const int32_t size = trained.tokenizer.vocab_size();
  fmt::print("{}: a vocabulary of {} from {}, {} ({} distinct)\n", options.out, size,
             observe::format_counted(trained.corpus.documents, "document"),
             observe::format_counted(trained.pieces, "word"), observe::format_integer(trained.distinct_pieces));
  if (size < options.training.vocabulary) {
    fmt::print("fewer than the {} asked for: no pair of tokens occurs twice any more; set model.vocab = {}\n",
               options.training.vocabulary, size);
  }
  report_corpus(training.corpus, trained.corpus, {trained.passed_over, trained.repeated});
}

void run_encode(const CodeOptions& options) {
  const data::Tokenizer tokenizer = data::Tokenizer::load(options.tokenizer);
  const std::string text = options.text.empty()
                               ? std::string(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>())
                               : options.text;
  const std::vector<int32_t> ids =
      tokenizer.encode(text, options.specials ? data::Specials::recognise : data::Specials::as_text);
  if (options.show) {
    for (const int32_t id : ids) fmt::print("{:>7}  '{}'\n", id, tokenizer.token_bytes(id));
  } else {
    fmt::print("{}\n", fmt::join(ids, " "));
  }
}

void run_decode(CodeOptions& options) {
  const data::Tokenizer tokenizer = data::Tokenizer::load(options.tokenizer);
  if (options.ids.empty()) {
    for (int32_t id = 0; std::cin >> id;) options.ids.push_back(id);
    if (!std::cin.eof())
      throw Error("standard input holds something that is not a token id", "Separate ids by spaces.");
  }
  const std::string text = tokenizer.decode(options.ids);
  std::fwrite(text.data(), 1, text.size(), stdout);
  if (!text.ends_with('\n')) std::fputc('\n', stdout);
}

void add_tokenizer_train(const Command& parent) {
  const auto options = std::make_shared<TokenizerTrainOptions>();
  options->training.threads = 0;
  const Command command = parent.subcommand("train", "Learn a byte-level BPE vocabulary from text files");
  command.footer(std::string(kInputHelp) +
                 "Writes tokenizer.json, vocab.json and merges.txt, which Hugging Face tools load too. The last id is "
                 "<|endoftext|>.\n"
                 "Exit code 3: all done, but lines without a document were skipped (--strict stops at the first).\n\n"
                 "Example:\n"
                 "  ridgeline tokenizer train --vocab 4096 --out tokenizer pages.txt");
  command
      .option("--vocab", options->training.vocabulary, Range{257, 1 << 24},
              "Tokens, 256 bytes and <|endoftext|> included")
      .required()
      .placeholder("N");
  command.option("--out", options->out, "Folder to write").required().placeholder("DIR");
  add_corpus_arguments(command, options->corpus);
  command.option("--threads", options->training.threads, kThreads, "Threads, 0 = all cores; no effect on the result")
      .placeholder("N");
  command.action([options] { run_train(*options); });
}

void add_encode(const Command& parent) {
  const auto options = std::make_shared<CodeOptions>();
  const Command command = parent.subcommand("encode", "Print the token ids of a text (or of standard input)");
  command.footer("Example:\n  ridgeline tokenizer encode --tokenizer tokenizer --show \"How are words cut?\"");
  command.option("--tokenizer", options->tokenizer, "Folder of the tokenizer").required().placeholder("DIR");
  command.option("TEXT", options->text, "The text; standard input when left out");
  command.flag("--specials", options->specials, "Recognise names of special tokens in the text");
  command.flag("--show", options->show, "One token per line, with its text");
  command.action([options] { run_encode(*options); });
}

void add_decode(const Command& parent) {
  const auto options = std::make_shared<CodeOptions>();
  const Command command = parent.subcommand("decode", "Print the text of token ids (or of those on standard input)");
  command.footer("Example:\n  ridgeline tokenizer decode --tokenizer tokenizer 464 3290 318");
  command.option("--tokenizer", options->tokenizer, "Folder of the tokenizer").required().placeholder("DIR");
  command.list("ID", options->ids, Range{}, "Token ids; standard input when left out");
  command.action([options] { run_decode(*options); });
}

}  // namespace

void add_tokenizer(const Command& program) {
  const Command command = program.subcommand("tokenizer", "Train and try tokenizers");
  command.needs_subcommand();
  command.footer(
      "Examples:\n"
      "  ridgeline tokenizer train --vocab 4096 --out tokenizer pages.txt\n"
      "  ridgeline tokenizer encode --tokenizer tokenizer --show \"How are words cut?\"\n"
      "  ridgeline tokenizer decode --tokenizer tokenizer 464 3290 318");
  add_tokenizer_train(command);
  add_encode(command);
  add_decode(command);
}

}  // namespace ridgeline::cli

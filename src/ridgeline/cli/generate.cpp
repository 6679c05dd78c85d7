#include "ridgeline/cli/generate.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>

#include "ridgeline/base/count.h"
#include "ridgeline/base/error.h"
#include "ridgeline/cli/command.h"
#include "ridgeline/cli/failures.h"
#include "ridgeline/cli/limits.h"
#include "ridgeline/cli/ranks.h"
#include "ridgeline/comm/communicator.h"
#include "ridgeline/device/machine.h"
#include "ridgeline/parallel/memory_guard.h"
#include "ridgeline/train/generator.h"

namespace ridgeline::cli {
namespace {

struct GenerateOptions {
  std::string checkpoint, tokenizer, prompt, rendezvous, precision = "fp32";
  int64_t tokens = 128;
  int threads = 0;
  train::ModelCut cut;
  train::Sampling sampling;
  bool keep_going = false;
};

// What continues which text.
struct Work {
  train::ModelSource source;
  data::Tokenizer tokenizer;
  std::vector<int32_t> prompt;
  int64_t tokens;  // to draw at most
};

Work open_work(const GenerateOptions& options) {
  train::ModelSource source = train::ModelSource::open(options.checkpoint);
  print_notes(source.notes());
  std::optional<data::Tokenizer> tokenizer = source.tokenizer(options.tokenizer);
  if (!tokenizer)
    throw Error(fmt::format("'{}' has no tokenizer beside it", options.checkpoint), "Name one with --tokenizer DIR.");
  const std::optional<int32_t> end = tokenizer->end_of_document();
  std::vector<int32_t> ids = tokenizer->encode_prompt(options.prompt);
  if (ids.empty()) {
    if (!end)
      throw Error("the prompt is empty and the tokenizer has no end-of-document token to start from",
                  "Give --prompt TEXT.");
    ids.push_back(*end);
  }
  const int64_t context = source.config().context, prompt = static_cast<int64_t>(ids.size());
  if (prompt >= context) {
    throw Error(fmt::format("the prompt has {}, the model's context is {}", format_counted(prompt, "token"), context),
                "Shorten the prompt.");
  }
  const int64_t tokens = std::min(options.tokens, context - prompt);
  if (tokens < options.tokens)
    print_notes(std::vector<std::string>{
        fmt::format("only {} of {} tokens fit into the model's context of {}", tokens, options.tokens, context)});
  return {std::move(source), std::move(*tokenizer), std::move(ids), tokens};
}

// As one of the ranks that hold the model; all of them draw the same tokens, the first prints them.
void run_as_rank(const GenerateOptions& options, const Work& work, comm::World& world, int threads, DType dtype) {
  const bool speaks = world.rank() == 0;
  train::Generator generator(world, work.source, dtype, threads, options.cut, std::ssize(work.prompt) + work.tokens,
                             parallel::guard_requested());
  data::StreamDecoder decoder(work.tokenizer);
  const std::vector<int32_t>& stop = work.tokenizer.special().stop;
  const auto print = [&](std::string_view text) {
    if (!speaks) return;
    fmt::print("{}", text);
    std::fflush(stdout);  // both streams may lead to one place
  };
  const auto begin = std::chrono::steady_clock::now();
  std::span<const float> logits = generator.feed(work.prompt);
  print(options.prompt);
  int64_t drawn = 0;
  for (; drawn < work.tokens; ++drawn) {
    const int64_t vocab = std::min<int64_t>(work.tokenizer.vocab_size(), generator.config().vocab);
    const int32_t id =
        train::sample_token(logits.first(static_cast<size_t>(vocab)), options.sampling, static_cast<uint64_t>(drawn));
    if (std::binary_search(stop.begin(), stop.end(), id) && !options.keep_going) break;
    print(decoder.push(id));
    if (drawn + 1 < work.tokens) logits = generator.feed({&id, 1});
  }
  print(decoder.finish() + "\n");
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (speaks) {
    fmt::print(stderr, "{} in {:.2f} s ({:.1f} tokens/s)\n", format_counted(drawn, "token"), seconds,
               static_cast<double>(drawn) / seconds);
  }
}

void run(const GenerateOptions& options) {
  train::check(options.sampling);
  const int ranks = options.cut.ranks();
  device::Machine machine = device::Machine::read();
  const DType dtype = options.precision == "bf16" ? DType::bf16 : DType::f32;
  if (comm::launched(options.rendezvous)) {
    // As a rank first: of what one of them cannot open the others hear, who would wait for it.
    return run_ranks(1, options.rendezvous, [&](comm::World& world) {
      const Work work = open_work(options);
      machine.ranks_on_processors = world.ranks_on_processors();  // of this process alone
      run_as_rank(options, work, world, threads_of_rank(machine, options.threads, 1), dtype);
    });
  }
  const int threads = threads_of_rank(machine, options.threads, ranks);
  const Work work = open_work(options);
  train::sharding_of(options.cut, work.source.config(), ranks, dtype);  // before any rank starts
  run_ranks(ranks, options.rendezvous, [&](comm::World& world) { run_as_rank(options, work, world, threads, dtype); });
}

}  // namespace

void add_generate(const Command& program) {
  const auto options = std::make_shared<GenerateOptions>();
  const Command command = program.subcommand("generate", "Continue a text");
  command.footer(
      "Text is printed as it is drawn. The same --seed gives the same text.\n\n"
      "Examples:\n"
      "  ridgeline generate --checkpoint runs/first --prompt \"The file\" --tokens 100 --temperature 0.8 --top-p 0.9\n"
      "  ridgeline generate --checkpoint gpt2 --prompt \"Once\" --temperature 0\n"
      "  ridgeline generate --checkpoint gpt2-xl --prompt \"Once\" --tensor 5 --pipeline 2      no rank holds all of "
      "it");
  command
      .option("--checkpoint", options->checkpoint,
              "A checkpoint, a run's folder (its newest), or a Hugging Face folder")
      .required()
      .placeholder("DIR");
  command.option("--tokenizer", options->tokenizer, "When the model has none beside it").placeholder("DIR");
  command.option("--prompt", options->prompt, "Text to continue; empty: a new document")
      .may_be_empty()
      .placeholder("TEXT");
  command.option("--tokens", options->tokens, Range{1, kSequence.last}, "How many at most");
  command.option("--temperature", options->sampling.temperature, RealRange{0, 1000}, "0: always the most likely");
  command.option("--top-k", options->sampling.top_k, Range{}, "Draw from the k most likely; 0: from all");
  command.option("--top-p", options->sampling.top_p, RealRange{0, 1}, "Draw from the smallest set of this probability");
  command.option("--seed", options->sampling.seed, "Of the draws");
  command.choice("--precision", options->precision, {"fp32", "bf16"}, "Of the weights");
  command.option("--threads", options->threads, kThreads, "Threads of each rank; 0: all CPUs");
  command.option("--tensor", options->cut.tensor, kThreadRanks, "Ranks that share each layer's matrices");
  command.option("--pipeline", options->cut.pipeline, kThreadRanks,
                 "Stages; --tensor x --pipeline thread ranks hold the model, or as many processes");
  add_rendezvous(command, options->rendezvous);
  command.flag("--keep-going", options->keep_going, "Do not stop at an end-of-document token");
  command.action([options] { run(*options); });
}

}  // namespace ridgeline::cli

#include "ridgeline/cli/eval.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <numbers>
#include <optional>
#include <string>
#include <vector>

#include "ridgeline/base/error.h"
#include "ridgeline/base/json.h"
#include "ridgeline/cli/command.h"
#include "ridgeline/cli/failures.h"
#include "ridgeline/cli/limits.h"
#include "ridgeline/cli/ranks.h"
#include "ridgeline/comm/communicator.h"
#include "ridgeline/data/bigram.h"
#include "ridgeline/data/sampler.h"
#include "ridgeline/device/machine.h"
#include "ridgeline/observe/format.h"
#include "ridgeline/train/evaluator.h"
#include "ridgeline/train/find_documents.h"
#include "ridgeline/train/held_out.h"
#include "ridgeline/train/model_cut.h"
#include "ridgeline/train/run_tokenizer.h"

namespace ridgeline::cli {
namespace {

struct EvalOptions {
  std::vector<std::string> data;
  std::string checkpoint, split, split_rule, tokenizer, rendezvous, precision = "fp32";
  int64_t sequence = 0, micro_batch = 0;
  int ranks = 0, threads = 0;
  train::ModelCut cut;
  bool bigram = false, whole = false, json = false;
};

struct Part {
  std::string name;  // as given
  std::shared_ptr<const data::IndexedDataset> dataset;
  train::DocumentsChosen chosen;
};

// What is evaluated, on what.
struct Subject {
  train::ModelSource source;
  std::vector<Part> parts;
  std::optional<data::Tokenizer> tokenizer;
  data::DocumentRules rules;  // the run's
};

// What would be silently without effect, or found out after the work.
void require_sense(const EvalOptions& options) {
  if (!options.whole) return;
  const char* const chooses = !options.split.empty()        ? "--split"
                              : !options.split_rule.empty() ? "--split-rule"
                                                            : nullptr;
  if (chooses != nullptr)
    throw UsageError(fmt::format("{}: with --whole all documents are evaluated", chooses), "Leave out one of the two.");
  if (options.bigram)
    throw UsageError("--bigram needs training documents", "Leave --whole away, so that --split says which they are.");
}

void require_windows(const EvalOptions& options, const data::IndexedDataset& dataset, int64_t context) {
  const int64_t block = dataset.block();
  if (block == 0) return;
  if (options.sequence > 0 && options.sequence != block)
    throw Error(fmt::format("--sequence {}: '{}' holds blocks of {} tokens, each of which is a window",
                            options.sequence, dataset.prefix().string(), block),
                "Leave --sequence out.");
  if (block > context)
    throw Error(fmt::format("'{}' holds blocks of {} tokens, longer than the model's context of {}",
                            dataset.prefix().string(), block, context),
                fmt::format("Prepare the text again, with --blocks {} or without.", context));
}

Subject open_subject(const EvalOptions& options) {
  require_sense(options);
  train::ModelSource source = train::ModelSource::open(options.checkpoint);
  print_notes(source.notes());
  const int64_t context = source.config().context;
  if (options.sequence > context) {
    throw Error(fmt::format("--sequence {}: longer than the model's context of {}", options.sequence, context),
                fmt::format("The nearest valid value is {}.", context));
  }
  std::optional<train::RunState> state;
  if (source.reader() != nullptr)
    state = train::run_state_from_json(source.reader()->extra(), source.folder().string());
  train::find_documents(options.data, device::Machine::read(), stderr);
  std::vector<Part> parts;
  for (const std::string& name : options.data) {
    const auto dataset = data::IndexedDataset::open(name);
    require_windows(options, *dataset, context);
    const train::DocumentsAsked asked{.split = options.split, .split_rule = options.split_rule, .whole = options.whole};
    parts.push_back({name, dataset, train::choose_documents(*dataset, state, asked)});
    if (options.bigram && parts.back().chosen.train.empty())
      throw Error(fmt::format("--bigram needs training documents, and of '{}' there are none", name),
                  "Say with --split which they are.");
  }
  std::vector<std::string> notes;
  std::optional<data::Tokenizer> tokenizer = source.tokenizer_if_readable(options.tokenizer, notes);
  if (!tokenizer && options.tokenizer.empty()) {
    train::NotedTokenizer noted = train::noted_tokenizer(*parts.front().dataset);
    if (!noted.message.empty()) notes.push_back(noted.message);
    tokenizer = std::move(noted.tokenizer);
  }
  print_notes(notes);
  for (const Part& part : parts) {
    if (tokenizer)
      part.dataset->require_tokenizer(tokenizer->hash(), tokenizer->vocab_size(), tokenizer->end_of_document());
  }
  const data::DocumentRules rules = state ? train::config_of(*state).data.rules : data::DocumentRules{};
  return {std::move(source), std::move(parts), std::move(tokenizer), rules};
}

// On `ranks` ranks, `here` of them in this process; checked.
train::EvaluationSettings settings_of(const EvalOptions& options, const Subject& subject,
                                      const device::Machine& machine, int ranks, int here) {
  const model::TransformerConfig& config = subject.source.config();
  const DType dtype = options.precision == "bf16" ? DType::bf16 : DType::f32;
  train::EvaluationSettings settings{.sequence = options.sequence > 0 ? options.sequence : config.context,
                                     .micro_batch = options.micro_batch,
                                     .sharding = train::sharding_of(options.cut, config, ranks, dtype),
                                     .threads = options.threads > 0 ? options.threads : machine.threads_per_rank(here),
                                     .dtype = dtype,
                                     .rules = subject.rules,
                                     .guard = parallel::guard_requested(),
                                     .console = stderr};
  const std::string asked = fmt::format("--micro-batch {}, --sequence {}, --ranks {}, --threads {}",
                                        settings.micro_batch, settings.sequence, ranks, options.threads);
  require_threads(machine, here, settings.threads, asked);
  for (const Part& part : subject.parts) {
    const train::EvaluationSettings fitted =
        train::fitted_to(settings, part.dataset, part.chosen.documents, config.vocab);
    require_bytes(machine, train::evaluation_bytes(config, fitted) * here, asked);
  }
  return settings;
}

// Losses on one dataset, or on all of them together.
struct Losses {
  int64_t tokens = 0, documents = 0;
  double model = 0;
  std::optional<double> bigram;
  double bytes_per_token = 0;  // 0: unknown

  double bits_per_byte(double nats) const { return nats / std::numbers::ln2 / bytes_per_token; }
};

Losses losses_on(const EvalOptions& options, const Subject& subject, const Part& part,
                 const train::Evaluation& result) {
  const data::DocumentRange documents = part.chosen.documents;
  Losses losses{.tokens = result.tokens,
                .documents = documents.last - documents.first,
                .model = result.loss,
                .bytes_per_token = train::text_bytes_per_prediction(*part.dataset, documents, subject.tokenizer)};
  if (!options.bigram) return losses;
  losses.bigram = data::BigramModel::fit(*part.dataset, part.chosen.train, subject.source.config().vocab)
                      .evaluate(*part.dataset, documents)
                      .nats_per_token();
  return losses;
}

// Means over all predicted tokens.
Losses together(const std::vector<Losses>& each) {
  Losses all;
  double bigram = 0, bytes = 0;
  bool known = true;
  for (const Losses& losses : each) {
    const auto tokens = static_cast<double>(losses.tokens);
    all.tokens += losses.tokens;
    all.documents += losses.documents;
    all.model += losses.model * tokens;
    bigram += losses.bigram.value_or(0) * tokens;
    bytes += losses.bytes_per_token * tokens;
    known = known && losses.bytes_per_token > 0;
  }
  const double tokens = static_cast<double>(std::max<int64_t>(all.tokens, 1));
  all.model /= tokens;
  if (each.front().bigram) all.bigram = bigram / tokens;
  if (known) all.bytes_per_token = bytes / tokens;
  return all;
}

nlohmann::json json_of(const Losses& losses) {
  nlohmann::json json = {{"tokens", losses.tokens}, {"nats_per_token", losses.model}};
  if (losses.bytes_per_token > 0) json["bits_per_byte"] = losses.bits_per_byte(losses.model);
  if (!losses.bigram) return json;
  json["bigram_nats_per_token"] = *losses.bigram;
  if (losses.bytes_per_token > 0) json["bigram_bits_per_byte"] = losses.bits_per_byte(*losses.bigram);
  return json;
}

nlohmann::json json_of(const Losses& losses, const Part& part) {
  nlohmann::json json = json_of(losses);
  json["documents"] = {part.chosen.documents.first, part.chosen.documents.last};
  json["trained_documents"] = part.chosen.trained;
  return json;
}

void print(const Losses& losses, const std::string& of) {
  const auto line = [&](const char* name, double nats) {
    fmt::print("{:<22} {:.4f} nats per token", name, nats);
    if (losses.bytes_per_token > 0) fmt::print(", {:.4f} bits per byte", losses.bits_per_byte(nats));
    fmt::print("\n");
  };
  fmt::print("{}{} of {}\n", of, observe::format_counted(losses.tokens, "token"),
             observe::format_counted(losses.documents, "document"));
  line("model", losses.model);
  if (losses.bigram) line("interpolated bigram", *losses.bigram);
}

// How the documents were chosen, and read.
void say_what(const Subject& subject) {
  for (const Part& part : subject.parts) {
    const data::DocumentRange documents = part.chosen.documents;
    if (subject.parts.size() > 1) fmt::print(stderr, "{}: ", part.name);
    fmt::print(stderr, "{}\n", part.chosen.text);
    if (part.chosen.trained > 0)
      fmt::print(
          stderr, "not held out: the run trained on {} of {}\n", part.chosen.trained,
          observe::format_counted(documents.last - documents.first, "document read here", "documents read here"));
  }
  if (subject.rules.reset_attention_mask || subject.rules.reset_position_ids)
    fmt::print(stderr,
               "documents are kept apart as the run did: data.reset_attention_mask = {}, "
               "data.reset_position_ids = {}\n",
               subject.rules.reset_attention_mask, subject.rules.reset_position_ids);
}

void report(const EvalOptions& options, const Subject& subject, const std::vector<train::Evaluation>& results) {
  say_what(subject);
  const bool several = subject.parts.size() > 1;
  std::vector<Losses> each;
  for (size_t i = 0; i < results.size(); ++i) each.push_back(losses_on(options, subject, subject.parts[i], results[i]));
  const Losses all = together(each);
  if (options.json) {
    nlohmann::json json = several ? json_of(all) : json_of(each.front(), subject.parts.front());
    json["step"] = subject.source.step();
    for (size_t i = 0; i < each.size() && several; ++i) {
      json["datasets"].push_back(json_of(each[i], subject.parts[i]));
      json["datasets"].back()["data"] = subject.parts[i].name;
    }
    fmt::print("{}\n", json_text(json, 2));
    return;
  }
  for (size_t i = 0; i < each.size(); ++i) print(each[i], several ? subject.parts[i].name + ": " : "");
  if (several) print(all, "all: ");
}

void evaluate_on(comm::World& world, const EvalOptions& options, const Subject& subject,
                 const train::EvaluationSettings& settings) {
  std::vector<train::Evaluation> results;
  for (const Part& part : subject.parts)
    results.push_back(train::evaluate(world, subject.source, part.dataset, part.chosen.documents, settings));
  if (world.rank() == 0) report(options, subject, results);
}

void run(const EvalOptions& options) {
  device::Machine machine = device::Machine::read();
  if (comm::launched(options.rendezvous)) {
    // As a rank first: of what one of them cannot open the others hear, who would wait for it.
    return run_ranks(1, options.rendezvous, [&](comm::World& world) {
      const Subject subject = open_subject(options);
      machine.ranks_on_processors = world.ranks_on_processors();  // of this process alone
      evaluate_on(world, options, subject, settings_of(options, subject, machine, world.size(), 1));
    });
  }
  const Subject subject = open_subject(options);
  const int ranks = options.ranks > 0 ? options.ranks : options.cut.ranks();
  const train::EvaluationSettings settings = settings_of(options, subject, machine, ranks, ranks);
  run_ranks(ranks, options.rendezvous, [&](comm::World& world) { evaluate_on(world, options, subject, settings); });
}

}  // namespace

void add_eval(const Command& program) {
  const auto options = std::make_shared<EvalOptions>();
  const Command command = program.subcommand("eval", "Loss of a model on held-out data");
  command.footer(
      "Examples:\n"
      "  ridgeline eval --checkpoint runs/first --data data/pages --bigram\n"
      "  ridgeline eval --checkpoint gpt2 --data data/web data/books --whole --precision bf16");
  command
      .option("--checkpoint", options->checkpoint,
              "A checkpoint, a run's folder (its newest), or a Hugging Face folder")
      .required()
      .placeholder("DIR");
  command
      .list("--data", options->data,
            "Token dataset, as data.train names it; of several the loss on each, and on all their tokens")
      .required()
      .placeholder("PREFIX...");
  command
      .option("--split", options->split,
              "Which documents train, validate and test; default: as the checkpoint's run has it, else 98,2,0")
      .no_default();
  command
      .choice("--split-rule", options->split_rule, {"cumulative", "per_share"},
              "How --split becomes whole documents (data.split_rule); default: the run's, else cumulative")
      .no_default();
  command.flag("--whole", options->whole, "All documents instead of the validation part");
  command.option("--tokenizer", options->tokenizer, "For bits per byte, when the model has none beside it")
      .placeholder("DIR");
  command.option("--sequence", options->sequence, Range{0, kSequence.last},
                 "Tokens per window; 0: the model's context");
  command.option("--micro-batch", options->micro_batch, Range{0, kMicroBatch.last},
                 "Windows at once per rank; 0: 4, fewer where these are more than 8192 tokens");
  command.choice("--precision", options->precision, {"fp32", "bf16"}, "Of the weights");
  command.option("--ranks", options->ranks, Range{0, kThreadRanks.last},
                 "Thread ranks; 0: as many as hold the model once, --tensor x --pipeline");
  add_rendezvous(command, options->rendezvous);
  command.option("--tensor", options->cut.tensor, kThreadRanks, "Ranks that share each layer's matrices");
  command.option("--pipeline", options->cut.pipeline, kThreadRanks, "Stages");
  command.option("--threads", options->threads, kThreads, "Threads per rank; 0: all CPUs");
  command.flag("--bigram", options->bigram, "Also an interpolated bigram fitted on the training part");
  command.flag("--json", options->json, "As JSON");
  command.action([options] { run(*options); });
}

}  // namespace ridgeline::cli

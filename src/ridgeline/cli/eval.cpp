#include "ridgeline/cli/eval.h"

#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <numbers>

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
#include "ridgeline/train/evaluator.h"
#include "ridgeline/train/held_out.h"
#include "ridgeline/train/model_cut.h"

namespace ridgeline::cli {
namespace {

struct EvalOptions {
  std::string checkpoint, data, split, split_rule, tokenizer, rendezvous, precision = "fp32";
  int64_t sequence = 0, micro_batch = 0;
  int ranks = 0, threads = 0;
  train::ModelCut cut;
  bool bigram = false, whole = false, json = false;
};

// What is evaluated, on what.
struct Subject {
  train::ModelSource source;
  std::shared_ptr<const data::IndexedDataset> dataset;
  train::DocumentsChosen chosen;
  std::optional<data::Tokenizer> tokenizer;
  data::DocumentRules rules;  // the run's
};

Subject open_subject(const EvalOptions& options) {
  train::ModelSource source = train::ModelSource::open(options.checkpoint);
  print_notes(source.notes());
  std::shared_ptr<const data::IndexedDataset> dataset = data::IndexedDataset::open(options.data);
  std::optional<train::RunState> state;
  if (source.reader() != nullptr)
    state = train::run_state_from_json(source.reader()->extra(), source.folder().string());
  train::DocumentsChosen chosen = train::choose_documents(
      *dataset, state, {.split = options.split, .split_rule = options.split_rule, .whole = options.whole});
  std::vector<std::string> notes;
  std::optional<data::Tokenizer> tokenizer = source.tokenizer_if_readable(options.tokenizer, notes);
  print_notes(notes);
  if (options.sequence > source.config().context) {
    throw Error(
        fmt::format("--sequence {}: longer than the model's context of {}", options.sequence, source.config().context),
        fmt::format("The nearest valid value is {}.", source.config().context));
  }
  if (const int64_t block = dataset->block(); block > 0) {
    if (options.sequence > 0 && options.sequence != block)
      throw Error(fmt::format("--sequence {}: '{}' holds blocks of {} tokens, each of which is a window",
                              options.sequence, dataset->prefix().string(), block),
                  "Leave --sequence out.");
    if (block > source.config().context)
      throw Error(fmt::format("'{}' holds blocks of {} tokens, longer than the model's context of {}",
                              dataset->prefix().string(), block, source.config().context),
                  fmt::format("Prepare the text again, with --blocks {} or without.", source.config().context));
  }
  const data::DocumentRules rules = state ? train::config_of(*state).data.rules : data::DocumentRules{};
  return {std::move(source), std::move(dataset), std::move(chosen), std::move(tokenizer), rules};
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
  const train::EvaluationSettings fitted =
      train::fitted_to(settings, subject.dataset, subject.chosen.documents, config.vocab);
  require_bytes(machine, train::evaluation_bytes(config, fitted) * here, asked);
  return settings;
}

void report(const EvalOptions& options, const Subject& subject, const train::Evaluation& model) {
  const data::DocumentRange documents = subject.chosen.documents, train_documents = subject.chosen.train;
  fmt::print(stderr, "{}\n", subject.chosen.text);
  if (subject.rules.reset_attention_mask || subject.rules.reset_position_ids)
    fmt::print(stderr,
               "documents are kept apart as the run did: data.reset_attention_mask = {}, "
               "data.reset_position_ids = {}\n",
               subject.rules.reset_attention_mask, subject.rules.reset_position_ids);
  if (subject.chosen.trained > 0)
    fmt::print(stderr, "not held out: the run trained on {} of these {} documents\n", subject.chosen.trained,
               documents.last - documents.first);
  const double bytes_per_token = train::text_bytes_per_prediction(*subject.dataset, documents, subject.tokenizer);
  nlohmann::json json = {{"step", subject.source.step()},
                         {"tokens", model.tokens},
                         {"nats_per_token", model.loss},
                         {"documents", {documents.first, documents.last}},
                         {"trained_documents", subject.chosen.trained}};
  const auto bits_per_byte = [&](double nats) { return nats / std::numbers::ln2 / bytes_per_token; };
  if (bytes_per_token > 0) json["bits_per_byte"] = bits_per_byte(model.loss);
  if (options.bigram) {
    if (train_documents.empty())
      throw Error("--bigram needs training documents", "Leave --whole away, so that --split says which they are.");
    const double bigram = data::BigramModel::fit(*subject.dataset, train_documents, subject.source.config().vocab)
                              .evaluate(*subject.dataset, documents)
                              .nats_per_token();
    json["bigram_nats_per_token"] = bigram;
    if (bytes_per_token > 0) json["bigram_bits_per_byte"] = bits_per_byte(bigram);
  }
  if (options.json) {
    fmt::print("{}\n", json_text(json, 2));
    return;
  }
  const auto line = [&](const char* name, double nats) {
    fmt::print("{:<22} {:.4f} nats per token", name, nats);
    if (bytes_per_token > 0) fmt::print(", {:.4f} bits per byte", bits_per_byte(nats));
    fmt::print("\n");
  };
  fmt::print("{} tokens of {} documents\n", model.tokens, documents.last - documents.first);
  line("model", model.loss);
  if (options.bigram) line("interpolated bigram", json["bigram_nats_per_token"].get<double>());
}

void run(const EvalOptions& options) {
  const Subject subject = open_subject(options);
  const int ranks = options.ranks > 0 ? options.ranks : options.cut.ranks();
  std::optional<train::EvaluationSettings> on_threads;
  device::Machine machine = device::Machine::read();
  if (!comm::launched(options.rendezvous)) on_threads = settings_of(options, subject, machine, ranks, ranks);
  run_ranks(ranks, options.rendezvous, [&](comm::World& world) {
    if (!on_threads) machine.ranks_on_processors = world.ranks_on_processors();  // of this process alone
    const train::Evaluation result =
        train::evaluate(world, subject.source, subject.dataset, subject.chosen.documents,
                        on_threads ? *on_threads : settings_of(options, subject, machine, world.size(), 1));
    if (world.rank() == 0) report(options, subject, result);
  });
}

}  // namespace

void add_eval(const Command& program) {
  const auto options = std::make_shared<EvalOptions>();
  const Command command = program.subcommand("eval", "Loss of a model on held-out data");
  command.footer(
      "Examples:\n"
      "  ridgeline eval --checkpoint runs/first --data data/pages --bigram\n"
      "  ridgeline eval --checkpoint gpt2 --data data/pages --whole --precision bf16");
  command
      .option("--checkpoint", options->checkpoint,
              "A checkpoint, a run's folder (its newest), or a Hugging Face folder")
      .required()
      .placeholder("DIR");
  command.option("--data", options->data, "Token dataset").required().placeholder("PREFIX");
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

#include "ridgeline/train/evaluator.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "ridgeline/base/error.h"
#include "ridgeline/data/prepare.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/observe/progress.h"
#include "ridgeline/parallel/diagnosis.h"

namespace ridgeline::train {

void place_row(const parallel::BatchBuffers& buffers, int64_t b, int64_t t, uint32_t sample) {
  for (int64_t i = 0; i < t; ++i) {
    buffers.positions[b * t + i] = static_cast<int32_t>(i);
    buffers.samples[b * t + i] = sample;
  }
  buffers.sample_of_row[b] = sample;
}

void place_documents(const parallel::BatchBuffers& buffers, int64_t b, std::span<const int32_t> begins,
                     const data::DocumentRules& rules) {
  if (buffers.first_keys == nullptr) return;
  const auto t = static_cast<int64_t>(begins.size());
  for (int64_t i = 0; i < t; ++i) {
    const int32_t begin = begins[static_cast<size_t>(i)], place = static_cast<int32_t>(i);
    buffers.first_keys[b * t + i] = rules.reset_attention_mask ? begin : 0;
    buffers.document_positions[b * t + i] = rules.reset_position_ids ? place - begin : place;
  }
}

namespace {

// Windows that are computed together.
struct Round {
  size_t dataset = 0;
  std::vector<int64_t> windows;
};

// The first `limit` windows, `at_once` or fewer of one dataset in a round.
std::vector<Round> rounds_of(const data::EvaluationWindows& windows, int64_t limit, int64_t at_once) {
  std::vector<std::vector<int64_t>> of(windows.datasets());
  for (int64_t i = 0; i < std::min(limit, windows.size()); ++i) of[windows.dataset_of(i)].push_back(i);
  std::vector<Round> rounds;
  for (size_t dataset = 0; dataset < of.size(); ++dataset) {
    const auto count = std::ssize(of[dataset]);
    for (int64_t first = 0; first < count; first += at_once) {
      const auto begin = of[dataset].begin() + first;
      rounds.push_back({dataset, {begin, begin + std::min(at_once, count - first)}});
    }
  }
  return rounds;
}

}  // namespace

Evaluation evaluate_windows(parallel::Executor& executor, int program, const data::EvaluationWindows& windows,
                            int64_t limit, int64_t step, const std::function<bool()>& stop) {
  const model::BatchShape& shape = executor.run_shape().evaluation_batch;
  const int64_t t = shape.sequence;
  const comm::Placement place = executor.run_shape().place();
  const int64_t rank = place.data_rank(), ranks = place.data_ranks();
  const int micro_batches = executor.programs()[static_cast<size_t>(program)].micro_batches;
  const int64_t at_once = micro_batches * ranks * shape.batch;
  std::vector<int32_t> begins(static_cast<size_t>(t));
  const std::vector<Round> rounds = rounds_of(windows, limit, at_once);
  Evaluation sum{.datasets = std::vector<Evaluation::Part>(windows.datasets() > 1 ? windows.datasets() : 0)};
  for (size_t i = 0; i < rounds.size(); ++i) {
    const Round& round = rounds[i];
    for (int micro = 0; micro < micro_batches; ++micro) {
      const parallel::BatchBuffers buffers = executor.batch(program, micro);
      for (int64_t b = 0; b < shape.batch; ++b) {
        const auto place_in_round = static_cast<size_t>((micro * ranks + rank) * shape.batch + b);
        const int64_t window =
            place_in_round < round.windows.size() ? round.windows[place_in_round] : windows.size();  // of none
        windows.window(window, {buffers.inputs + b * t, static_cast<size_t>(t)},
                       {buffers.labels + b * t, static_cast<size_t>(t)});
        place_row(buffers, b, t, 0);
        if (!shape.documents) continue;
        windows.document_begins(window, begins);
        place_documents(buffers, b, begins, windows.rules());
      }
    }
    const parallel::StepResult result = executor.run(program, {.step = step, .stop_requested = stop && stop()});
    const double loss = result.loss * static_cast<double>(result.tokens);
    sum.loss += loss;
    sum.tokens += result.tokens;
    if (!sum.datasets.empty()) {
      sum.datasets[round.dataset].loss += loss;
      sum.datasets[round.dataset].tokens += result.tokens;
    }
    if (!result.finite) sum.not_finite = round.windows.front();
    sum.stopped = result.stop && i + 1 < rounds.size();  // one that is through is not interrupted
    if (sum.stopped || sum.not_finite) break;
  }
  sum.loss /= static_cast<double>(std::max<int64_t>(sum.tokens, 1));
  for (Evaluation::Part& part : sum.datasets) part.loss /= static_cast<double>(std::max<int64_t>(part.tokens, 1));
  return sum;
}

void require_predictions(const data::EvaluationWindows& windows) {
  if (windows.predictions() > 0) return;
  throw Error(
      "there is nothing to evaluate: the validation documents hold a single token, and the first is not predicted",
      "Give more documents: a larger share of the split, or another data set.");
}

namespace {

int64_t micro_batch_of(const EvaluationSettings& settings, int64_t sequence) {
  constexpr int64_t kTokens = 8192, kUsual = 4;
  return settings.micro_batch > 0 ? settings.micro_batch : std::clamp<int64_t>(kTokens / sequence, 1, kUsual);
}

parallel::RunShape evaluation_shape(const model::TransformerConfig& model, const EvaluationSettings& settings) {
  model::BatchShape shape{.batch = settings.micro_batch,
                          .sequence = settings.sequence,
                          .dtype = settings.dtype,
                          .team_size = settings.threads,
                          .documents = settings.rules.reset_attention_mask || settings.rules.reset_position_ids};
  shape.head_chunk = std::min(shape.head_chunk, shape.tokens());
  return {.config = model, .batch = shape, .evaluation_batch = shape, .sharding = settings.sharding, .training = false};
}

}  // namespace

// Buffers are as large as what is evaluated: no longer than there are tokens, no more windows at once than there are.
EvaluationSettings fitted_to(EvaluationSettings settings, const std::shared_ptr<const data::IndexedDataset>& dataset,
                             data::DocumentRange documents, int64_t vocab) {
  const int64_t there = data::EvaluationWindows::predictions_of(*dataset, documents);
  settings.sequence = dataset->block() > 0 ? dataset->block() : std::clamp<int64_t>(there, 1, settings.sequence);
  const int64_t windows = data::EvaluationWindows(dataset, documents, settings.sequence, vocab).size();
  const int64_t ranks = settings.sharding.mesh.size(comm::kDataAxes), per_rank = (windows + ranks - 1) / ranks;
  settings.micro_batch = std::clamp<int64_t>(per_rank, 1, micro_batch_of(settings, settings.sequence));
  return settings;
}

double evaluation_bytes(const model::TransformerConfig& model, const EvaluationSettings& settings) {
  const double tokens = static_cast<double>(settings.micro_batch) * static_cast<double>(settings.sequence);
  if (tokens > 0x1p31) return tokens * static_cast<double>(model.width);
  const parallel::RunShape run = evaluation_shape(model, settings);
  int64_t most = 0;
  for (const comm::AlikeRanks& alike : comm::alike_ranks(settings.sharding.mesh)) {
    const parallel::RunShape its = run.on_rank(alike.first.rank());
    const std::vector<parallel::Program> programs = {
        parallel::evaluation(model, run.sharding.pipeline.stages(), run.sharding, alike.first.stage())};
    most = std::max(most, parallel::make_inventory(its, its.segments(), programs).total_bytes());
  }
  return static_cast<double>(most);
}

Evaluation evaluate(comm::World& world, const ModelSource& source,
                    const std::shared_ptr<const data::IndexedDataset>& dataset, data::DocumentRange documents,
                    const EvaluationSettings& settings) {
  const int64_t vocab = source.config().vocab;
  const EvaluationSettings fitted = fitted_to(settings, dataset, documents, vocab);
  const data::EvaluationWindows windows(dataset, documents, fitted.sequence, vocab, fitted.rules);
  require_predictions(windows);
  if (settings.sequence > source.config().context) {
    throw Error(fmt::format("windows of {} tokens are longer than the model's context of {}", settings.sequence,
                            source.config().context));
  }
  const parallel::RunShape run = evaluation_shape(source.config(), fitted).on_rank(world.rank());
  device::WorkerTeam team(settings.threads);
  device::Stream stream(team);
  parallel::Executor executor(
      run, {parallel::evaluation(run.config, run.sharding.pipeline.stages(), run.sharding, run.place().stage())}, world,
      stream,
      {.packing = settings.guard ? parallel::Packing::separate : parallel::Packing::shared, .guard = settings.guard});
  executor.fill(parallel::BufferKind::master,
                [&](const model::Tensor& tensor, int64_t first, int64_t count, float* values) {
                  source.read(tensor.name, tensor.shape, first, count, Ref(values));
                });
  Evaluation result = evaluate_windows(executor, 0, windows, windows.size(), source.step());
  if (result.not_finite) {
    throw Error(
        fmt::format("the loss of '{}' is not finite from window {} on; first seen in {}", source.folder().string(),
                    *result.not_finite, parallel::first_non_finite(executor, 0, {.step = source.step()})),
        "The model's weights are damaged, or its training diverged: use an earlier checkpoint.");
  }
  return result;
}

Evaluation evaluate(const ModelSource& source, const std::shared_ptr<const data::IndexedDataset>& dataset,
                    data::DocumentRange documents, const EvaluationSettings& settings) {
  Evaluation result;
  comm::run_threads(settings.sharding.mesh.world_size(), {}, [&](comm::World& world) {
    const Evaluation mine = evaluate(world, source, dataset, documents, settings);
    if (world.rank() == 0) result = mine;
  });
  return result;
}

double text_bytes_per_prediction(const data::IndexedDataset& dataset, data::DocumentRange documents,
                                 const std::optional<data::Tokenizer>& tokenizer) {
  if (!tokenizer) {
    const std::optional<data::DatasetNote>& note = dataset.note();
    return note && note->tokens > 0 ? static_cast<double>(note->text_bytes) / static_cast<double>(note->tokens) : 0.0;
  }
  dataset.require_tokenizer(tokenizer->hash(), tokenizer->vocab_size(), tokenizer->end_of_document());
  const int64_t tokens = dataset.begin(documents.last) - dataset.begin(documents.first);
  const int64_t predictions = dataset.block() > 0 ? tokens : tokens - 1;
  if (predictions <= 0) return 0.0;
  return static_cast<double>(data::text_bytes(dataset, documents.first, documents.last, *tokenizer)) /
         static_cast<double>(predictions);
}

double text_bytes_per_prediction(const std::vector<data::BlendPart>& parts,
                                 const std::optional<data::Tokenizer>& tokenizer) {
  double bytes = 0, predictions = 0;
  for (const data::BlendPart& part : parts) {
    const auto own = static_cast<double>(data::EvaluationWindows::predictions_of(*part.dataset, part.documents));
    if (own == 0) continue;
    const double each = text_bytes_per_prediction(*part.dataset, part.documents, tokenizer);
    if (each == 0) return 0;
    bytes += each * own;
    predictions += own;
  }
  return predictions > 0 ? bytes / predictions : 0;
}

}  // namespace ridgeline::train

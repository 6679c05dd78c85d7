// Evaluation against training, and when it is stopped.
#include <algorithm>
#include <array>
#include <cmath>

#include "ridgeline/base/file.h"
#include "ridgeline/checkpoint/manifest.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/parallel/executor.h"
#include "ridgeline/train/evaluator.h"
#include "ridgeline/train/model_source.h"
#include "ridgeline/train/state.h"
#include "small_run.h"

namespace ridgeline::train {
namespace {

// The forward of training and of evaluation are two programs with buffers of their own; on the same weights and tokens
// they must give the same bits. Sizes at which products cut K and the head comes in several chunks.
TEST(evaluation, gives_the_losses_of_training) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    for (const int team_size : {1, 2}) {
      for (const int64_t sequence : {32, 256}) {
        parallel::RunShape run;
        run.config = model::with_usual_sizes({.layers = 1, .width = 192, .heads = 6, .vocab = 500, .context = 256});
        run.batch = {.batch = 1, .sequence = sequence, .dtype = dtype, .head_chunk = 100, .team_size = team_size};
        run.evaluation_batch = run.batch;
        run.sharding.weights = dtype;
        comm::run_threads(1, {}, [&](comm::World& world) {
          device::WorkerTeam team(team_size);
          device::Stream stream(team);
          parallel::Executor executor(run,
                                      {parallel::lower(run.config, parallel::schedule(1, 1)[0], run.sharding),
                                       parallel::evaluation(run.config, 1, run.sharding)},
                                      world, stream);
          initialize(executor, 1);
          std::vector<float> losses[2];
          for (const int program : {0, 1}) {
            const parallel::BatchBuffers buffers = executor.batch(program, 0);
            for (int64_t i = 0; i < run.batch.tokens(); ++i) {
              buffers.inputs[i] = static_cast<int32_t>((i * 37) % 500);
              buffers.labels[i] = static_cast<int32_t>((i * 37 + 37) % 500);
              buffers.positions[i] = static_cast<int32_t>(i % sequence);
              buffers.samples[i] = static_cast<uint32_t>(i / sequence);
            }
            buffers.sample_of_row[0] = 0;
            executor.run(program, {.update = false});
            const float* const values = executor.losses(program, 0);
            losses[program].assign(values, values + run.batch.tokens());
          }
          EXPECT_EQ(losses[0], losses[1]) << name_of(dtype) << ", " << sequence << " tokens, team of " << team_size;
        });
      }
    }
  }
}

// A document that stands in a row behind another loses what it loses alone, where attention and positions know of it.
TEST(evaluation, documents_kept_apart_lose_what_they_lose_alone) {
  constexpr int64_t kRow = 70, kSecond = 37;  // where the second document begins
  for (const std::string_view family : {"gpt2", "llama"}) {
    parallel::RunShape run;
    run.config = model::family_options(family);
    run.config.layers = 2, run.config.width = 48, run.config.heads = 4, run.config.vocab = 90;
    run.config.context = kRow, run.config.init_deviation = 0.2F;  // so that attention is not uniform
    run.config = model::with_usual_sizes(run.config);
    run.batch = {.batch = 2, .sequence = kRow, .head_chunk = 33};
    // Row 0: both documents, row 1: the second one and what follows.
    const auto losses = [&](const data::DocumentRules& rules) {
      parallel::RunShape its = run;
      its.batch.documents = true;
      its.evaluation_batch = its.batch;
      std::vector<float> values;
      comm::run_threads(1, {}, [&](comm::World& world) {
        device::WorkerTeam team(1);
        device::Stream stream(team);
        parallel::Executor executor(its, {parallel::evaluation(its.config, 1, its.sharding)}, world, stream);
        initialize(executor, 1);
        const parallel::BatchBuffers buffers = executor.batch(0, 0);
        std::vector<int32_t> begins(kRow, 0);
        for (int64_t b : {0, 1}) {
          for (int64_t t = 0; t < kRow; ++t) {
            const int64_t place = b == 0 ? t : t + kSecond;
            buffers.inputs[b * kRow + t] = static_cast<int32_t>((place * place + 7) % 90);
            buffers.labels[b * kRow + t] = static_cast<int32_t>((place * 31) % 90);
          }
          if (b == 0) std::fill(begins.begin() + kSecond, begins.end(), kSecond);
          if (b == 1) std::fill(begins.begin(), begins.end(), 0);
          place_row(buffers, b, kRow, static_cast<uint32_t>(b));
          place_documents(buffers, b, begins, rules);
        }
        executor.run(0, {.update = false});
        const float* const all = executor.losses(0, 0);
        values.assign(all, all + 2 * kRow);
      });
      return values;
    };
    const auto largest_difference = [&](const std::vector<float>& values) {
      float largest = 0;
      for (int64_t t = 0; t < kRow - kSecond; ++t)
        largest = std::max(largest,
                           std::fabs(values[static_cast<size_t>(kSecond + t)] - values[static_cast<size_t>(kRow + t)]));
      return largest;
    };
    // Sums of scores begin at other keys: fp32 rounding through two blocks.
    EXPECT_LT(largest_difference(losses({.reset_attention_mask = true, .reset_position_ids = true})), 2e-5F) << family;
    EXPECT_GT(largest_difference(losses({.reset_position_ids = true})), 1e-2F) << family;
    // Rotation knows distances only: there the mask alone suffices, but for the rounding of larger angles.
    const float masked = largest_difference(losses({.reset_attention_mask = true}));
    if (family == "gpt2") {
      EXPECT_GT(masked, 1e-2F);
    } else {
      EXPECT_LT(masked, 1e-4F);
    }
  }
}

TEST_F(SmallRun, documents_are_kept_apart_in_training_validation_and_evaluation) {
  const std::vector<std::string> rules = {"train.eval_every=8", "data.reset_attention_mask=true",
                                          "data.reset_position_ids=true"};
  const TrainingResult apart = run(config(rules), 2, "apart");
  run(config({"train.eval_every=8"}), 1, "mixed");
  EXPECT_NE(losses("apart"), losses("mixed"));
  const auto dataset = data::IndexedDataset::open((folder_ / "data").string());
  const ModelSource source = ModelSource::open(folder_ / "apart" / "checkpoints" / "step_00000008");
  EvaluationSettings settings{
      .sequence = 24, .rules = {.reset_attention_mask = true, .reset_position_ids = true}, .console = nullptr};
  constexpr data::DocumentRange kHeldOut = {36, 40};
  // The same windows, more or fewer at once: sums of losses in another order.
  EXPECT_NEAR(evaluate(source, dataset, kHeldOut, settings).loss, *apart.validation_loss, 1e-6);
  settings.rules = {};
  EXPECT_GT(std::fabs(evaluate(source, dataset, kHeldOut, settings).loss - *apart.validation_loss), 1e-5);
}

// One that cannot be read is a note, since the loss needs none; one that the data contradicts is a mistake.
TEST_F(SmallRun, the_tokenizer_of_a_checkpoint_ends_documents_as_its_data) {
  run(config(), 1, "run");
  const std::filesystem::path folder = folder_ / "run" / "checkpoints" / "step_00000008",
                              manifest = folder / checkpoint::kManifestName;
  nlohmann::json extra = checkpoint::parse_manifest(read_text(manifest), "manifest").extra;
  std::vector<std::string> notes;
  const auto tokenizer = [&](const std::string& file, const nlohmann::json& end_of_document) {
    extra["tokenizer"] = file;  // as checkpoints of before have it
    extra["end_of_document"] = end_of_document;
    checkpoint::replace_extra(folder, extra);
    notes.clear();
    return ModelSource::open(folder).tokenizer_if_readable({}, notes);
  };
  const std::string file = read_text(std::filesystem::path(RIDGELINE_TEST_DATA) / "data/llama3_style/tokenizer.json");
  const auto read = tokenizer(file, nullptr);
  ASSERT_TRUE(read && read->end_of_document());
  EXPECT_TRUE(tokenizer(file, *read->end_of_document()));
  EXPECT_TRUE(notes.empty());
  EXPECT_THROW(tokenizer(file, *read->end_of_document() - 1), Error);
  EXPECT_FALSE(tokenizer("{", *read->end_of_document()));
  EXPECT_EQ(notes.size(), 1U);
}

TEST_F(SmallRun, what_follows_a_document_is_not_learned_where_its_end_is_masked) {
  run(config({"data.eod_mask_loss=true"}), 2, "masked");
  const auto dataset = data::IndexedDataset::open((folder_ / "data").string());
  const data::GptDataset samples(dataset, {{0, 36}, 24, 64, 1234, kVocabulary});
  double learned = 0;
  for (int64_t i = 0; i < 64; ++i) {
    learned += 24;
    // Every document of a sample but the first begins with a token that follows another's last.
    learned -= static_cast<double>(samples.parts(i).size()) - 1;
  }
  EXPECT_LT(learned, 64 * 24);
  EXPECT_EQ(metric("masked", "tokens").back(), learned);
}

// One rank of three is asked; all of them return after the same windows, and an evaluation that is through is whole.
TEST_F(SmallRun, is_stopped_on_all_ranks_when_one_is_asked) {
  const auto dataset = data::IndexedDataset::open((folder_ / "data").string());
  const data::EvaluationWindows windows(dataset, {0, dataset->documents()}, 24, kVocabulary);
  parallel::RunShape run;
  run.config = model::with_usual_sizes({.layers = 1, .width = 32, .heads = 4, .vocab = kVocabulary, .context = 24});
  run.batch = {.batch = 2, .sequence = 24, .head_chunk = 17};
  run.evaluation_batch = run.batch;
  run.sharding.mesh = comm::Mesh::of_data(3);
  std::array<Evaluation, 3> stopped, whole;
  comm::run_threads(3, {}, [&](comm::World& world) {
    device::WorkerTeam team(1);
    device::Stream stream(team);
    parallel::Executor executor(run.on_rank(world.rank()), {parallel::evaluation(run.config, 1, run.sharding)}, world,
                                stream);
    initialize(executor, 1);
    const auto rank = static_cast<size_t>(world.rank());
    int rounds = 0;
    stopped[rank] =
        evaluate_windows(executor, 0, windows, windows.size(), 1, [&] { return ++rounds == 3 && rank == 1; });
    // Asked in the last round: there is nothing left to interrupt.
    rounds = 0;
    const int64_t last = (windows.size() + 5) / 6;
    whole[rank] = evaluate_windows(executor, 0, windows, windows.size(), 1, [&] { return ++rounds == last; });
  });
  for (const size_t rank : {0, 1, 2}) {
    EXPECT_TRUE(stopped[rank].stopped);
    EXPECT_EQ(stopped[rank].tokens, 3 * 6 * 24);
    EXPECT_FALSE(whole[rank].stopped);
    EXPECT_EQ(whole[rank].tokens, windows.predictions());
  }
}

}  // namespace
}  // namespace ridgeline::train

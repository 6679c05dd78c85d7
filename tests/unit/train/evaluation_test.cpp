// Evaluation against training, and when it is stopped.
#include <array>

#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/parallel/executor.h"
#include "ridgeline/train/evaluator.h"
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

// One small training run on one layout, for comparing layouts with each other: what is computed depends on the model,
// the precision and the global batch alone, how on everything else here.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "ridgeline/comm/communicator.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/parallel/executor.h"

namespace ridgeline::layouts {

struct Layout {
  std::string family = "gpt2";
  int64_t vocab = 0;             // 0: small_model's
  bool same_rows = false;        // every step learns the first one's
  float epsilon = 1e-8F;         // Adam's
  DType precision = DType::f32;  // of activations
  bool pure = false;             // masters are as the activations; else f32
  DType moments = DType::f32;
  float dropout = 0.0F;
  bool documents = false;  // rows are cut into documents that are kept apart
  int64_t micro_batch = 1;
  // Mesh, level, cadence, wire, …; dtypes of state are filled in by run().
  parallel::Sharding sharding;
  bool overlap = true;
  int team = 1;
  int planned_team = 0;  // for which memory is planned; 0: `team`. For tests that must fail.
  model::Recompute recompute = model::Recompute::none;
  int recompute_every = 1;
  bool guard = false;
  bool prove = true;           // false: a wrong program runs
  int64_t offload_window = 0;  // parallel::RunShape's
  std::chrono::seconds timeout{60};

  int64_t global_micro_batches() const { return int64_t{sharding.ranks()} * sharding.micro_batches; }
  model::TransformerConfig config() const;
  parallel::RunShape run_shape(int rank) const;
  std::string describe() const;
};

struct TensorValues {
  int unit;
  std::vector<float> values;
};
using Tensors = std::map<std::string, TensorValues>;  // by name: however they lie

struct Outcome {
  std::vector<double> losses, norms;  // per step
  Tensors first_gradients;            // after step 0, before clipping
  Tensors weights;                    // masters after the last step
};

// Sizes that divide by nothing; `vocab` and `width` differ between the families.
model::TransformerConfig small_model(const std::string& family, float dropout);

// Changes the step program of a rank before it runs; for tests that must fail.
using Change = std::function<void(parallel::Program& step, const comm::Placement& place)>;

// One rank of a layout. Collective over the world.
class Training {
 public:
  Training(const Layout& layout, comm::World& world, const Change& change = {});

  // Trains step number `step`; weights are the caller's to set before the first.
  parallel::StepResult step(int64_t step);
  // All of a kind of state, on every rank.
  Tensors collect(parallel::BufferKind kind) const;
  parallel::Executor& executor() { return executor_; }

 private:
  const Layout layout_;
  device::WorkerTeam team_;
  device::Stream stream_;
  parallel::Executor executor_;
};
constexpr uint64_t kInitialSeed = 5;

// `steps` steps from the same initial weights, on thread ranks. Learning rate and clipping are such that both matter.
Outcome run(const Layout& layout, int steps, const Change& change = {});
// The same as one rank of a world; every rank returns the outcome.
Outcome run(const Layout& layout, int steps, comm::World& world, const Change& change = {});

// One rank, the same micro-batches one after the other, nothing cut or computed again.
Layout one_rank(const Layout& layout);

// The largest relative difference of a tensor of the first gradients: ||a - b|| over max(||b||, a thousandth of its
// segment's norm), since some gradients (a key bias's) are zero in theory.
double gradient_difference(const Outcome& outcome, const Outcome& reference);
// By how much sums in another order may differ in fp32: of gradient_difference() against one rank. Slices cut the sums
// inside the model too.
inline double gradient_bound(const Layout& layout) {
  return layout.sharding.slices() > 1 ? 1e-5 : 1e-6;
}
// "" or what an outcome in fp32 has not as one rank: the first gradients, a loss to 1e-5 of the first, the first norm
// to 1e-5 and later ones, of weights that differ by then, to 1e-4.
std::string difference_from_one_rank(const Layout& layout, const Outcome& outcome, const Outcome& reference);
// The cosine of the angle between all first gradients.
double gradient_cosine(const Outcome& outcome, const Outcome& reference);
// "" or the first tensor whose weights, or the first step whose loss or norm, differ in a bit.
std::string bitwise_difference(const Outcome& outcome, const Outcome& reference);

}  // namespace ridgeline::layouts

// Text generation with a key-value cache: one token per step costs one pass over the weights. A program of the
// executor, like training and evaluation.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "ridgeline/comm/communicator.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/device/stream.h"
#include "ridgeline/parallel/executor.h"
#include "ridgeline/train/model_cut.h"
#include "ridgeline/train/model_source.h"

namespace ridgeline::train {

// How the next token is drawn from the logits: divided by `temperature` (0: the most likely token), cut to the `top_k`
// most likely (0: all), then to the smallest set whose probability reaches `top_p` (1: all). Draw number n depends on
// (seed, n) alone.
struct Sampling {
  double temperature = 1.0;
  int64_t top_k = 0;
  double top_p = 1.0;
  uint64_t seed = 0;
};

// Error that names the value: temperature must be finite and at least 0, top_k at least 0, top_p between 0 and 1.
void check(const Sampling& sampling);

// The token drawn from logits [V]. Ties in likelihood go to the lower id. Pure.
int32_t sample_token(std::span<const float> logits, const Sampling& sampling, uint64_t draw);

class Generator {
 public:
  // Loads the weights (dtype f32 or bf16). Keys and values take memory as they come, and never for more than `limit`
  // tokens (0, or more than the model's context: the context). `guard`: every buffer is watched.
  // Of a world of cut.ranks() ranks, which must outlive it; all of them feed the same tokens and get all logits.
  // Collective.
  Generator(comm::World& world, const ModelSource& source, DType dtype, int threads, const ModelCut& cut = {},
            int64_t limit = 0, bool guard = parallel::kGuardByDefault);
  ~Generator();

  const model::TransformerConfig& config() const { return run_.config; }

  // Logits [V] after the tokens (all of them in one pass; they follow what was fed before). At most `limit` tokens in
  // all. Error that names the first tensor of the weights, or the first operation, that is not finite when the logits
  // are not.
  std::span<const float> feed(std::span<const int32_t> tokens);
  int64_t position() const { return position_; }
  void reset() { position_ = 0; }

 private:
  [[noreturn]] void fail_non_finite(const parallel::StepInput& input);

  parallel::RunShape run_;
  device::WorkerTeam team_;
  device::Stream stream_;
  std::unique_ptr<parallel::Executor> executor_;
  int64_t position_ = 0;
};

}  // namespace ridgeline::train

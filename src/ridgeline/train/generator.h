// Text generation with a key-value cache: one token per step costs one pass over the weights.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "ridgeline/device/arena.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/device/stream.h"
#include "ridgeline/model/transformer.h"
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
  // Loads the weights (dtype f32 or bf16). Keys and values take memory for what is fed, in steps, and never for more
  // than `limit` tokens (0, or more than the model's context: the context).
  Generator(const ModelSource& source, DType dtype, int threads, int64_t limit = 0);
  ~Generator();

  const model::TransformerConfig& config() const { return config_; }

  // Logits [V] after the tokens (all of them in one pass; they follow what was fed before). At most `limit` tokens in
  // all. Error that names the first tensor of the weights, or the first operation, that is not finite when the logits
  // are not.
  std::span<const float> feed(std::span<const int32_t> tokens);
  int64_t position() const { return position_; }
  void reset() { position_ = 0; }

 private:
  void carve_weights(model::Carver& carver);
  void carve_sequence(model::Carver& carver);
  void load(const ModelSource& source);
  void reserve(int64_t tokens);
  template <typename F>
  void forward(int64_t count, F&& after);
  [[noreturn]] void fail_non_finite(int64_t count);
  model::TransformerConfig config_;
  DType dtype_;
  device::WorkerTeam team_;
  device::Stream stream_;
  std::vector<model::Segment> segments_;
  int64_t limit_;
  int64_t capacity_ = 0;  // tokens for which `sequence_memory_` is laid out
  std::unique_ptr<device::Arena> weights_memory_, sequence_memory_;
  std::vector<Ref> weights_, caches_;
  model::EmbeddingWeights embedding_weights_;
  std::vector<model::BlockWeights> block_weights_;
  model::HeadWeights head_weights_;
  Ref hidden_;
  float* rotary_ = nullptr;
  int32_t* positions_ = nullptr;
  int32_t* inputs_ = nullptr;
  model::CachedScratch scratch_;
  model::LossScratch head_;
  std::vector<float> logits_;
  int64_t position_ = 0;
};

}  // namespace ridgeline::train

// What one rank computes at once: a micro-batch's extents, its tokens, and the step's randomness.
#pragma once

#include <cstdint>

#include "ridgeline/base/dtype.h"
#include "ridgeline/model/transformer_config.h"

namespace ridgeline::model {

// The extents of one micro-batch on one rank.
struct BatchShape {
  int64_t batch = 0;         // B
  int64_t sequence = 0;      // T
  DType dtype = DType::f32;  // of activations and weights
  int64_t head_chunk = 512;  // tokens per chunk of the loss head
  int team_size = 1;
  bool dropout = false;    // config.dropout > 0 and training
  bool documents = false;  // documents of a sample are kept apart: Batch has first_keys and document_positions

  int64_t tokens() const { return batch * sequence; }
};
// For the logits of what follows a sequence's last token.
inline BatchShape one_token(BatchShape shape) {
  shape.batch = shape.sequence = shape.head_chunk = 1;
  return shape;
}

// One micro-batch: what the tokens are and where they stand.
struct Batch {
  const int32_t* inputs = nullptr;              // [N]
  const int32_t* labels = nullptr;              // [N], ops::kIgnoredLabel where there is none
  const int32_t* positions = nullptr;           // [N] position in the sequence: dropout's address
  const uint32_t* samples = nullptr;            // [N] global sample number
  const uint32_t* sample_of_row = nullptr;      // [B]
  const int32_t* first_keys = nullptr;          // [B][T] ops::Attention::first_keys; may be null
  const int32_t* document_positions = nullptr;  // [N] position in the document; null: `positions`
  // Filled by fill_rotary_table with more rows than the largest position; null without rotary positions.
  const float* rotary = nullptr;

  // What embedding and rotation take for a token's position.
  const int32_t* embedded_positions() const { return document_positions != nullptr ? document_positions : positions; }
};

// Keys of this step's randomness (random_key(seed, step, purpose)).
struct StepRandom {
  uint64_t dropout = 0;
  uint64_t attention_dropout = 0;
};

// The table of cosines and sines for positions 0 … positions - 1 (ops/rotary.h), `rotary_table_floats` of them: 0
// without rotary positions. The same for every layer and every step.
int64_t rotary_table_floats(const TransformerConfig& config, int64_t positions);
void fill_rotary_table(const TransformerConfig& config, int64_t positions, float* table);

}  // namespace ridgeline::model

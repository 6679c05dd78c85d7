// What every operation of a program reads, writes and adds to, stated once. The simulator proves programs from it, the
// inventory derives how long every buffer lives, the executor binds its buffers by it; none of them knows what an
// operation does.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "ridgeline/parallel/program.h"

namespace ridgeline::parallel {

// Every value has one history: written once, added to in ascending order of micro-batches, then read; it does not
// change after it was read. A place in memory may hold one value after another. Windows are the micro-batches whose
// gradients are reduced together (Sharding::window).
enum class ValueKind {
  tokens,         // [0][micro] inputs, labels, positions, sample numbers: given
  token_count,    // valid ones of all ranks in the step
  state,          // [segment] what this rank keeps of masters and moments: given
  updated_state,  // [segment] the same after the update
  weights,        // [segment][instance] whole weights as products read them: of gather `instance`, or given (kResident)
  activation,     // [element][micro] output of the embedding or a block
  saved,          // [element][micro] what a block's backward needs of its forward
  output_gradient,  // [element][micro] gradient of the loss with respect to an activation
  weight_inputs,    // [element][micro] what the input part of a backward leaves for the weight part
  gradient,         // [segment][window] sum of this rank's contributions
  joined_gradient,  // [segment][window] the same of all slices that hold the segment, where each has a part
  packed_gradient,  // [segment][window] the same in the dtype of the wire
  shard_sum,        // [segment][window] summed over the shards, where replicas are still to be summed
  sum,              // [segment][window] summed over all ranks
  step_gradient,    // [segment] this rank's part of the sum of all windows, where that is kept apart
  tied_gradient,    // [segment] the same of the first and the last stage, where both hold the segment
  squares,          // [segment] of its part
  losses,           // [0][micro] per token
  cache,            // [element] keys and values of the tokens that were fed before: given
  updated_cache,    // [element] and of the program's own
  logits,           // of what follows the last token
  step_scalars      // norm, loss, finite, stop: the same on all ranks
};
constexpr int kValueKinds = static_cast<int>(ValueKind::step_scalars) + 1;
constexpr int kResident = -1;
constexpr int kNotGathered = -2;  // the instance of a reader that waits for no gather: nothing writes it

struct Value {
  ValueKind kind;
  int index = 0, micro = 0;
  bool operator==(const Value&) const = default;
  std::string name() const;  // "output of block 3, micro-batch 0"
};
struct ValueHash {
  size_t operator()(const Value& value) const;
};
// Whether a value that is written must be read by somebody.
bool must_be_used(ValueKind kind);
// Whether a transfer that writes it needs memory that was free until then; the others are in place, or hold a number.
bool takes_memory(ValueKind kind);

enum class Access { read, write, add };
struct Use {
  Value value;
  Access access;
};

// Segments whose weights an operation reads, and to whose gradients it adds.
std::vector<int> segments_read(const model::ElementSegments& elements, const Op& op);
std::vector<int> segments_added_to(const model::ElementSegments& elements, const Op& op);

class Dataflow {
 public:
  Dataflow(const model::TransformerConfig& config, const Sharding& sharding, const Program& program);

  // Of the operation at `position`: what it writes, then what it adds to and reads.
  std::span<const Use> of(int position) const;
  // Values that are there before the program begins, and those that must be there when it has ended.
  const std::vector<Value>& given() const { return given_; }
  const std::vector<Value>& wanted() const { return wanted_; }

 private:
  std::vector<Use> uses_;
  std::vector<size_t> begin_;  // of each operation's uses; one more than operations
  std::vector<Value> given_, wanted_;
};

}  // namespace ridgeline::parallel

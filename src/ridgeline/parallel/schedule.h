// The order of a pipeline stage's work inside one step, before sharding is known; what it costs; and how blocks are cut
// into stages. Pure: numbers in, lists out.
//
// The model is cut into stages × chunks parts, the virtual stages; virtual stage k lies on stage k mod stages. Every
// micro-batch goes forward through all of them, ascending, through the loss, and backward through all, descending.
//
//   kind         order of stage s of p: m micro-batches, v chunks               idle share        alive at most
//   gpipe        all forwards, then all backwards                               (p-1)/(m+p-1)     m
//   1f1b         min(m, p-1-s) forwards, then a forward and a backward in turn  (p-1)/(m+p-1)     min(m, p-s)
//   interleaved  2 (p-1-s) + (v-1) p (at most v m) forwards, then in turn       (p-1)/(v m+p-1)   that many + 1, or v m
//   zero-bubble  1f1b, in which the weight part of a backward waits for s more  (p-1)/(3 m+p-1)   min(m, p)
//
// The idle share holds for equal stages with forward = input part of the backward = weight part = 1, and a loss and
// messages that take no time; zero-bubble's from m >= p on. What is alive are pairs of a virtual stage and a
// micro-batch, from the forward to the end of the backward, weight part included. Interleaved with one chunk is 1f1b.
//
// Sources: Huang et al. 2019, GPipe; Narayanan et al. 2019, PipeDream, and 2021, Efficient Large-Scale Language Model
// Training on GPU Clusters Using Megatron-LM (1F1B with flushes, interleaved); Qi et al. 2023, Zero Bubble Pipeline
// Parallelism (ZB-H1).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ridgeline::parallel {

enum class ScheduleKind : uint8_t { gpipe, one_f_one_b, interleaved, zero_bubble };
std::span<const std::string_view> words_of(ScheduleKind);

enum class Work {
  forward,
  loss,             // of the last virtual stage: forward and backward; leaves the gradient of that stage's output
  backward,         // both of its parts
  backward_input,   // what the virtual stage before waits for
  backward_weight,  // the rest
  exchange          // with other stages: `transfers`
};

// A message to or from another stage: the output of virtual stage `chunk`, or (`backward`) the gradient of that output.
struct Transfer {
  int stage;  // the other one
  bool sends, backward;
  int chunk, micro;
  bool operator==(const Transfer&) const = default;
};

struct ScheduleEntry {
  Work work;
  int micro;
  int chunk = 0;  // the virtual stage, of all stages
  std::vector<Transfer> transfers = {};
  bool operator==(const ScheduleEntry&) const = default;
};

// `chunks`: virtual stages of a stage.
struct PipelineShape {
  ScheduleKind kind = ScheduleKind::one_f_one_b;
  int stages = 1, micro_batches = 1, chunks = 1;

  int virtual_stages() const { return stages * chunks; }
  int stage_of(int chunk) const { return chunk % stages; }
};

// Why there is no such schedule, in words for the user; nothing where there is one. Only `interleaved` has more than
// one chunk, and it needs a multiple of `stages` micro-batches.
std::optional<std::string> refusal(const PipelineShape& shape);

// Work of every stage, in order. Aborts for a shape with a refusal.
//
// The loss of a micro-batch follows directly upon the last virtual stage's forward. Backwards of one virtual stage, and
// their weight parts, are in ascending micro-batch order, so that gradients accumulate in that order. With one stage
// every kind finishes each micro-batch before the next begins: the least memory.
//
// Exchanges stand where they may run even if every send waits for its receive and a rank does one thing at a time. All
// stages' computations and messages have one total order: by their time in the schedule, messages before the
// computations that begin then; what a message carries is computed before it, and used after it. Each stage's list is a
// part of that order, and its messages of one time are one exchange. Take the earliest that is not done yet: whoever
// takes part in it has done all that precedes it and stands at it, and so it gets done. Nobody waits for ever. A
// message stands where its sender has just computed it: no earlier, since the receiver's memory is taken from there on,
// and no later, since it can travel from there on while both compute.
std::vector<std::vector<ScheduleEntry>> schedule(const PipelineShape& shape);
// The same where nothing depends on the kind: of the only stage.
inline std::vector<std::vector<ScheduleEntry>> schedule(int stages, int micro_batches) {
  return schedule(PipelineShape{.stages = stages, .micro_batches = micro_batches});
}

// Times of one virtual stage and micro-batch, in any unit; a joint backward takes both parts. `transfer`: of its
// output, and of the gradient of that.
struct Cost {
  double forward = 1, backward_input = 1, backward_weight = 1, loss = 0, transfer = 0;
};

struct Period {
  double begin, end;
};
struct Timeline {
  std::vector<std::vector<Period>> entries;  // of every stage, as in the schedule
  double makespan = 0;
  std::vector<double> busy;    // of every stage: computing
  double idle_share = 0;       // 1 - sum(busy) / (stages · makespan): the bubble
  std::vector<int> peak_live;  // of every stage: most (virtual stage, micro-batch) alive at once
};

// When what happens, on stages that compute in the order of their lists and exchange beside it, on a stream of its own,
// likewise in order. An exchange begins behind the exchange and the computation before it; each of its messages takes
// `transfer` from when both sides have begun, and it ends with the last of them. A computation waits for the exchange
// that brings its input. `costs`: one for every virtual stage. Aborts when the stages wait for each other for ever.
Timeline timeline(const std::vector<std::vector<ScheduleEntry>>& schedule, std::span<const Cost> costs);

// How many of the blocks each of `parts` parts has: a contiguous cut, each part at least one block, whose largest part
// is as small as can be, where `before` is added to the first part and `after` to the last. Of several such cuts the
// one with the smallest sum of squares, and then the one whose first parts have fewer blocks: in 1f1b they keep more
// micro-batches. `blocks`: the cost of each, >= 0; 1 <= parts <= blocks.
std::vector<int> balanced(std::span<const double> blocks, double before, double after, int parts);

}  // namespace ridgeline::parallel

// Seeded faults of the engine: each must be noticed both by the comparison of layouts and by the simulator, which would
// refuse the program before it runs. A fault that stays green is a hole in the tests.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "../layouts/layout.h"

namespace ridgeline::layouts {
namespace {

using parallel::Op;
using parallel::OpKind;
using parallel::Program;
using parallel::Reduce;
using parallel::Shard;

constexpr int kVocabulary = 0, kSomeBlock = 3;  // segments; the block is the second

// The first operation of a kind, on `index` unless negative, of `micro` unless negative.
size_t position_of(const Program& program, OpKind kind, int index, int micro = -1) {
  const auto found = std::find_if(program.ops.begin(), program.ops.end(), [&](const Op& op) {
    return op.kind == kind && (index < -1 || op.index == index) && (micro < 0 || op.micro == micro);
  });
  EXPECT_NE(found, program.ops.end());
  return static_cast<size_t>(found - program.ops.begin());
}

void remove(Program& program, size_t position) {
  const int at = static_cast<int>(position);
  program.ops.erase(program.ops.begin() + at);
  for (Op& op : program.ops) {
    std::erase(op.after, at);
    for (int& other : op.after) other -= other > at ? 1 : 0;
  }
}

void insert(Program& program, size_t position, const Op& added) {
  const int at = static_cast<int>(position);
  for (Op& op : program.ops) {
    for (int& other : op.after) other += other >= at ? 1 : 0;
  }
  program.ops.insert(program.ops.begin() + at, added);
}

struct Mutation {
  const char* name;
  parallel::Sharding sharding;
  Change change;
  bool overlap = true;
  bool race = false;  // whether the bits change is up to timing: only the simulator is sure to notice
};

std::vector<Mutation> mutations() {
  const parallel::Sharding plain{.mesh = comm::Mesh::of_data(2), .micro_batches = 2};
  const parallel::Sharding optimizer{.level = Shard::optimizer, .mesh = comm::Mesh::of_data(2), .micro_batches = 2};
  const parallel::Sharding every{
      .level = Shard::parameters, .mesh = comm::Mesh::of_data(2), .reduce = Reduce::every, .micro_batches = 2};
  const parallel::Sharding hybrid{.level = Shard::gradients, .mesh = comm::Mesh::of_data(4, 2), .micro_batches = 1};
  const auto without = [](OpKind kind, int index, int micro = -1) {
    return [=](Program& program) { remove(program, position_of(program, kind, index, micro)); };
  };
  return {
      {"a reduction is skipped", plain, without(OpKind::reduce, kSomeBlock)},
      {"a reduction of a shard is skipped", every, without(OpKind::reduce, kSomeBlock, 1)},
      {"the sum over replicas is skipped", hybrid, without(OpKind::replicate, kSomeBlock)},
      {"weights are not gathered after an update", optimizer, without(OpKind::gather, kSomeBlock)},
      {"last step's gradient is not cleared", plain, without(OpKind::clear, kSomeBlock)},
      {"one micro-batch is not accumulated", every, without(OpKind::accumulate, kSomeBlock, 1)},
      {"a segment is not updated", plain, without(OpKind::update, kSomeBlock)},
      {"a segment is left out of the norm", optimizer, without(OpKind::measure, kSomeBlock)},
      {"a tied gradient is counted twice", plain,
       [](Program& program) {
         const size_t at = position_of(program, OpKind::backward, -1, 1);
         insert(program, at, program.ops[at]);
       }},
      {"the tied matrix is reduced before its last contribution", plain,
       [](Program& program) {
         const size_t at = position_of(program, OpKind::reduce, kVocabulary);
         Op early = program.ops[at];
         remove(program, at);
         const size_t before = position_of(program, OpKind::backward, -1, 1);
         early.after = {static_cast<int>(before) - 1};
         insert(program, before, early);
         program.ops[position_of(program, OpKind::measure, kVocabulary)].after = {static_cast<int>(before)};
       },
       false},  // where a transfer only starts early, the contribution may still get there in time
      {"the step's tokens are not counted", plain, without(OpKind::count, 0)},
      {"a segment is updated twice", plain,
       [](Program& program) {
         const size_t at = position_of(program, OpKind::update, kSomeBlock);
         insert(program, at, program.ops[at]);
       }},
      {"a block's backward runs twice", every,
       [](Program& program) {
         const size_t at = position_of(program, OpKind::backward, 1, 0);
         insert(program, at, program.ops[at]);
       }},
      {"a gradient is cleared between two micro-batches", plain,
       [](Program& program) {
         Op clear = program.ops[position_of(program, OpKind::clear, kSomeBlock)];
         clear.micro = 1;
         insert(program, position_of(program, OpKind::backward, 1, 1), clear);
       }},
      {"a gradient is read before its sum is there", every,
       [](Program& program) { program.ops[position_of(program, OpKind::accumulate, kSomeBlock, 0)].after.clear(); },
       true, true},
  };
}

// Whether the comparison with one rank notices; why, in words.
std::string red(const Layout& layout, const Outcome& reference, const Change& change) {
  Outcome outcome;
  try {
    outcome = run(layout, 2, change);
  } catch (const std::exception& error) {
    return error.what();
  }
  if (!(gradient_difference(outcome, reference) <= 1e-6)) return "gradients";
  for (size_t step = 0; step < reference.losses.size(); ++step) {
    if (!(std::fabs(outcome.losses[step] - reference.losses[step]) <= 1e-5 * reference.losses[step])) return "loss";
    if (!(std::fabs(outcome.norms[step] - reference.norms[step]) <= 1e-5 * reference.norms[step])) return "norm";
  }
  return "";
}

TEST(mutations, each_turns_the_comparison_of_layouts_red) {
  for (const Mutation& mutation : mutations()) {
    if (mutation.race) continue;
    Layout layout;
    layout.sharding = mutation.sharding;
    layout.overlap = mutation.overlap;
    layout.prove = false;
    const Outcome reference = run(one_rank(layout), 2);
    EXPECT_EQ(red(layout, reference, {}), "") << "without a fault: " << layout.describe();
    EXPECT_NE(red(layout, reference, mutation.change), "") << mutation.name << ": " << layout.describe();
  }
}

// What a user would see: the run does not start, and the message names an operation.
TEST(mutations, each_is_refused_before_the_run_starts) {
  for (const Mutation& mutation : mutations()) {
    Layout layout;
    layout.sharding = mutation.sharding;
    try {
      run(layout, 1, mutation.change);
      ADD_FAILURE() << mutation.name << " ran";
    } catch (const std::exception& error) {
      EXPECT_NE(std::string(error.what()).find("is wrong: rank 0: '"), std::string::npos)
          << mutation.name << ": " << error.what();
    }
  }
}

}  // namespace
}  // namespace ridgeline::layouts

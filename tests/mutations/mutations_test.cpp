// Seeded faults of the engine: each must be noticed both by the comparison of layouts and by the simulator, which would
// refuse the program before it runs. A fault that stays green is a hole in the tests.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "../layouts/layout.h"

namespace ridgeline::layouts {
namespace {

using parallel::Message;
using parallel::Op;
using parallel::OpKind;
using parallel::Program;
using parallel::Reduce;
using parallel::ScheduleKind;
using parallel::Shard;

constexpr int kVocabulary = 0, kSomeBlock = 3;  // segments; the block is the second
constexpr int kAny = -2;

// The first operation of a kind, on `index` unless kAny, of `micro` unless negative.
size_t position_of(const Program& program, OpKind kind, int index, int micro = -1) {
  const auto found = std::find_if(program.ops.begin(), program.ops.end(), [&](const Op& op) {
    return op.kind == kind && (index == kAny || op.index == index) && (micro < 0 || op.micro == micro);
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

// Removes what is sent or received of an element and micro-batch, from exchanges and from waits for them.
void remove_message(Program& program, bool backward, int element, int micro) {
  for (size_t at = program.ops.size(); at-- > 0;) {
    std::vector<Message>& messages = program.ops[at].messages;
    const size_t removed = std::erase_if(messages, [&](const Message& message) {
      return message.backward == backward && message.element == element && message.micro == micro;
    });
    if (removed > 0 && messages.empty()) remove(program, at);
  }
}

void edit_messages(Program& program, const std::function<void(Message&)>& edit) {
  for (Op& op : program.ops) {
    for (Message& message : op.messages) edit(message);
  }
}

struct Mutation {
  const char* name;
  Layout layout;
  Change change;
  const char* refusal = "is wrong: rank ";  // in it, whichever rank is the first to refuse
  bool race = false;  // whether the bits change is up to timing: only the simulator is sure to notice
};

using Edit = std::function<void(Program&)>;
Change on_every_rank(const Edit& edit) {
  return [edit](Program& program, const comm::Placement& /*place*/) { edit(program); };
}
Change on_stage(int stage, const Edit& edit) {
  return [=](Program& program, const comm::Placement& place) {
    if (place.stage() == stage) edit(program);
  };
}
Edit without_op(OpKind kind, int index, int micro = -1) {
  return [=](Program& program) { remove(program, position_of(program, kind, index, micro)); };
}
Change without(OpKind kind, int index, int micro = -1) {
  return on_every_rank(without_op(kind, index, micro));
}
Edit doubled(OpKind kind, int index, int micro = -1) {
  return [=](Program& program) {
    const size_t at = position_of(program, kind, index, micro);
    const Op again = program.ops[at];
    insert(program, at, again);
  };
}

std::vector<Mutation> mutations_of_data() {
  const auto layout = [](const parallel::Sharding& sharding) { return Layout{.sharding = sharding}; };
  const Layout plain = layout({.mesh = comm::Mesh::of_data(2), .micro_batches = 2});
  const Layout optimizer = layout({.level = Shard::optimizer, .mesh = comm::Mesh::of_data(2), .micro_batches = 2});
  const Layout every =
      layout({.level = Shard::parameters, .mesh = comm::Mesh::of_data(2), .reduce = Reduce::every, .micro_batches = 2});
  const Layout hybrid = layout({.level = Shard::gradients, .mesh = comm::Mesh::of_data(4, 2), .micro_batches = 1});
  Layout inline_plain = plain;
  inline_plain.overlap = false;
  return {
      {"a reduction is skipped", plain, without(OpKind::reduce, kSomeBlock)},
      {"a reduction of a shard is skipped", every, without(OpKind::reduce, kSomeBlock, 1)},
      {"the sum over replicas is skipped", hybrid, without(OpKind::replicate, kSomeBlock)},
      {"weights are not gathered after an update", optimizer, without(OpKind::gather, kSomeBlock)},
      {"last step's gradient is not cleared", plain, without(OpKind::clear, kSomeBlock)},
      {"one micro-batch is not accumulated", every, without(OpKind::accumulate, kSomeBlock, 1)},
      {"a segment is not updated", plain, without(OpKind::update, kSomeBlock)},
      {"a segment is left out of the norm", optimizer, without(OpKind::measure, kSomeBlock)},
      {"a tied gradient is counted twice", plain, on_every_rank(doubled(OpKind::backward, -1, 1))},
      {"the tied matrix is reduced before its last contribution",
       // where a transfer only starts early, the contribution may still get there in time
       inline_plain, on_every_rank([](Program& program) {
         const size_t at = position_of(program, OpKind::reduce, kVocabulary);
         Op early = program.ops[at];
         remove(program, at);
         const size_t before = position_of(program, OpKind::backward, -1, 1);
         early.after = {static_cast<int>(before) - 1};
         insert(program, before, early);
         program.ops[position_of(program, OpKind::measure, kVocabulary)].after = {static_cast<int>(before)};
       })},
      {"the step's tokens are not counted", plain, without(OpKind::count, 0)},
      {"a segment is updated twice", plain, on_every_rank(doubled(OpKind::update, kSomeBlock))},
      {"a block's backward runs twice", every, on_every_rank(doubled(OpKind::backward, 1, 0))},
      {"a gradient is cleared between two micro-batches", plain, on_every_rank([](Program& program) {
         Op clear = program.ops[position_of(program, OpKind::clear, kSomeBlock)];
         clear.micro = 1;
         insert(program, position_of(program, OpKind::backward, 1, 1), clear);
       })},
      {.name = "a gradient is read before its sum is there",
       .layout = every,
       .change = on_every_rank([](Program& program) {
         program.ops[position_of(program, OpKind::accumulate, kSomeBlock, 0)].after.clear();
       }),
       .race = true},
  };
}

std::vector<Mutation> mutations_of_slices() {
  const Layout tokens{.sharding = {.mesh = comm::Mesh::of_world(2, 1, 2, 1, 0), .micro_batches = 2, .sequence = true}};
  // Two key heads in six slices: three copies of each.
  const Layout copies{.family = "llama", .sharding = {.mesh = comm::Mesh::of_world(6, 1, 6, 1, 0), .micro_batches = 2}};
  return {
      {"a norm's gradient is not summed over the slices of tokens", tokens, without(OpKind::join, kAny)},
      {"a norm's gradient is summed over the slices of tokens twice", tokens,
       on_every_rank(doubled(OpKind::join, kAny))},
      {"gradients of a key head's copies are not summed", copies, without(OpKind::join, kAny)},
      {"gradients of a key head's copies are summed before the last micro-batch", copies,
       on_every_rank([](Program& program) {
         const size_t at = position_of(program, OpKind::join, kAny);
         const Op join = program.ops[at];
         remove(program, at);
         insert(program, position_of(program, OpKind::backward, 3, 1), join);
       })},
      {"one slice does not take part in a sum", tokens,
       [](Program& program, const comm::Placement& place) {
         if (place.tensor_rank() == 1) remove(program, position_of(program, OpKind::join, kAny));
       },
       "is wrong: rank "},
  };
}

std::vector<Mutation> mutations_of_stages() {
  const auto layout = [](ScheduleKind kind, int chunks, std::vector<int> blocks, int data = 1) {
    return Layout{.sharding = {.mesh = comm::Mesh::of_world(2 * data, 2, 1, 1, 0),
                               .micro_batches = 4,
                               .pipeline = {.kind = kind, .chunks = chunks, .blocks = std::move(blocks)}}};
  };
  const Layout gpipe = layout(ScheduleKind::gpipe, 1, {2, 2}), plain = layout(ScheduleKind::one_f_one_b, 1, {2, 2}),
               in_parts = layout(ScheduleKind::zero_bubble, 1, {2, 2}),
               interleaved = layout(ScheduleKind::interleaved, 2, {1, 1, 1, 1}),
               replicas = layout(ScheduleKind::one_f_one_b, 1, {2, 2}, 2);
  const auto renumbered = [](bool backward) {  // on both sides, or they would not meet
    return on_every_rank([=](Program& program) {
      edit_messages(program, [&](Message& message) {
        if (message.backward == backward && message.micro == 2) message.micro = 1;
      });
    });
  };
  const auto of_micro_before = [](OpKind kind, int element) {
    return [=](Program& program) { --program.ops[position_of(program, kind, element, 2)].micro; };
  };
  return {
      {"the ends' gradients of the tied matrix are not summed", plain, without(OpKind::tie, kVocabulary),
       "waits for ever at 'tie gradient of segment 0'"},
      {"the ends' gradients of the tied matrix are summed twice", plain,
       on_every_rank(doubled(OpKind::tie, kVocabulary)), "writes gradient of both ends of segment 0 a second time"},
      {"one end does not take part in the sum of the tied gradient", plain,
       on_stage(1, without_op(OpKind::tie, kVocabulary)), "waits for ever at 'tie gradient of segment 0'"},
      {"the ends' gradients of the tied matrix are summed before those of all ranks", replicas,
       on_every_rank([](Program& program) {
         const size_t at = position_of(program, OpKind::tie, kVocabulary);
         Op tie = program.ops[at];
         tie.after.clear();
         remove(program, at);
         insert(program, position_of(program, OpKind::reduce, kVocabulary), tie);
       }),
       "'tie gradient of segment 0' needs gradient summed over all ranks of segment 0"},
      {"an output of the micro-batch before is sent", plain, renumbered(false), "output of block 1, micro-batch "},
      {"a gradient of the micro-batch before is sent", plain, renumbered(true),
       "gradient of the output of block 1, micro-batch "},
      {"a backward is of the micro-batch before", plain, on_stage(0, of_micro_before(OpKind::backward, 1))},
      {"a backward's input part is of the micro-batch before", in_parts,
       on_stage(1, of_micro_before(OpKind::backward_input, 2)), "is wrong: rank "},
      {"a backward's weight part is of the micro-batch before", in_parts,
       on_stage(0, of_micro_before(OpKind::backward_weight, 0))},
      {"a backward's weight part is skipped", in_parts, on_stage(1, without_op(OpKind::backward_weight, 3, 1)),
       "is wrong: rank "},
      {"a backward's weight part runs twice", in_parts, on_stage(1, doubled(OpKind::backward_weight, 3, 1)),
       "is wrong: rank "},
      {"a message is dropped on both sides", gpipe,
       on_every_rank([](Program& program) { remove_message(program, false, 1, 2); }),
       "output of block 1, micro-batch 2"},
      {"a gradient is dropped on both sides", in_parts,
       on_every_rank([](Program& program) { remove_message(program, true, 1, 3); }),
       "gradient of the output of block 1, micro-batch 3"},
      {"a message is not received", gpipe, on_stage(1, [](Program& program) { remove_message(program, false, 1, 0); }),
       "waits for ever at 'exchange"},
      {"two exchanges of a stage are swapped", gpipe,
       on_stage(1,
                [](Program& program) {
                  const size_t first = position_of(program, OpKind::exchange, 0);
                  size_t second = first + 1;
                  while (program.ops[second].kind != OpKind::exchange) ++second;
                  std::swap(program.ops[first].messages, program.ops[second].messages);
                }),
       "waits for ever at 'exchange"},
      {"two parts of a stage send each other's output", interleaved, on_every_rank([](Program& program) {
         edit_messages(program, [](Message& message) {
           if (!message.backward && message.element != 1) message.element = 2 - message.element;
         });
       }),
       "needs output of block "},
      {"the replicas of one stage are not summed", replicas, on_stage(1, without_op(OpKind::reduce, kAny)),
       "is wrong: rank "},
      {"a stage's segment is left out of the norm", plain, on_stage(1, without_op(OpKind::measure, kAny)),
       "is wrong: rank "},
      {"an output is overwritten that may still be sent", plain,
       on_stage(0,
                [](Program& program) {
                  for (size_t at = program.ops.size(); at-- > 0;) {
                    if (program.ops[at].kind == OpKind::settle) remove(program, at);
                  }
                }),
       "buffers share memory that the programs do not keep apart", true},
      {"an output is sent that may not be there", plain,
       on_stage(0, [](Program& program) { program.ops[position_of(program, OpKind::exchange, 0)].after.clear(); }),
       "is wrong: rank ", true},
      {"an output is read that may not have arrived", plain,
       on_stage(1, [](Program& program) { program.ops[position_of(program, OpKind::forward, 2)].after.clear(); }),
       "is wrong: rank ", true},
  };
}

std::vector<Mutation> mutations() {
  std::vector<Mutation> all = mutations_of_data();
  for (const auto& some : {mutations_of_slices(), mutations_of_stages()})
    all.insert(all.end(), some.begin(), some.end());
  return all;
}

// Whether the comparison with one rank notices; why, in words.
std::string red(const Layout& layout, const Outcome& reference, const Change& change) {
  Outcome outcome;
  try {
    outcome = run(layout, 2, change);
  } catch (const std::exception& error) {
    return error.what();
  }
  return difference_from_one_rank(layout, outcome, reference);
}

TEST(mutations, each_turns_the_comparison_of_layouts_red) {
  for (const Mutation& mutation : mutations()) {
    if (mutation.race) continue;
    Layout layout = mutation.layout;
    layout.prove = false;
    const Outcome reference = run(one_rank(layout), 2);
    EXPECT_EQ(red(layout, reference, {}), "") << "without a fault: " << layout.describe();
    layout.timeout = std::chrono::seconds(2);  // what hangs is given up
    EXPECT_NE(red(layout, reference, mutation.change), "") << mutation.name << ": " << layout.describe();
  }
}

// What a user would see: the run does not start, and the message names an operation.
TEST(mutations, each_is_refused_before_the_run_starts) {
  for (const Mutation& mutation : mutations()) {
    try {
      run(mutation.layout, 1, mutation.change);
      ADD_FAILURE() << mutation.name << " ran";
    } catch (const std::exception& error) {
      EXPECT_NE(std::string(error.what()).find(mutation.refusal), std::string::npos)
          << mutation.name << ": " << error.what();
    }
  }
}

}  // namespace
}  // namespace ridgeline::layouts

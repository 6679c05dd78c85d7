// Programs of two stages, written by hand: right ones pass, and each wrong one is refused with the operation named.
#include "ridgeline/parallel/simulator.h"

#include <gtest/gtest.h>

#include <functional>

namespace ridgeline::parallel {
namespace {

using Programs = std::vector<Program>;

model::TransformerConfig two_blocks() {
  model::TransformerConfig config{.layers = 2, .width = 8, .heads = 2, .vocab = 17, .context = 16};
  config.tied = false;
  return model::with_usual_sizes(config);
}

// Builds a stage's program; transfers wait for the computation before them, and what reads them waits for them.
class Stage {
 public:
  Stage(int first, int last, int micro_batches) {
    program_.name = "step";
    program_.micro_batches = micro_batches;
    program_.chunks = {{first, last}};
  }
  int add(OpKind kind, int index = 0, int micro = 0, std::vector<int> after = {}) {
    program_.ops.push_back({kind, index, micro, std::move(after)});
    if (program_.ops.back().stream() == StreamId::compute) last_compute_ = position();
    return position();
  }
  int exchange(std::vector<Message> messages) {
    std::vector<int> after;
    if (last_compute_ >= 0) after.push_back(last_compute_);
    program_.ops.push_back({OpKind::exchange, 0, 0, after, std::move(messages)});
    return position();
  }
  // Sums, norm and update of the stage's segments.
  Program finish(const model::TransformerConfig& config, int micro_batches) {
    const model::ElementSegments elements(config, {});
    std::vector<int> reduced;
    for (const int segment : segments_of(elements, program_))
      reduced.push_back(add(OpKind::reduce, segment, micro_batches - 1, {last_compute_}));
    size_t i = 0;
    int measured = -1;
    for (const int segment : segments_of(elements, program_))
      measured = add(OpKind::measure, segment, 0, {reduced[i++]});
    const int agreed = add(OpKind::agree, 0, 0, {measured});
    for (const int segment : segments_of(elements, program_)) add(OpKind::update, segment, 0, {agreed});
    return program_;
  }
  void clear_all(const model::TransformerConfig& config) {
    const model::ElementSegments elements(config, {});
    for (const int segment : segments_of(elements, program_)) add(OpKind::clear, segment);
  }

 private:
  int position() const { return static_cast<int>(program_.ops.size()) - 1; }
  Program program_;
  int last_compute_ = -1;
};

constexpr bool kSends = true, kReceives = false, kForward = false, kBackward = true;
constexpr int kMicroBatches = 2;

// GPipe over two micro-batches: block 0 and the embedding on the first stage, block 1 and the loss on the second.
Programs two_stages(bool in_two_parts) {
  const model::TransformerConfig config = two_blocks();
  Stage first(-1, 0, kMicroBatches), second(1, 2, kMicroBatches);
  first.add(OpKind::count);
  first.clear_all(config);
  for (int micro = 0; micro < kMicroBatches; ++micro) {
    first.add(OpKind::forward, -1, micro);
    first.add(OpKind::forward, 0, micro);
    first.exchange({{1, kSends, kForward, 0, micro}});
  }
  for (int micro = 0; micro < kMicroBatches; ++micro) {
    const int received = first.exchange({{1, kReceives, kBackward, 0, micro}});
    if (in_two_parts) {
      first.add(OpKind::backward_input, 0, micro, {received});
      first.add(OpKind::backward_weight, 0, micro);
    } else {
      first.add(OpKind::backward, 0, micro, {received});
    }
    first.add(OpKind::backward, -1, micro);
  }
  const int counted = second.add(OpKind::count);
  second.clear_all(config);
  for (int micro = 0; micro < kMicroBatches; ++micro) {
    const int received = second.exchange({{0, kReceives, kForward, 0, micro}});
    second.add(OpKind::forward, 1, micro, {received});
    second.add(OpKind::loss, 2, micro, {counted});
  }
  for (int micro = 0; micro < kMicroBatches; ++micro) {
    if (in_two_parts) {
      second.add(OpKind::backward_input, 1, micro);
      second.exchange({{0, kSends, kBackward, 0, micro}});
      second.add(OpKind::backward_weight, 1, micro);
    } else {
      second.add(OpKind::backward, 1, micro);
      second.exchange({{0, kSends, kBackward, 0, micro}});
    }
  }
  return {first.finish(config, kMicroBatches), second.finish(config, kMicroBatches)};
}

std::vector<std::string> simulate_stages(const Programs& programs) {
  std::vector<SimulatedRank> ranks;
  for (size_t stage = 0; stage < programs.size(); ++stage) {
    ranks.push_back({.program = &programs[stage], .stage = static_cast<int>(stage)});
    for (const Group group : {Group::data, Group::shards, Group::replicas})
      ranks.back().group[static_cast<size_t>(group)] = static_cast<int>(stage);
  }
  return simulate(two_blocks(), {.micro_batches = kMicroBatches}, ranks);
}

// The `number`-th operation of a kind.
Op& nth(Program& program, OpKind kind, int number = 0) {
  for (Op& op : program.ops) {
    if (op.kind == kind && number-- == 0) return op;
  }
  ADD_FAILURE() << "no such operation";
  return program.ops.front();
}

void remove(Program& program, const Op& op) {
  const int at = static_cast<int>(&op - program.ops.data());
  program.ops.erase(program.ops.begin() + at);
  for (Op& other : program.ops) {
    std::erase(other.after, at);
    for (int& position : other.after) position -= position > at ? 1 : 0;
  }
}

TEST(two_stages, right_programs_pass) {
  for (const bool in_two_parts : {false, true}) {
    const std::vector<std::string> wrong = simulate_stages(two_stages(in_two_parts));
    EXPECT_TRUE(wrong.empty()) << wrong.front();
  }
}

TEST(two_stages, wrong_ones_are_refused_with_the_operation_named) {
  struct Fault {
    const char* what;
    std::function<void(Programs&)> change;
    const char* named;
  };
  const Fault faults[] = {
      {"a send is missing", [](Programs& p) { remove(p[0], nth(p[0], OpKind::exchange, 1)); },
       "waits for ever at 'exchange"},
      {"a receive is missing", [](Programs& p) { remove(p[1], nth(p[1], OpKind::exchange, 0)); },
       "'forward block 1 micro 0' needs output of block 0, micro-batch 0"},
      {"micro-batches are sent in another order than they are received",
       [](Programs& p) {
         std::swap(nth(p[1], OpKind::exchange, 0).messages[0].micro, nth(p[1], OpKind::exchange, 1).messages[0].micro);
       },
       "waits for ever at 'exchange"},
      {"a stage waits for a gradient before it has sent what that needs",
       [](Programs& p) { std::swap(nth(p[0], OpKind::exchange, 1).messages, nth(p[0], OpKind::exchange, 2).messages); },
       "rank 0 waits for ever at 'exchange receive gradient of block 0 micro 0 from stage 1;'"},
      {"an output is received where a computation may still be at work",
       [](Programs& p) { nth(p[1], OpKind::exchange, 1).after.clear(); },
       "'exchange receive block 0 micro 1 from stage 0;' does not wait for 'loss micro 0'"},
      {"an output is used before it has arrived", [](Programs& p) { nth(p[1], OpKind::forward, 0).after.clear(); },
       "'forward block 1 micro 0' does not wait for 'exchange receive block 0 micro 0 from stage 0;'"},
      {"a gradient is sent before it is there", [](Programs& p) { nth(p[1], OpKind::exchange, 2).after.clear(); },
       "'exchange send gradient of block 0 micro 0 to stage 0;' does not wait for 'backward"},
      {"a wrong block's output is sent", [](Programs& p) { nth(p[0], OpKind::exchange, 0).messages[0].element = -1; },
       "waits for ever at 'exchange"},
      {"a backward's weight part is missing", [](Programs& p) { remove(p[0], nth(p[0], OpKind::backward_weight, 1)); },
       "'backward of the input of block 0 micro 1' leaves inputs of the weight part"},
      {"a weight part runs before its input part",
       [](Programs& p) {
         Op& input = nth(p[0], OpKind::backward_input, 0);
         std::swap(input, *(&input + 1));
       },
       "'backward of the weights of block 0 micro 0' needs inputs of the weight part"},
      {"weight parts run in descending order of micro-batches",
       [](Programs& p) {
         std::swap(nth(p[1], OpKind::backward_weight, 0).micro, nth(p[1], OpKind::backward_weight, 1).micro);
       },
       "backward of the weights of block 1 micro"},
      {"a weight part comes after the reduction",
       [](Programs& p) {
         Op late = nth(p[1], OpKind::backward_weight, 1);
         remove(p[1], nth(p[1], OpKind::backward_weight, 1));
         p[1].ops.push_back(late);
       },
       "'backward of the weights of block 1 micro 1' adds to gradient of segment"},
      {"a segment of the second stage is not updated", [](Programs& p) { remove(p[1], nth(p[1], OpKind::update, 1)); },
       "and none has written updated state of segment"},
  };
  for (const Fault& fault : faults) {
    Programs programs = two_stages(true);
    fault.change(programs);
    const std::vector<std::string> wrong = simulate_stages(programs);
    std::string all;
    for (const std::string& text : wrong) all += text + "\n";
    EXPECT_NE(all.find(fault.named), std::string::npos) << fault.what << ":\n" << all;
  }
}

}  // namespace
}  // namespace ridgeline::parallel

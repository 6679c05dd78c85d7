// What a start refuses: a wrong program and a wrong layout, with operations and buffers named.
#include "ridgeline/parallel/proof.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <string>

#include "ridgeline/base/error.h"
#include "support.h"

namespace ridgeline::parallel {
namespace {

RunShape run_of_four() {
  RunShape run;
  run.config = model::with_usual_sizes({.layers = 2, .width = 48, .heads = 4, .vocab = 331, .context = 32});
  run.batch = {.batch = 3, .sequence = 17, .dtype = DType::f32, .head_chunk = 20, .team_size = 1};
  run.evaluation_batch = run.batch;
  run.sharding = {.level = Shard::parameters, .mesh = comm::Mesh::of_data(4), .micro_batches = 2};
  return run;
}

// The refusal; "" where there is none.
std::string refusal(const std::function<void(std::vector<Program>&, Inventory&)>& change) {
  const RunShape run = run_of_four();
  std::vector<Program> list = programs(run);
  Inventory inventory = make_inventory(run, model::declare(run.config), list);
  change(list, inventory);
  try {
    prove(run, list, inventory);
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

TEST(proof, counts_what_it_has_shown) {
  const RunShape run = run_of_four();
  const std::vector<Program> list = programs(run);
  const Inventory inventory = make_inventory(run, model::declare(run.config), list);
  const Proof proof = prove(run, list, inventory);
  EXPECT_EQ(proof.operations, static_cast<int64_t>(list[0].ops.size() + list[1].ops.size()));
  EXPECT_EQ(proof.buffers, static_cast<int64_t>(inventory.buffers.size()));
}

TEST(proof, refuses_a_wrong_program_and_names_it_and_the_operation) {
  // Of evaluation: every program of a run is proved.
  const std::string text = refusal([](std::vector<Program>& list, Inventory&) {
    for (Op& op : list[1].ops) {
      if (op.kind == OpKind::forward && op.index == 1) op.after.clear();
    }
  });
  EXPECT_NE(text.find("the program 'evaluate' is wrong: rank 0: 'forward block 1 micro 0' needs weights of segment"),
            std::string::npos)
      << text;
}

TEST(proof, refuses_a_wrong_layout_and_names_buffers_and_operations) {
  const std::string text = refusal([](std::vector<Program>&, Inventory& inventory) {
    const Buffer& embedding = *inventory.find(BufferKind::activation, -1, 0, 0);
    const auto other = std::find_if(inventory.buffers.begin(), inventory.buffers.end(), [](const Buffer& buffer) {
      return buffer.kind == BufferKind::activation && buffer.index == 0 && buffer.program == 0;
    });
    other->offset = embedding.offset;
  });
  EXPECT_NE(text.find("'output of embedding' (from 'forward embedding micro 0' to 'backward block 0 micro 0') and "
                      "'output of block 0' (from 'forward block 0 micro 0' to 'backward block 1 micro 0')"),
            std::string::npos)
      << text;
}

}  // namespace
}  // namespace ridgeline::parallel

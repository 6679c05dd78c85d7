#include "ridgeline/parallel/proof.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <string>

#include "ridgeline/base/error.h"
#include "ridgeline/parallel/simulator.h"

namespace ridgeline::parallel {
namespace {

void refuse_if(const std::vector<std::string>& wrong, std::string_view what) {
  if (wrong.empty()) return;
  constexpr size_t kShown = 5;
  const size_t shown = std::min(kShown, wrong.size());
  std::string text =
      fmt::format("{}: {}", what, fmt::join(wrong.begin(), wrong.begin() + static_cast<int>(shown), "; "));
  if (wrong.size() > shown) text += fmt::format("; and {} more", wrong.size() - shown);
  throw Error(text,
              "This is a defect of Ridgeline, found before it could compute anything wrong: please report it with "
              "the configuration. Another parallel.shard, parallel.prefetch or train.global_batch may avoid it.");
}

}  // namespace

Proof prove(const RunShape& run, const std::vector<Program>& programs, const Inventory& inventory) {
  const auto begin = std::chrono::steady_clock::now();
  Proof proof;
  for (const Program& program : programs) {
    proof.operations += static_cast<int64_t>(program.ops.size());
    refuse_if(simulate(run.config, run.sharding, program), fmt::format("the program '{}' is wrong", program.name));
  }
  proof.buffers = static_cast<int64_t>(inventory.buffers.size());
  refuse_if(overlapping(inventory, programs), "buffers share memory that the programs do not keep apart");
  proof.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return proof;
}

}  // namespace ridgeline::parallel

// Which layouts of a run fit into the memory of its ranks, and which of them a first model of time (plan/step_time.h)
// puts first. Pure.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "ridgeline/device/machine.h"
#include "ridgeline/plan/step_time.h"
#include "ridgeline/train/config.h"

namespace ridgeline::train {

struct SearchSpace {
  int ranks = 1;
  int64_t memory = 0;  // of each rank's device
  plan::Cluster cluster;
  int most = 20;  // layouts that are listed
};

// A configuration that runs on so many ranks, checked.
struct Layout {
  Config config;
  int data_ranks = 1;
  int64_t bytes = 0;  // of the rank that takes most
  plan::StepTime time;
  double model_flops = 0;  // of a rank, per second (MFU's)
};

struct LayoutSearch {
  // That fit, fastest first. Of those that differ only in parallel.sequence, parallel.shard and train.recompute the
  // fastest: of equal ones the one with the least of these.
  std::vector<Layout> layouts;
  int64_t combinations = 0;
  std::map<std::string, int64_t, std::less<>> refused;  // how many combinations, by reason
  int64_t slower = 0;  // that differ from one listed in the three alone, or are not faster than the last listed
};

// Tries every parallel.tensor x pipeline x data-parallel ranks that make `ranks`, with parallel.sequence, every level
// of parallel.shard over all data-parallel ranks, every train.recompute of every block, every train.micro_batch up to
// 64 that divides, and parallel.schedule 1f1b, zero-bubble and interleaved with some numbers of chunks (gpipe takes
// more memory for the same time). The rest is `config`'s, global batch and ramp included; it passes check() on some
// number of ranks. Memory is the inventory's of the ranks that may be the fullest, and asked for only where a lower
// bound of it and of the time do not rule a layout out. `listed`: called with the number of layouts that are.
LayoutSearch search_layouts(const Config& config, const SearchSpace& space, const device::Machine& machine,
                            const std::function<void(int64_t)>& listed = {});

// No more than what the fullest rank of a run takes: its part of the model's matrices with gradients and optimizer, and
// what blocks keep of the micro-batches that are alive at once.
int64_t least_bytes(const parallel::RunShape& run);

// The configuration as a file that reads back, behind lines of comment; it begins with kLayoutMark.
inline constexpr std::string_view kLayoutMark = "# Written by `ridgeline plan --search`";
std::string layout_file(const Layout& layout, const SearchSpace& space);

}  // namespace ridgeline::train

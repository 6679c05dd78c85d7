// Proves a lowered step before it runs: every value is there when it is used (weights gathered, transfers waited for),
// every gradient is complete and accumulated in ascending micro-batch order, every unit is reduced over all ranks and
// updated once, and the ranks cannot wait for each other for ever, even when all streams of a rank are collapsed into
// one (inline mode).
#pragma once

#include <span>
#include <string>
#include <vector>

#include "ridgeline/parallel/program.h"

namespace ridgeline::parallel {

// Runs the programs of all ranks of one data-parallel group on an abstract machine. Returns what is wrong, empty when
// nothing is. Each text names rank, operation and the missing value.
std::vector<std::string> simulate(const model::TransformerConfig& config, const Sharding& sharding,
                                  std::span<const Program> ranks);

}  // namespace ridgeline::parallel

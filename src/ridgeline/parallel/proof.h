// What every start shows before it takes memory: the programs of the run are right on every rank
// (parallel/simulator.h), and no two buffers share bytes that the programs do not keep apart (parallel/inventory.h).
#pragma once

#include <cstdint>
#include <vector>

#include "ridgeline/parallel/inventory.h"

namespace ridgeline::parallel {

struct Proof {
  int64_t operations = 0, buffers = 0;
  double seconds = 0;
};

// Error, naming operations and buffers, when something is wrong: a defect of ours, that must not train.
Proof prove(const RunShape& run, const std::vector<Program>& programs, const Inventory& inventory);
// Its second half alone, on another rank of the same run: the first has shown its program right, too.
void prove_layout(const std::vector<Program>& programs, const Inventory& inventory);

}  // namespace ridgeline::parallel

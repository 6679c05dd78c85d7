// Collectives between the ranks of one host beside the memory traffic that they cannot avoid.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/report.h"

namespace ridgeline::bench {

// Rows for all_reduce, reduce_scatter and all_gather of `bytes` of f32 on `ranks` ranks with one thread each: on this
// process's world of processes when there is one, else on threads. Only rank 0's process returns rows. Error when a
// rank's share is not one f32.
std::vector<Row> comm_rows(int ranks, int64_t bytes, int rounds);

}  // namespace ridgeline::bench

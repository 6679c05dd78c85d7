// Every operator on the shapes of GPT-2 124M (B = 4, T = 1024) beside the floor of its own work.
#pragma once

#include <string>
#include <vector>

#include "bench/report.h"

namespace ridgeline::bench {

// Operators whose name contains `filter`; median of `rounds` rounds through the whole list. Error when there is none.
std::vector<Row> op_rows(int threads, int rounds, const std::string& filter);

}  // namespace ridgeline::bench

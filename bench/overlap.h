// Whether communication is hidden behind computation: steps on a pretended slow link (comm::Link) beside the same steps
// without one.
#pragma once

#include <string>
#include <vector>

#include "bench/contender.h"
#include "bench/report.h"

namespace ridgeline::bench {

struct OverlapOptions {
  // A model whose weight lies in its blocks, on 2 ranks of one thread each.
  int64_t layers = 12, width = 384, vocab = 1024, sequence = 128;
  int ranks = 2;
  // Of one sequence, each reduced as soon as it is through. With one, level `none` cannot hide 0.8: nothing is there to
  // be sent before backward, which is two thirds of the step.
  int micro_batches = 4;
  int prefetch = 6;
  double share = 0.8;  // of the step's computation: the time of all transfers of a step on an idle link
  int64_t link_nanoseconds = 100'000;
  std::string levels = "none,optimizer,gradients,parameters";
  std::string program;  // this executable
  RaceOptions race;
};

// Per level, with overlap and with every transfer waited for where it starts: seconds of a step over those of level
// `none` without a link, round by round. The floor is 1: all communication hidden. How long
// the transfers really take of what the race found the computation to take stands beside it.
std::vector<Row> overlap_rows(const OverlapOptions& options);

}  // namespace ridgeline::bench

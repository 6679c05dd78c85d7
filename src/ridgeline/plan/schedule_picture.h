// A pipeline schedule as people look at it: a row per stage, time from left to right.
#pragma once

#include <span>
#include <string>

#include "ridgeline/parallel/schedule.h"

namespace ridgeline::plan {

// For a terminal of `width` columns. A title, a line per stage, a legend:
//
//   1f1b: 2 stages, 3 micro-batches, 1 chunk per stage, bubble 25.0 %
//   stage 0  F0F1....B0bbF2B1bb..B2bb
//   stage 1  ..F0B0bbF1B1bbF2B2bb....
//   F forward  B backward  . idle
//
// A box begins with the letter of its work and the micro-batch's number where that fits; the letter in lower case fills
// it. Where the shortest box gets no column of its own, a column shows the work that takes most of its time, and
// nothing of single micro-batches. `costs` as in parallel::timeline.
std::string schedule_text(const parallel::PipelineShape& shape, std::span<const parallel::Cost> costs, int width);

// The same as an SVG document that needs nothing else. Later chunks of a stage are paler; at the right of a row, how
// many pairs of virtual stage and micro-batch are alive at most. Where boxes are too narrow they have no numbers.
std::string schedule_svg(const parallel::PipelineShape& shape, std::span<const parallel::Cost> costs);

}  // namespace ridgeline::plan

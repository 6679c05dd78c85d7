// What the tests of this room share.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "ridgeline/base/words.h"
#include "ridgeline/parallel/inventory.h"
#include "ridgeline/parallel/program.h"

namespace ridgeline::parallel {

inline model::TransformerConfig small() {
  return model::with_usual_sizes({.layers = 3, .width = 8, .heads = 2, .vocab = 17, .context = 16});
}

// A step and an evaluation.
inline std::vector<Program> programs(const RunShape& run) {
  return {lower(run.config, schedule(1, run.sharding.micro_batches)[0], run.sharding),
          evaluation(run.config, 1, run.sharding)};
}

inline std::string describe(const PipelineShape& shape) {
  return fmt::format("{}, {} stages, {} micro-batches, {} chunks", word_of(shape.kind), shape.stages,
                     shape.micro_batches, shape.chunks);
}

// Of every kind on one to eight stages.
inline std::vector<PipelineShape> every_shape() {
  std::vector<PipelineShape> list;
  for (const ScheduleKind kind :
       {ScheduleKind::gpipe, ScheduleKind::one_f_one_b, ScheduleKind::interleaved, ScheduleKind::zero_bubble}) {
    for (int stages = 1; stages <= 8; ++stages) {
      for (int micro_batches = 1; micro_batches <= 16; ++micro_batches) {
        for (int chunks = 1; chunks <= 4; ++chunks) {
          const PipelineShape shape{kind, stages, micro_batches, chunks};
          if (!refusal(shape)) list.push_back(shape);
        }
      }
    }
  }
  return list;
}
// Pairs of a virtual stage and a micro-batch that a stage keeps at the most, as the table of schedule.h says.
inline int most_alive(const PipelineShape& shape, int stage) {
  const int p = shape.stages, m = shape.micro_batches, v = shape.chunks;
  if (v > 1) return std::min(v * m, 2 * (p - 1 - stage) + (v - 1) * p + 1);
  if (p > 1 && shape.kind == ScheduleKind::gpipe) return m;
  if (p > 1 && shape.kind == ScheduleKind::zero_bubble) return std::min(m, p);
  return std::min(m, p - stage);
}

}  // namespace ridgeline::parallel

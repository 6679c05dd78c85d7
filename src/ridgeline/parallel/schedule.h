// The order of a pipeline stage's work inside one step, before sharding is known.
#pragma once

#include <vector>

namespace ridgeline::parallel {

enum class Work { forward, loss, backward };

struct ScheduleEntry {
  Work work;
  int micro;
  bool operator==(const ScheduleEntry&) const = default;
};

// Work of every stage, in order. Pure. A stage's forward of a micro-batch precedes its backward; the last stage runs
// the loss in between; backwards of one stage are in ascending micro-batch order, so that gradients accumulate in that
// order. With one stage every micro-batch is finished before the next begins: the least memory.
std::vector<std::vector<ScheduleEntry>> schedule(int stages, int micro_batches);

}  // namespace ridgeline::parallel

#include "ridgeline/parallel/schedule.h"

#include "ridgeline/base/error.h"

namespace ridgeline::parallel {

std::vector<std::vector<ScheduleEntry>> schedule(int stages, int micro_batches) {
  RL_CHECK(stages, ==, 1);
  std::vector<ScheduleEntry> entries;
  entries.reserve(static_cast<size_t>(micro_batches) * 3);
  for (int micro = 0; micro < micro_batches; ++micro) {
    entries.push_back({Work::forward, micro});
    entries.push_back({Work::loss, micro});
    entries.push_back({Work::backward, micro});
  }
  return {entries};
}

}  // namespace ridgeline::parallel

#include "ridgeline/plan/traffic.h"

#include "ridgeline/parallel/traffic.h"

namespace ridgeline::plan {

TrafficByPurpose traffic_by_purpose(const parallel::Program& program, const std::vector<model::Segment>& segments,
                                    const parallel::Sharding& sharding) {
  TrafficByPurpose traffic;
  for (const parallel::Op& op : program.ops) {
    const int64_t bytes = parallel::traffic_of(op, segments, sharding).bytes;
    if (op.kind == parallel::OpKind::gather) traffic.gathers += bytes;
    if (op.kind == parallel::OpKind::reduce || op.kind == parallel::OpKind::replicate) traffic.reductions += bytes;
  }
  return traffic;
}

}  // namespace ridgeline::plan

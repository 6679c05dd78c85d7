#include "ridgeline/plan/traffic.h"

#include "ridgeline/parallel/inventory.h"

namespace ridgeline::plan {

Traffic traffic_of(const parallel::Program& program, const std::vector<model::Unit>& units,
                   const parallel::Sharding& sharding) {
  const int64_t shards = sharding.shards(), replicas = sharding.replicas();
  // Of `elements` over `ranks`: what a reduce-scatter or an all-gather sends.
  const auto once = [](int64_t elements, int64_t ranks, DType dtype) {
    return elements / ranks * (ranks - 1) * size_of(dtype);
  };
  Traffic traffic;
  for (const parallel::Op& op : program.ops) {
    if (op.kind != parallel::OpKind::gather && op.kind != parallel::OpKind::reduce &&
        op.kind != parallel::OpKind::replicate) {
      continue;
    }
    const parallel::Extent extent = parallel::extent_of(units[static_cast<size_t>(op.index)], sharding);
    if (op.kind == parallel::OpKind::gather) {
      traffic.gathers += once(extent.whole, shards, sharding.weights);
    } else if (op.kind == parallel::OpKind::replicate) {
      traffic.reductions += 2 * once(extent.part, replicas, sharding.wire);
    } else if (shards > 1) {
      traffic.reductions += once(extent.whole, shards, sharding.wire);
    } else {
      traffic.reductions += 2 * once(extent.whole, replicas, sharding.wire);
    }
  }
  return traffic;
}

}  // namespace ridgeline::plan

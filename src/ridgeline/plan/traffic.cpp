#include "ridgeline/plan/traffic.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <vector>

#include "ridgeline/comm/communicator.h"
#include "ridgeline/model/block.h"
#include "ridgeline/model/transformer.h"
#include "ridgeline/parallel/traffic.h"

namespace ridgeline::plan {
namespace {

using parallel::Op;
using parallel::OpKind;

// What slices share in the operations of a program.
class SharedBySlices {
 public:
  SharedBySlices(const parallel::Program& program, const parallel::RunShape& run) : program_(program), run_(run) {}

  int64_t bytes(const Op& op) {
    if (run_.sharding.slices() == 1) return 0;
    const auto recompute = run_.recompute_of(op.index);
    const auto [found, is_new] = known_.try_emplace({op.kind, op.index < 0, recompute}, 0);
    if (is_new) found->second = slice_bytes(run_.local(program_), of(op));
    return found->second;
  }

 private:
  model::SliceTraffic of(const Op& op) const {
    const model::LocalShape shape =
        run_.local(program_, program_.trains() ? run_.recompute_of(op.index) : model::Recompute::none);
    const bool embedding = op.index < 0;
    switch (op.kind) {
      case OpKind::forward:
        return embedding ? model::embedding_traffic(shape, false) : model::block_traffic(shape, model::Pass::forward);
      case OpKind::backward:
        return embedding ? model::embedding_traffic(shape, true) : model::block_traffic(shape, model::Pass::backward);
      case OpKind::backward_input:
        return model::block_traffic(shape, model::Pass::backward_input);
      case OpKind::backward_weight:
        return model::block_traffic(shape, model::Pass::backward_weight);
      case OpKind::loss:
      case OpKind::evaluate:
        return model::loss_traffic(shape, op.kind == OpKind::loss);
      default:
        return {};
    }
  }

  const parallel::Program& program_;
  const parallel::RunShape& run_;
  std::map<std::tuple<OpKind, bool, model::Recompute>, int64_t> known_;
};

}  // namespace

int members_on_node(const comm::Mesh& mesh, comm::AxisSet axes, int node_size) {
  using comm::Axis;
  int stride = 1;  // from a member to the next
  for (const Axis axis : {Axis::tp, Axis::cp, Axis::dp_shard, Axis::dp_replicate, Axis::pp}) {
    if (axes.contains(axis)) break;
    stride *= mesh.size(axis);
  }
  const int members = std::max(1, node_size / stride), size = mesh.size(axes);
  const bool alike = members == 1 || (node_size % stride == 0 && size % members == 0);
  return alike && size > members ? members : 0;
}

int64_t best_sum_group(const parallel::Sharding& sharding, int node_size) {
  for (const comm::AxisSet axes : {sharding.shard_axes(), sharding.replica_axes()}) {
    const int members = members_on_node(sharding.mesh, axes, node_size);
    if (members > 1) return members;
  }
  return 0;
}

int64_t slice_bytes(const model::LocalShape& shape, const model::SliceTraffic& traffic) {
  const int slices = shape.slice.count;
  return comm::all_reduce_traffic(slices, traffic.whole) + comm::part_traffic(slices, slices * traffic.part);
}

int64_t message_bytes(const model::LocalShape& shape) {
  return shape.tokens().count * shape.config.width * size_of(shape.batch.dtype);
}

TrafficByPurpose traffic_by_purpose(const parallel::Program& program, const parallel::RunShape& run) {
  const std::vector<model::Segment> segments = run.segments();
  const int64_t message = message_bytes(run.local(program));
  SharedBySlices shared(program, run);
  TrafficByPurpose traffic;
  for (const Op& op : program.ops) {
    const int64_t bytes = parallel::traffic_of(op, segments, run.sharding, message).bytes;
    switch (op.kind) {
      case OpKind::gather:
        traffic.gathers += bytes;
        break;
      case OpKind::reduce:
      case OpKind::replicate:
        traffic.reductions += bytes;
        break;
      case OpKind::join:
        traffic.slices += bytes;
        break;
      case OpKind::exchange:
      case OpKind::tie:
        traffic.stages += bytes;
        break;
      default:
        traffic.slices += shared.bytes(op);
        break;
    }
  }
  return traffic;
}

}  // namespace ridgeline::plan

#include "ridgeline/parallel/traffic.h"

#include "ridgeline/base/error.h"
#include "ridgeline/comm/communicator.h"
#include "ridgeline/parallel/inventory.h"
#include "ridgeline/parallel/step_scalars.h"

namespace ridgeline::parallel {
namespace {

Traffic all_reduce(int ranks, int64_t bytes) {
  return ranks == 1 ? Traffic{} : Traffic{1, comm::all_reduce_traffic(ranks, bytes)};
}

// A gather or reduction of which each shard keeps its part.
Traffic of_shards(const Sharding& sharding, int64_t bytes) {
  return sharding.shards() == 1 ? Traffic{} : Traffic{1, comm::part_traffic(sharding.shards(), bytes)};
}

}  // namespace

Traffic traffic_of(const Op& op, const std::vector<model::Segment>& segments, const Sharding& sharding,
                   int64_t message_bytes) {
  const auto bytes = [&](int64_t Extent::*elements, DType dtype) {
    return extent_of(segments[static_cast<size_t>(op.index)], sharding).*elements * size_of(dtype);
  };
  switch (op.kind) {
    case OpKind::count:
      return all_reduce(sharding.ranks(), size_of(DType::i64));
    case OpKind::agree:
      return all_reduce(sharding.mesh.world_size(), sizeof(SharedScalars::Sums));
    case OpKind::join:
      return all_reduce(segments[static_cast<size_t>(op.index)].copies, bytes(&Extent::whole, DType::f32));
    case OpKind::tie:
      return all_reduce(2, bytes(&Extent::part, sharding.gradient_dtype()));
    case OpKind::exchange: {
      Traffic traffic;
      for (const Message& message : op.messages) {
        if (message.sends) traffic += {1, message_bytes};
      }
      return traffic;
    }
    case OpKind::gather:
      return of_shards(sharding, bytes(&Extent::whole, sharding.weights));
    case OpKind::reduce:
      return sharding.shards() == 1 ? all_reduce(sharding.ranks(), bytes(&Extent::whole, sharding.wire))
                                    : of_shards(sharding, bytes(&Extent::whole, sharding.wire));
    case OpKind::replicate:
      return all_reduce(sharding.replicas(), bytes(&Extent::part, sharding.wire));
    default:
      RL_REQUIRE(traits_of(op.kind).group == Group::none, "the traffic of '{}' is not known", op.name());
      return {};
  }
}

Traffic traffic_of(const Program& program, const std::vector<model::Segment>& segments, const Sharding& sharding,
                   int64_t message_bytes) {
  Traffic sum;
  for (const Op& op : program.ops) sum += traffic_of(op, segments, sharding, message_bytes);
  return sum;
}

}  // namespace ridgeline::parallel

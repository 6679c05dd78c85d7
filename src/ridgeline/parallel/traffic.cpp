#include "ridgeline/parallel/traffic.h"

#include "ridgeline/base/exact_sum.h"
#include "ridgeline/comm/communicator.h"
#include "ridgeline/parallel/inventory.h"

namespace ridgeline::parallel {
namespace {

Traffic all_reduce(int ranks, int64_t bytes) {
  return ranks == 1 ? Traffic{} : Traffic{1, comm::all_reduce_traffic(ranks, bytes)};
}

}  // namespace

Traffic traffic_of(const Op& op, const std::vector<model::Unit>& units, const Sharding& sharding) {
  const auto extent = [&] { return extent_of(units[static_cast<size_t>(op.index)], sharding); };
  switch (op.kind) {
    case OpKind::count:
      return all_reduce(sharding.ranks, size_of(DType::i64));
    case OpKind::agree:
      // The sums of squares and losses, tokens, stop.
      return all_reduce(sharding.ranks, 2 * static_cast<int64_t>(sizeof(ExactSum)) + 2 * size_of(DType::i64));
    case OpKind::gather:
      if (sharding.shards() == 1) return {};
      return {1, comm::part_traffic(sharding.shards(), extent().whole * size_of(sharding.weights))};
    case OpKind::reduce:
      if (sharding.shards() == 1) return all_reduce(sharding.ranks, extent().whole * size_of(sharding.wire));
      return {1, comm::part_traffic(sharding.shards(), extent().whole * size_of(sharding.wire))};
    case OpKind::replicate:
      return all_reduce(sharding.replicas(), extent().part * size_of(sharding.wire));
    case OpKind::forward:
    case OpKind::loss:
    case OpKind::evaluate:
    case OpKind::clear:
    case OpKind::backward:
    case OpKind::pack:
    case OpKind::accumulate:
    case OpKind::measure:
    case OpKind::update:
      return {};
  }
  return {};
}

Traffic traffic_of(const Program& program, const std::vector<model::Unit>& units, const Sharding& sharding) {
  Traffic sum;
  for (const Op& op : program.ops) sum += traffic_of(op, units, sharding);
  return sum;
}

}  // namespace ridgeline::parallel

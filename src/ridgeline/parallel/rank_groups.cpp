#include "ridgeline/parallel/rank_groups.h"

namespace ridgeline::parallel {

RankGroups::RankGroups(comm::World& world, const RunShape& run) : ranks(world.communicator("all ranks")) {
  const comm::Placement place = run.place();
  const auto members = [&](Group group) { return place.group(axes_of(group, run.sharding)); };
  gather = world.communicator(members(Group::shards), "shards, gather");
  reduce = world.communicator(members(Group::shards), "shards, reduce");
  replicas = world.communicator(members(Group::replicas), "replicas, reduce");
  if (place.size(comm::kGradientAxes) != world.size()) data_ = world.communicator(members(Group::data), "data, reduce");
}

}  // namespace ridgeline::parallel

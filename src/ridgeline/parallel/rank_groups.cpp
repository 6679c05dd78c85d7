#include "ridgeline/parallel/rank_groups.h"

namespace ridgeline::parallel {

RankGroups::RankGroups(comm::World& world, const RunShape& run) : ranks(world.communicator("all ranks")) {
  const comm::Placement place = run.place();
  const auto members = [&](Group group) { return place.group(axes_of(group, run.sharding)); };
  gather = world.communicator(members(Group::shards), "shards, gather");
  reduce = world.communicator(members(Group::shards), "shards, reduce");
  replicas = world.communicator(members(Group::replicas), "replicas, reduce");
  if (place.size(comm::kGradientAxes) != world.size()) data_ = world.communicator(members(Group::data), "data, reduce");
  const std::vector<int> slices = members(Group::slices);
  for (const model::Segment& segment : run.segments()) {
    const int copies = segment.partial ? segment.copies : 1;
    if (copies == 1 || slices_.contains(copies)) continue;
    const auto first = slices.begin() + place.tensor_rank() / copies * copies;
    slices_[copies] = world.communicator(std::vector<int>(first, first + copies), "copies of a segment");
  }
  const std::vector<int> stages = members(Group::stages);
  if (stages.size() > 1) stages_ = world.communicator(stages, "stages, exchange");
  const bool is_end = run.rank == stages.front() || run.rank == stages.back();
  if (is_end && run.sharding.ties_stages(run.config))
    ends_ = world.communicator(std::vector<int>{stages.front(), stages.back()}, "first and last stage");
  const int all = static_cast<int>(slices.size());
  if (all > 1 && !slices_.contains(all)) slices_[all] = world.communicator(slices, "slices");
}

}  // namespace ridgeline::parallel

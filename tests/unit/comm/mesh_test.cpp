#include "ridgeline/comm/mesh.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "ridgeline/base/error.h"

namespace ridgeline::comm {
namespace {

const MeshSizes kSizes{.pp = 2, .dp_replicate = 3, .dp_shard = 2, .cp = 2, .tp = 4};

TEST(Mesh, RanksAndPlacesAreInverse) {
  const Mesh mesh(kSizes);
  ASSERT_EQ(mesh.world_size(), 96);
  for (int rank = 0; rank < mesh.world_size(); ++rank) EXPECT_EQ(mesh.rank(mesh.coordinates(rank)), rank);
}

TEST(Mesh, TensorParallelRanksAreNeighboursAndStagesFarApart) {
  const Mesh mesh(kSizes);
  EXPECT_EQ(mesh.group(5, {Axis::tp}), (std::vector<int>{4, 5, 6, 7}));
  EXPECT_EQ(mesh.group(5, {Axis::pp}), (std::vector<int>{5, 53}));
  EXPECT_EQ(mesh.group(1, {Axis::cp}), (std::vector<int>{1, 5}));
  EXPECT_EQ(mesh.group(1, {Axis::dp_shard}), (std::vector<int>{1, 9}));
  EXPECT_EQ(mesh.group(1, {Axis::dp_replicate}), (std::vector<int>{1, 17, 33}));
  EXPECT_EQ(mesh.group(1, kDataAxes), (std::vector<int>{1, 9, 17, 25, 33, 41}));
}

TEST(Mesh, GroupsPartitionTheWorldAndAreAscending) {
  const Mesh mesh(kSizes);
  for (const AxisSet axes :
       {AxisSet{Axis::tp}, AxisSet{Axis::pp}, kDataAxes, kGradientAxes, kShardAxes, kAllAxes, AxisSet{}}) {
    std::set<int> seen;
    for (const std::vector<int>& group : mesh.groups(axes)) {
      EXPECT_EQ(static_cast<int>(group.size()), mesh.size(axes));
      EXPECT_TRUE(std::is_sorted(group.begin(), group.end()));
      for (size_t i = 0; i < group.size(); ++i) {
        EXPECT_TRUE(seen.insert(group[i]).second);
        EXPECT_EQ(mesh.group(group[i], axes), group);
        EXPECT_EQ(mesh.index_in_group(group[i], axes), static_cast<int>(i));
      }
    }
    EXPECT_EQ(static_cast<int>(seen.size()), mesh.world_size());
  }
}

TEST(Mesh, DataParallelDegreeFollowsFromTheWorld) {
  const Mesh mesh = Mesh::of_world(24, 2, 3, 1, 2);
  EXPECT_EQ(mesh.size(Axis::dp_replicate), 2);
  EXPECT_EQ(mesh.size(Axis::dp_shard), 2);
  EXPECT_EQ(Mesh::of_world(24, 2, 3, 1, 0).size(Axis::dp_shard), 4);
  EXPECT_EQ(Mesh::of_world(4, 1, 1, 1, 0).describe(), "pp 1 × dp_replicate 1 × dp_shard 4 × cp 1 × tp 1");
}

TEST(Placement, NumbersARankAlongEveryAxis) {
  const Mesh mesh(kSizes);
  std::set<std::vector<int>> places;
  for (int rank = 0; rank < mesh.world_size(); ++rank) {
    const Placement place(mesh, rank);
    EXPECT_EQ(place.rank(), rank);
    EXPECT_EQ(place.data_ranks(), mesh.size(kDataAxes));
    EXPECT_EQ(place.data_rank(), mesh.index_in_group(rank, kDataAxes));
    places.insert({place.data_rank(), place.index({Axis::cp}), place.stage(), place.tensor_rank()});
    for (const AxisSet axes : {AxisSet{Axis::tp}, kDataAxes, kShardAxes, kAllAxes, AxisSet{}}) {
      EXPECT_EQ(place.group(axes)[static_cast<size_t>(place.index(axes))], rank);
      EXPECT_EQ(place.first(axes), place.group(axes).front());
    }
  }
  EXPECT_EQ(static_cast<int>(places.size()), mesh.world_size());
  EXPECT_EQ(Placement().mesh().world_size(), 1);
}

TEST(Placement, RanksOfAStageAndTensorRankAreAlike) {
  const Mesh mesh = Mesh::of_world(24, 2, 3, 1, 2);
  const std::vector<AlikeRanks> all = alike_ranks(mesh);
  ASSERT_EQ(all.size(), 6U);
  int ranks = 0;
  std::set<std::pair<int, int>> seen;
  for (const AlikeRanks& alike : all) {
    EXPECT_EQ(alike.first.data_rank(), 0);
    EXPECT_EQ(alike.ranks, 4);
    seen.emplace(alike.first.stage(), alike.first.tensor_rank());
    ranks += alike.ranks;
  }
  EXPECT_EQ(seen.size(), 6U);
  EXPECT_EQ(ranks, mesh.world_size());
  EXPECT_EQ(alike_ranks(Mesh::of_data(1 << 20)).size(), 1U);
}

TEST(Mesh, RefusesWhatDoesNotDivideWithTheNearestThatDoes) {
  try {
    Mesh::of_world(10, 2, 2, 1, 0);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("(8)"), std::string::npos) << error.what();
  }
  EXPECT_THROW(Mesh::of_world(8, 1, 1, 1, 3), Error);
  EXPECT_THROW(Mesh(MeshSizes{.tp = 0}), Error);
}

}  // namespace
}  // namespace ridgeline::comm

#include "ridgeline/comm/mesh.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "ridgeline/base/error.h"

namespace ridgeline::comm {
namespace {
constexpr std::array<Axis, kAxes> kAxisOrder{Axis::pp, Axis::dp_replicate, Axis::dp_shard, Axis::cp, Axis::tp};
}  // namespace

std::string_view name_of(Axis axis) {
  switch (axis) {
    case Axis::pp:
      return "pp";
    case Axis::dp_replicate:
      return "dp_replicate";
    case Axis::dp_shard:
      return "dp_shard";
    case Axis::cp:
      return "cp";
    case Axis::tp:
      return "tp";
  }
  return "?";
}

Mesh::Mesh(const MeshSizes& sizes) : sizes_{{sizes.pp, sizes.dp_replicate, sizes.dp_shard, sizes.cp, sizes.tp}} {
  int64_t product = 1;
  for (const Axis axis : kAxisOrder) {
    if (sizes_[axis] < 1) {
      throw Error(fmt::format("mesh axis {} has size {}", name_of(axis), sizes_[axis]), "Every axis is at least 1.");
    }
    product *= sizes_[axis];
    if (product > std::numeric_limits<int>::max()) throw Error("mesh has more ranks than can be numbered");
  }
  world_size_ = static_cast<int>(product);
}

Mesh Mesh::of_world(int world, int pp, int tp, int cp, int shard_group) {
  const Mesh model(MeshSizes{.pp = pp, .cp = cp, .tp = tp});  // checks the three
  const int per_copy = model.world_size();
  if (world < 1 || world % per_copy != 0) {
    throw Error(
        fmt::format("{} ranks cannot be cut into pipeline {} × context {} × tensor {} = {} ranks per model copy", world,
                    pp, cp, tp, per_copy),
        fmt::format("Use a multiple of {} ranks ({}), or lower one of the three.", per_copy,
                    std::max(per_copy, world / per_copy * per_copy)));
  }
  const int data = world / per_copy;
  const int shard = shard_group == 0 ? data : shard_group;
  if (shard < 1 || data % shard != 0) {
    int near = 1;
    for (int divisor = 1; divisor <= data; ++divisor) {
      if (data % divisor == 0 && divisor <= shard) near = divisor;
    }
    throw Error(fmt::format("a shard group of {} does not divide the {} data-parallel ranks", shard_group, data),
                fmt::format("Use {} (or 0 for all of them).", near));
  }
  return Mesh(MeshSizes{.pp = pp, .dp_replicate = data / shard, .dp_shard = shard, .cp = cp, .tp = tp});
}

int Mesh::size(AxisSet axes) const {
  int product = 1;
  for (const Axis axis : kAxisOrder) {
    if (axes.contains(axis)) product *= sizes_[axis];
  }
  return product;
}

int Mesh::rank(const Coordinates& place) const {
  int rank = 0;
  for (const Axis axis : kAxisOrder) {
    RL_REQUIRE(place[axis] >= 0 && place[axis] < sizes_[axis], "{} = {} outside 0 … {}", name_of(axis), place[axis],
               sizes_[axis] - 1);
    rank = rank * sizes_[axis] + place[axis];
  }
  return rank;
}

Coordinates Mesh::coordinates(int rank) const {
  RL_REQUIRE(rank >= 0 && rank < world_size_, "rank {} of {}", rank, world_size_);
  Coordinates place;
  for (auto axis = kAxisOrder.rbegin(); axis != kAxisOrder.rend(); ++axis) {
    place[*axis] = rank % sizes_[*axis];
    rank /= sizes_[*axis];
  }
  return place;
}

int Mesh::first_of_group(int rank, AxisSet axes) const {
  Coordinates place = coordinates(rank);
  for (const Axis axis : kAxisOrder) {
    if (axes.contains(axis)) place[axis] = 0;
  }
  return this->rank(place);
}

std::vector<int> Mesh::group(int rank, AxisSet axes) const {
  Coordinates place = coordinates(first_of_group(rank, axes));
  std::vector<int> members;
  members.reserve(static_cast<size_t>(size(axes)));
  // Counts through the chosen axes like an odometer, fastest last: ranks come out ascending.
  for (;;) {
    members.push_back(this->rank(place));
    int digit = kAxes - 1;
    for (; digit >= 0; --digit) {
      const Axis axis = kAxisOrder[static_cast<size_t>(digit)];
      if (!axes.contains(axis)) continue;
      if (++place[axis] < sizes_[axis]) break;
      place[axis] = 0;
    }
    if (digit < 0) return members;
  }
}

int Mesh::index_in_group(int rank, AxisSet axes) const {
  const Coordinates place = coordinates(rank);
  int index = 0;
  for (const Axis axis : kAxisOrder) {
    if (axes.contains(axis)) index = index * sizes_[axis] + place[axis];
  }
  return index;
}

std::vector<std::vector<int>> Mesh::groups(AxisSet axes) const {
  std::vector<std::vector<int>> all;
  for (int rank = 0; rank < world_size_; ++rank) {
    std::vector<int> members = group(rank, axes);
    if (members.front() == rank) all.push_back(std::move(members));
  }
  return all;
}

std::string Mesh::describe() const {
  std::string text;
  for (const Axis axis : kAxisOrder) {
    text += fmt::format("{}{} {}", text.empty() ? "" : " × ", name_of(axis), sizes_[axis]);
  }
  return text;
}

std::vector<AlikeRanks> alike_ranks(const Mesh& mesh) {
  std::vector<AlikeRanks> all;
  for (int pp = 0; pp < mesh.size(Axis::pp); ++pp) {
    for (int tp = 0; tp < mesh.size(Axis::tp); ++tp) {
      Coordinates first;
      first[Axis::pp] = pp;
      first[Axis::tp] = tp;
      all.push_back({Placement(mesh, mesh.rank(first)), mesh.size(kGradientAxes)});
    }
  }
  return all;
}

}  // namespace ridgeline::comm

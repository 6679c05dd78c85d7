// The mesh of a run: pp × dp_replicate × dp_shard × cp × tp ranks, tensor parallelism fastest. Pure: numbers in,
// numbers out, no communication; the planner calls the same functions as training.
//
//   rank = (((pp · DR + dp_replicate) · DS + dp_shard) · CP + cp) · TP + tp
//
// so that tp ranks are neighbours (they talk most, and usually share a host) and pipeline stages lie farthest apart.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace ridgeline::comm {

// Slowest first, the order of the formula above.
enum class Axis { pp, dp_replicate, dp_shard, cp, tp };
constexpr int kAxes = 5;
std::string_view name_of(Axis axis);

// A set of axes. `data_axes` is every axis over which gradients are partial sums of one step.
class AxisSet {
 public:
  constexpr AxisSet(std::initializer_list<Axis> axes) {
    for (const Axis axis : axes) bits_ |= 1U << static_cast<unsigned>(axis);
  }
  constexpr bool contains(Axis axis) const { return (bits_ >> static_cast<unsigned>(axis) & 1U) != 0; }
  friend constexpr bool operator==(AxisSet, AxisSet) = default;

 private:
  uint32_t bits_ = 0;
};
inline constexpr AxisSet kDataAxes{Axis::dp_replicate, Axis::dp_shard};
inline constexpr AxisSet kGradientAxes{Axis::dp_replicate, Axis::dp_shard, Axis::cp};
inline constexpr AxisSet kShardAxes{Axis::dp_shard, Axis::cp};
inline constexpr AxisSet kAllAxes{Axis::pp, Axis::dp_replicate, Axis::dp_shard, Axis::cp, Axis::tp};

// One number per axis: sizes of a mesh, or the place of a rank in it.
struct Coordinates {
  std::array<int, kAxes> at{};

  int& operator[](Axis axis) { return at[static_cast<size_t>(axis)]; }
  int operator[](Axis axis) const { return at[static_cast<size_t>(axis)]; }
  friend bool operator==(const Coordinates&, const Coordinates&) = default;
};

struct MeshSizes {
  int pp = 1, dp_replicate = 1, dp_shard = 1, cp = 1, tp = 1;
};

class Mesh {
 public:
  Mesh() : Mesh(MeshSizes{}) {}
  // Throws Error unless every size is >= 1 and their product fits an int.
  explicit Mesh(const MeshSizes& sizes);

  // The mesh of `world` ranks in which the data-parallel degree follows from the others: dp_shard = shard_group ranks
  // share one copy of the sharded state (0: all of them), dp_replicate is the rest. Throws Error that names the nearest
  // world size that works when `world` does not divide.
  static Mesh of_world(int world, int pp, int tp, int cp, int shard_group);
  // Ranks that share nothing but the data.
  static Mesh of_data(int ranks, int shard_group = 0) { return of_world(ranks, 1, 1, 1, shard_group); }

  int world_size() const { return world_size_; }
  int size(Axis axis) const { return sizes_[axis]; }
  int size(AxisSet axes) const;  // product over `axes`

  int rank(const Coordinates& place) const;
  Coordinates coordinates(int rank) const;

  // World ranks that differ from `rank` only along `axes`, ascending; `rank` is one of them. This is the list that
  // World::communicator takes.
  std::vector<int> group(int rank, AxisSet axes) const;
  int first_of_group(int rank, AxisSet axes) const;
  // Index of `rank` in group(rank, axes): the mixed-radix number of its coordinates along `axes`.
  int index_in_group(int rank, AxisSet axes) const;
  // All groups of `axes`: a partition of 0 … world_size-1, ordered by first member.
  std::vector<std::vector<int>> groups(AxisSet axes) const;

  // "pp 1 × dp_replicate 1 × dp_shard 4 × cp 1 × tp 2"
  std::string describe() const;

  friend bool operator==(const Mesh&, const Mesh&) = default;

 private:
  Coordinates sizes_;
  int world_size_ = 1;
};

// Where a rank stands in the mesh of its run. What a rank computes, keeps and sends follows from its placement and the
// configuration, never from its number alone.
class Placement {
 public:
  Placement() : Placement(Mesh(), 0) {}  // alone
  Placement(const Mesh& mesh, int rank) : mesh_(mesh), at_(mesh.coordinates(rank)) {}

  const Mesh& mesh() const { return mesh_; }
  int rank() const { return mesh_.rank(at_); }
  // This rank's number among those that differ from it only along `axes`, and how many they are.
  int index(AxisSet axes) const { return mesh_.index_in_group(rank(), axes); }
  int size(AxisSet axes) const { return mesh_.size(axes); }
  std::vector<int> group(AxisSet axes) const { return mesh_.group(rank(), axes); }
  // The first rank of that group: a name for it.
  int first(AxisSet axes) const { return mesh_.first_of_group(rank(), axes); }

  // Ranks that take different samples of a batch.
  int data_rank() const { return index(kDataAxes); }
  int data_ranks() const { return size(kDataAxes); }
  int stage() const { return at_[Axis::pp]; }
  int tensor_rank() const { return at_[Axis::tp]; }

  friend bool operator==(const Placement&, const Placement&) = default;

 private:
  Mesh mesh_;
  Coordinates at_;
};

// Ranks that differ only in their samples and their part of what is sharded do the same work and take the same memory.
struct AlikeRanks {
  Placement first;
  int ranks = 0;
};
// All of a mesh, by first rank: one for each stage and tensor rank.
std::vector<AlikeRanks> alike_ranks(const Mesh& mesh);

}  // namespace ridgeline::comm

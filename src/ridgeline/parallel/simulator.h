// Proves programs before they run, from what their operations read and write (parallel/dataflow.h) alone: every value
// is written before it is read, and waited for where it was written on another stream; added to in ascending order of
// micro-batches, by each operation once, and no more after somebody has read it; used where it must be; and the ranks
// cannot wait for each other for ever, even when all streams of a rank are collapsed into one (inline mode) and a send
// waits for its receive.
#pragma once

#include <array>
#include <span>
#include <string>
#include <vector>

#include "ridgeline/parallel/program.h"

namespace ridgeline::parallel {

// One rank, and which ranks it meets: those with the same number under a group of `Group` take part in its collectives;
// an exchange is with the rank of the other stage in the same Group::stages.
struct SimulatedRank {
  const Program* program = nullptr;
  int number = -1;  // what messages call it; -1: its place in the list
  std::array<int, kGroups> group{};
  int stage = 0;
};

// Runs the programs of all ranks on an abstract machine. Returns what is wrong, empty when nothing is. Each text names
// rank, operation and value.
std::vector<std::string> simulate(const model::TransformerConfig& config, const Sharding& sharding,
                                  std::span<const SimulatedRank> ranks);
// The same of all ranks of the mesh, in the order of the world.
std::vector<std::string> simulate(const model::TransformerConfig& config, const Sharding& sharding,
                                  std::span<const Program> ranks);
// The same where every rank runs this program: what one rank alone shows holds for all.
std::vector<std::string> simulate(const model::TransformerConfig& config, const Sharding& sharding,
                                  const Program& program);
// What one program shows by itself, whoever it meets: its waits and its values. `rank`: what messages call it.
std::vector<std::string> simulate_alone(const model::TransformerConfig& config, const Sharding& sharding,
                                        const Program& program, int rank);

}  // namespace ridgeline::parallel

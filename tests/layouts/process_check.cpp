// Under a launcher: layouts on processes give the bits of the same layouts on threads.
#include <cstdio>
#include <exception>

#include "layout.h"

namespace {

using namespace ridgeline;
using parallel::ScheduleKind;
using parallel::Shard;

std::vector<layouts::Layout> layouts_of(int ranks) {
  std::vector<layouts::Layout> all;
  for (const Shard level : {Shard::none, Shard::optimizer, Shard::gradients, Shard::parameters}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      layouts::Layout& layout = all.emplace_back();
      layout.precision = dtype;
      layout.family = dtype == DType::f32 ? "gptj" : "gpt2";
      layout.sharding = {.level = level,
                         .mesh = comm::Mesh::of_data(ranks, ranks == 4 && dtype == DType::f32 ? 2 : 0),
                         .reduce = parallel::Reduce::every,
                         .wire = dtype,
                         .micro_batches = 2};
      layout.offload_window = level == Shard::optimizer || level == Shard::parameters ? 1 : 0;
    }
  }
  for (const ScheduleKind kind :
       {ScheduleKind::gpipe, ScheduleKind::one_f_one_b, ScheduleKind::interleaved, ScheduleKind::zero_bubble}) {
    layouts::Layout& layout = all.emplace_back();
    layout.precision = kind == ScheduleKind::gpipe ? DType::bf16 : DType::f32;
    layout.sharding = {.mesh = comm::Mesh::of_world(ranks, 2, ranks / 2, 1, 0),
                       .micro_batches = 4,
                       .pipeline = {.kind = kind, .blocks = {2, 2}},
                       .sequence = kind == ScheduleKind::zero_bubble};
    if (kind == ScheduleKind::interleaved) layout.sharding.pipeline = {kind, 2, {1, 1, 1, 1}};
  }
  layouts::Layout& slices = all.emplace_back(layouts::Layout{.family = "llama"});
  slices.sharding = {
      .level = Shard::gradients, .mesh = comm::Mesh::of_world(ranks, 1, 2, 1, 0), .micro_batches = 2, .sequence = true};
  return all;
}

}  // namespace

int main() {
  try {
    int wrong = 0;
    comm::run_launched({.timeout = std::chrono::seconds(60)}, {}, [&](comm::World& world) {
      for (const layouts::Layout& layout : layouts_of(world.size())) {
        const layouts::Outcome processes = layouts::run(layout, 3, world);
        const std::string difference = layouts::bitwise_difference(processes, layouts::run(layout, 3));
        if (difference.empty()) continue;
        ++wrong;
        std::fprintf(stderr, "rank %d: %s: %s\n", world.rank(), layout.describe().c_str(), difference.c_str());
      }
      if (world.rank() == 0) std::printf("%d ranks: %d layouts differ\n", world.size(), wrong);
    });
    return wrong == 0 ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

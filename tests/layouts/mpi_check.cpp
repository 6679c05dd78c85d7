// Under mpirun: layouts on MPI processes give the bits of the same layouts on threads.
#include <cstdio>
#include <exception>

#include "layout.h"

int main() {
  using namespace ridgeline;
  using parallel::Shard;
  try {
    int wrong = 0;
    comm::run_mpi({.timeout = std::chrono::seconds(60)}, [&](comm::World& world) {
      for (const Shard level : {Shard::none, Shard::optimizer, Shard::gradients, Shard::parameters}) {
        for (const DType dtype : {DType::f32, DType::bf16}) {
          layouts::Layout layout;
          layout.precision = dtype;
          layout.family = dtype == DType::f32 ? "gptj" : "gpt2";
          layout.sharding = {
              .level = level,
              .mesh = comm::Mesh::of_data(world.size(), world.size() == 4 && dtype == DType::f32 ? 2 : 0),
              .reduce = parallel::Reduce::every,
              .wire = dtype,
              .micro_batches = 2};
          layout.offload_window = level == Shard::optimizer || level == Shard::parameters ? 1 : 0;
          const layouts::Outcome processes = layouts::run(layout, 3, world);
          const std::string difference = layouts::bitwise_difference(processes, layouts::run(layout, 3));
          if (difference.empty()) continue;
          ++wrong;
          std::fprintf(stderr, "rank %d: %s: %s\n", world.rank(), layout.describe().c_str(), difference.c_str());
        }
      }
      if (world.rank() == 0) std::printf("%d ranks: %d layouts differ\n", world.size(), wrong);
    });
    return wrong == 0 ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

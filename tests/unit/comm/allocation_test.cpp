// Starting and waiting must not allocate: a step's memory is laid out before it.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "ridgeline/comm/communicator.h"

namespace {
std::atomic<int64_t> allocations{0};
}

void* operator new(size_t bytes) {
  ++allocations;
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
// Out of line: GCC 12 takes std::free of what `operator new` gave for a mistake where it sees one without the other.
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept {
  std::free(memory);
}

namespace ridgeline::comm {
namespace {

TEST(Allocation, NoneWhileOperationsRun) {
  WorldOptions options;
  options.timeout = std::chrono::seconds(60);
  int64_t in_steps = -1;
  run_threads(3, options, [&](World& world) {
    const std::span<std::byte> memory = world.peer_visible(1 << 20);
    float* data = reinterpret_cast<float*>(memory.data());
    auto comm = world.communicator("all");
    const int n = comm->size(), me = comm->rank();
    const auto step = [&](int number) {
      const Label label{"gradient of a unit with a long name", 1, number};
      for (int i = 0; i < 40; ++i) comm->all_reduce(data, 100, ReduceOp::sum, label);
      comm->reduce_scatter(data, 1000, ReduceOp::sum, label);
      comm->all_gather(data, 1000, label);
      comm->broadcast(data, 30'000, 1, label);
      comm->all_to_all(ConstRef(data), data + 50'000, 1000, label);
      const Send send{(me + 1) % n, ConstRef(data), 5000};
      const Receive receive{(me + n - 1) % n, data + 100'000, 5000};
      comm->wait(comm->exchange({&send, 1}, {&receive, 1}, label));
      comm->wait(comm->barrier(label));
    };
    step(0);
    const int64_t before = allocations;
    // Between these two barriers every rank is inside the steps.
    comm->wait(comm->barrier({"begin"}));
    for (int number = 1; number < 20; ++number) step(number);
    comm->wait(comm->barrier({"end"}));
    if (me == 0) in_steps = allocations - before;
  });
  EXPECT_EQ(in_steps, 0);
}

}  // namespace
}  // namespace ridgeline::comm

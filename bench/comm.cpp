#include "bench/comm.h"

#include <fmt/format.h>

#include <chrono>
#include <functional>

#include "ridgeline/base/error.h"
#include "ridgeline/comm/communicator.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/device/machine.h"
#include "ridgeline/ops/cpu/peak.h"

namespace ridgeline::bench {
namespace {

struct Collective {
  const char* name;
  double copies;  // buffer sizes that all ranks together must read plus write at the least
  std::function<comm::Ticket(comm::Communicator&, Ref, int64_t)> start;
};

}  // namespace

std::vector<Row> comm_rows(int ranks, int64_t bytes, int rounds) {
  std::vector<Row> rows;
  const auto body = [&](comm::World& world) {
    const int n = world.size();
    const int64_t shard = bytes / 4 / n, count = shard * n;
    if (shard == 0) {
      throw Error(fmt::format("--bytes: {} bytes are no number for each of {} ranks", bytes, n),
                  fmt::format("Give at least {}.", 4 * n));
    }
    const std::span<std::byte> memory = world.peer_visible(count * 4);
    const Ref buffer(reinterpret_cast<float*>(memory.data()));
    for (int64_t i = 0; i < count; ++i) buffer.as<float>()[i] = static_cast<float>(i % 1000) * 1e-3F;
    const std::unique_ptr<comm::Communicator> group = world.communicator("bench");
    // all_reduce: every buffer is read once and written once; reduce_scatter: read once, one buffer's worth written;
    // all_gather: one buffer's worth read, what the others own written.
    const Collective collectives[] = {{"all_reduce", 2.0 * n,
                                       [](auto& g, Ref b, int64_t s) {
                                         return g.all_reduce(b, s * g.size(), comm::ReduceOp::sum, {"bench", -1, -1});
                                       }},
                                      {"reduce_scatter", n + 1.0,
                                       [](auto& g, Ref b, int64_t s) {
                                         return g.reduce_scatter(b, s, comm::ReduceOp::sum, {"bench", -1, -1});
                                       }},
                                      {"all_gather", 1.0 * n, [](auto& g, Ref b, int64_t s) {
                                         return g.all_gather(b, s, {"bench", -1, -1});
                                       }}};
    std::vector<std::vector<double>> seconds(std::size(collectives));
    for (int round = -1; round < rounds; ++round) {
      for (size_t c = 0; c < std::size(collectives); ++c) {
        group->wait(group->barrier({"bench", -1, round}));
        const auto begin = std::chrono::steady_clock::now();
        group->wait(collectives[c].start(*group, buffer, shard));
        group->wait(group->barrier({"bench", -1, round}));
        if (round >= 0)
          seconds[c].push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
      }
    }
    if (world.rank() != 0) return;
    device::WorkerTeam team(n);
    const double bandwidth = ops::memory_bandwidth(ops::MemoryPattern::copy, team);
    for (size_t c = 0; c < std::size(collectives); ++c) {
      const Statistics time = statistics(seconds[c]);
      const double size = static_cast<double>(count) * 4;
      const double floor = collectives[c].copies * size / bandwidth;
      rows.push_back(
          {.name = fmt::format("{}_{}_{}_ranks_{}_mb", collectives[c].name, world.backend(), n, bytes / 1'000'000),
           .value = size / time.median * 1e-9,
           .unit = "GB/s",
           .floor = size / floor * 1e-9,
           .fraction = floor / time.median,
           .spread = time.spread});
    }
  };
  const comm::WorldOptions options{.processors = device::Machine::read().processors};
  if (comm::launched()) {
    comm::run_launched(options, {}, body);
  } else {
    comm::run_threads(ranks, options, body);
  }
  return rows;
}

}  // namespace ridgeline::bench

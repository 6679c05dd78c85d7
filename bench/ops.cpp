#include "bench/ops.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <set>

#include "bench/machine.h"
#include "bench/operators/operator.h"
#include "ridgeline/base/error.h"
#include "ridgeline/device/cpu/worker_team.h"

namespace ridgeline::bench {
namespace {

constexpr int64_t kOperandBytes = int64_t{3} << 30;

struct Timed {
  operators::MeasuredCall call;
  std::vector<double> seconds;
};

// Rounds through the whole list, so that what slows the machine for a while slows all of it.
void run_rounds(std::vector<Timed>& calls, int rounds) {
  for (const Timed& timed : calls) timed.call.run();
  for (int round = 0; round < rounds; ++round) {
    for (Timed& timed : calls) {
      const auto begin = std::chrono::steady_clock::now();
      timed.call.run();
      timed.seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
  }
}

}  // namespace

std::vector<Row> op_rows(int threads, int rounds, const std::string& filter) {
  device::WorkerTeam team(threads);
  device::Stream stream(team);
  device::Arena memory(kOperandBytes, &team);
  operators::Measurement measurement(stream, memory);
  operators::add_all(measurement);
  std::vector<Timed> calls;
  for (const operators::MeasuredCall& call : measurement.calls()) {
    if (call.name.find(filter) != std::string::npos) calls.push_back({call, {}});
  }
  if (calls.empty()) {
    std::set<std::string> words;  // with which names begin
    for (const operators::MeasuredCall& call : measurement.calls())
      words.insert(call.name.substr(0, call.name.find('_')));
    throw Error(fmt::format("--filter: no operator's name contains '{}'", filter),
                fmt::format("There are {}.", fmt::join(words, ", ")));
  }
  run_rounds(calls, rounds);
  const Machine machine = measure_machine(team);
  std::vector<Row> rows;
  for (const auto& [call, taken] : calls) {
    const Statistics seconds = statistics(taken);
    const double floor = std::max(call.flops / machine.flops(call.dtype), call.bytes / machine.adam);
    rows.push_back({.name = call.name,
                    .value = seconds.median * 1e3,
                    .unit = "ms",
                    .floor = floor * 1e3,
                    .fraction = floor / seconds.median,
                    .spread = seconds.spread});
  }
  return rows;
}

}  // namespace ridgeline::bench

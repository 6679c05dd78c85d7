#include "bench/overlap.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <sstream>

#include "ridgeline/base/error.h"
#include "ridgeline/parallel/traffic.h"
#include "ridgeline/plan/traffic.h"
#include "ridgeline/train/trainer.h"

namespace ridgeline::bench {
namespace {

WorkerOptions work_of(const OverlapOptions& options, const std::string& level, bool overlap) {
  const auto number = [](std::string_view key, int64_t value) { return fmt::format("{}={}", key, value); };
  return {.preset = "",
          .ranks = options.ranks,
          .threads = 1,
          .batch = int64_t{options.ranks} * options.micro_batches,
          .micro_batch = 1,
          .sequence = options.sequence,
          .head_chunk = options.sequence,
          // Slices in place of a level of sharding.
          .set = {level == "tensor" ? number("parallel.tensor", options.ranks) : "parallel.shard=" + level,
                  number("model.layers", options.layers), number("model.width", options.width),
                  number("model.heads", std::max<int64_t>(1, options.width / 64)), number("model.vocab", options.vocab),
                  number("model.context", options.sequence), "parallel.reduce=every",
                  number("parallel.prefetch", options.prefetch), fmt::format("parallel.overlap={}", overlap)}};
}

// What a step of this level sends, from its program.
parallel::Traffic step_traffic(const WorkerOptions& work) {
  const train::Config config = config_of(work);
  const comm::Placement place(train::mesh_of(config, work.ranks), 0);
  const parallel::RunShape run = train::run_shape(config, device::Machine::read(), place);
  const parallel::Program program = train::run_programs(config, place).back();
  const parallel::Traffic of_segments = parallel::traffic_of(program, run.segments(), run.sharding);
  return {of_segments.transfers, plan::traffic_by_purpose(program, run).total()};
}

// A link on which that traffic takes `seconds`.
void set_link(const OverlapOptions& options, const parallel::Traffic& traffic, double seconds, WorkerOptions& work) {
  const double latencies = static_cast<double>(traffic.transfers * options.link_nanoseconds) * 1e-9;
  if (latencies >= seconds) {
    throw Error(
        fmt::format("the latencies of {} transfers take {:.3f} s, more than the {:.3f} s of communication asked "
                    "for",
                    traffic.transfers, latencies, seconds),
        "Take a lower --latency or a longer --sequence.");
  }
  work.link_bytes_per_second = static_cast<double>(traffic.bytes) / (seconds - latencies);
  work.link_nanoseconds = options.link_nanoseconds;
}

// Round by round, so that slow minutes cancel.
Statistics ratio(const Contender& contender, const Contender& reference) {
  std::vector<double> ratios;
  for (size_t i = 0; i < std::min(contender.seconds.size(), reference.seconds.size()); ++i)
    ratios.push_back(contender.seconds[i] / reference.seconds[i]);
  return statistics(ratios);
}

}  // namespace

std::vector<Row> overlap_rows(const OverlapOptions& options) {
  std::vector<Contender> contenders;
  contenders.push_back(start_worker(options.program, work_of(options, "none", true), "no link"));
  // What the links are derived from; the race measures it again.
  contenders[0].step(2, false);
  contenders[0].step(7, true);
  const double calibrated = statistics(contenders[0].seconds).median;
  contenders[0].seconds.clear();

  struct Entry {
    std::string name;
    WorkerOptions work;
  };
  std::vector<Entry> entries;
  std::stringstream levels(options.levels);
  for (std::string level; std::getline(levels, level, ',');) {
    for (const bool overlap : {true, false}) {
      WorkerOptions work = work_of(options, level, overlap);
      set_link(options, step_traffic(work), options.share * calibrated, work);
      entries.push_back({fmt::format("overlap_{}{}", level, overlap ? "" : "_inline"), work});
      contenders.push_back(start_worker(options.program, work, entries.back().name));
    }
  }
  race(options.race, contenders);

  std::vector<Row> rows;
  const Statistics compute = statistics(contenders[0].seconds);
  const double share = options.share * calibrated / compute.median;
  rows.push_back({.name = "overlap_compute", .value = compute.median, .unit = "s", .spread = compute.spread});
  for (size_t i = 0; i < entries.size(); ++i) {
    const Statistics measured = ratio(contenders[i + 1], contenders[0]);
    rows.push_back(
        {.name = entries[i].name,
         .value = measured.median,
         .unit = "x compute",
         .floor = 1.0,
         .fraction = 1.0 / measured.median,
         .spread = measured.spread,
         .peer = fmt::format("{:.2f} of compute on a link of {:.1f} MB/s, {} us", share,
                             entries[i].work.link_bytes_per_second * 1e-6, entries[i].work.link_nanoseconds / 1000)});
  }
  return rows;
}

}  // namespace ridgeline::bench

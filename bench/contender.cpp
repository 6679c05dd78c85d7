#include "bench/contender.h"

#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "ridgeline/base/json.h"

namespace ridgeline::bench {

void Contender::step(int count, bool keep) {
  process->write_line(std::to_string(count));
  const nlohmann::json row = parse_json(process->read_json_line());
  tokens = row.at("tokens").get<int64_t>();
  resident = row.at("peak_resident_bytes").get<int64_t>();
  if (row.contains("planned_bytes")) planned = row.at("planned_bytes").get<int64_t>();
  offloaded = row.value("offloaded_bytes", int64_t{0});
  if (!keep) return;
  for (const nlohmann::json& value : row.at("step_seconds")) seconds.push_back(value.get<double>());
  for (const nlohmann::json& value : row.value("update_seconds", nlohmann::json::array()))
    update_seconds.push_back(value.get<double>());
}

Contender start_worker(const std::string& program, const WorkerOptions& work, const std::string& name) {
  const std::vector<std::pair<std::string, std::string>> values = {
      {"--preset", work.preset},
      {"--precision", work.precision},
      {"--ranks", std::to_string(work.ranks)},
      {"--threads", std::to_string(work.threads)},
      {"--batch", std::to_string(work.batch)},
      {"--micro-batch", std::to_string(work.micro_batch)},
      {"--sequence", std::to_string(work.sequence)},
      {"--head-chunk", std::to_string(work.head_chunk)},
      {"--link-bandwidth", fmt::format("{}", work.link_bytes_per_second)},
      {"--link-latency", std::to_string(work.link_nanoseconds)}};
  std::vector<std::string> command = {program, "bench", "worker"};
  for (const auto& [key, value] : values) command.insert(command.end(), {key, value});
  for (const std::string& assignment : work.set) command.insert(command.end(), {"--set", assignment});
  return {.name = name, .process = std::make_unique<Process>(command)};
}

void race(const RaceOptions& options, std::vector<Contender>& contenders) {
  for (Contender& contender : contenders) contender.step(1, false);
  for (int round = 0; round < options.rounds; ++round) {
    for (Contender& contender : contenders) contender.step(options.steps_per_round, true);
    if (!options.verbose) continue;
    fmt::print(stderr, "round {} of {}:", round + 1, options.rounds);
    for (const Contender& contender : contenders)
      fmt::print(stderr, "  {} {:.3f} s", contender.name, contender.seconds.back());
    fmt::print(stderr, "\n");
  }
}

}  // namespace ridgeline::bench

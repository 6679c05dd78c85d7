#include "bench/train.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "bench/machine.h"
#include "bench/process.h"
#include "ridgeline/base/error.h"
#include "ridgeline/model/declarations.h"

namespace ridgeline::bench {
namespace {

// One mode in the race: the seconds of its steps, round by round.
struct Contender {
  std::string name;
  std::unique_ptr<Process> process;
  std::vector<double> seconds;
  int64_t tokens = 0;
  int64_t resident = 0;
  int64_t planned = 0;

  void step(int count, bool keep) {
    process->write_line(std::to_string(count));
    const nlohmann::json row = nlohmann::json::parse(process->read_json_line());
    tokens = row.at("tokens").get<int64_t>();
    resident = row.at("peak_resident_bytes").get<int64_t>();
    if (row.contains("planned_bytes")) planned = row.at("planned_bytes").get<int64_t>();
    if (!keep) return;
    for (const nlohmann::json& value : row.at("step_seconds")) seconds.push_back(value.get<double>());
  }
};

// Floor of a step: its FLOPs at the measured peak plus the optimizer's 28 bytes per parameter at the measured bandwidth
// (fp32 weight, gradient and two moments read; weight and moments written).
double floor_seconds(const model::TransformerConfig& config, const WorkerOptions& work, DType dtype,
                     const Machine& machine) {
  const double tokens = static_cast<double>(work.batch * work.sequence);
  return model::training_flops(config, work.sequence).per_token() * tokens / machine.flops(dtype) +
         28.0 * static_cast<double>(config.parameters()) / machine.adam;
}

Contender start_ours(const TrainBenchOptions& options, const std::string& precision, int ranks, int threads,
                     const std::string& name) {
  const WorkerOptions& work = options.work;
  std::vector<std::string> command = {options.program,
                                      "bench",
                                      "worker",
                                      "--preset",
                                      work.preset,
                                      "--precision",
                                      precision,
                                      "--ranks",
                                      std::to_string(ranks),
                                      "--threads",
                                      std::to_string(threads),
                                      "--batch",
                                      std::to_string(work.batch),
                                      "--micro-batch",
                                      std::to_string(work.micro_batch),
                                      "--sequence",
                                      std::to_string(work.sequence),
                                      "--head-chunk",
                                      std::to_string(work.head_chunk)};
  return {.name = name, .process = std::make_unique<Process>(command)};
}

Contender start_peer(const TrainBenchOptions& options, const model::TransformerConfig& config,
                     const std::string& precision, const std::string& mode) {
  const bool tuned = mode.ends_with("-tuned");
  // Set for older OpenBLAS builds on some machines; they would slow PyTorch's libraries down.
  std::vector<std::string> environment = {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OMP_WAIT_POLICY=PASSIVE"};
  if (tuned) {
    for (const char* const library :
         {"/usr/lib/x86_64-linux-gnu/libjemalloc.so.2", "/usr/lib/aarch64-linux-gnu/libjemalloc.so.2"}) {
      if (std::filesystem::exists(library)) environment.emplace_back(fmt::format("LD_PRELOAD={}", library));
    }
    environment.emplace_back(
        "MALLOC_CONF=thp:always,metadata_thp:always,dirty_decay_ms:-1,muzzy_decay_ms:-1,narenas:1");
  }
  const WorkerOptions& work = options.work;
  const std::vector<std::string> command = {options.peers + "/bin/python",
                                            options.peer_script,
                                            "--mode",
                                            mode.substr(0, mode.find('-')),
                                            "--precision",
                                            precision,
                                            "--layers",
                                            std::to_string(config.layers),
                                            "--width",
                                            std::to_string(config.width),
                                            "--heads",
                                            std::to_string(config.heads),
                                            "--vocab",
                                            std::to_string(config.vocab),
                                            "--batch",
                                            std::to_string(work.batch),
                                            "--sequence",
                                            std::to_string(work.sequence),
                                            "--threads",
                                            std::to_string(options.cpus),
                                            "--steps",
                                            "2",
                                            "--warmup",
                                            "1",
                                            "--interactive"};
  Contender contender{.name = fmt::format("PyTorch {}", mode),
                      .process = std::make_unique<Process>(command, environment)};
  contender.process->read_json_line();  // its own report after the first steps
  return contender;
}

// Interleaved rounds: slow minutes of the machine hit all contenders.
void race(const TrainBenchOptions& options, std::vector<Contender>& contenders) {
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

// Median over rounds of (theirs / ours): above 1 we are faster.
double speed_ratio(const Contender& ours, const Contender& theirs) {
  std::vector<double> ratios;
  for (size_t i = 0; i < std::min(ours.seconds.size(), theirs.seconds.size()); ++i)
    ratios.push_back(theirs.seconds[i] / ours.seconds[i]);
  return statistics(ratios).median;
}

std::string row_name(const TrainBenchOptions& options, const std::string& precision, std::string_view rest) {
  std::string preset = options.work.preset;
  std::replace(preset.begin(), preset.end(), '-', '_');
  return fmt::format("{}_{}{}", preset, precision, rest);
}

void add_precision(const TrainBenchOptions& options, const std::string& precision, const Machine& machine,
                   std::vector<Row>& rows) {
  const model::TransformerConfig config = model::preset(options.work.preset);
  const DType dtype = precision == "bf16" ? DType::bf16 : DType::f32;
  const double floor = floor_seconds(config, options.work, dtype, machine);
  std::vector<Contender> own;
  own.push_back(start_ours(options, precision, 1, options.cpus, "1 rank"));
  if (options.cpus > 1)
    own.push_back(start_ours(options, precision, options.cpus, 1, fmt::format("{} ranks", options.cpus)));
  race(options, own);
  const auto add = [&](const Contender& contender, std::string_view rest) -> Row& {
    const Statistics seconds = statistics(contender.seconds);
    const double tokens = static_cast<double>(contender.tokens);
    rows.push_back({.name = row_name(options, precision, rest),
                    .value = tokens / seconds.median,
                    .unit = "tokens/s",
                    .floor = tokens / floor,
                    .fraction = floor / seconds.median,
                    .spread = seconds.spread});
    return rows.back();
  };
  add(own[0], "");
  rows.push_back({.name = row_name(options, precision, "_memory"),
                  .value = static_cast<double>(own[0].resident) * 1e-9,
                  .unit = "GB",
                  .floor = static_cast<double>(own[0].planned) * 1e-9,
                  .fraction = static_cast<double>(own[0].planned) / static_cast<double>(own[0].resident)});
  if (own.size() > 1) {
    Row& row = add(own[1], fmt::format("_{}_ranks", options.cpus));
    row.peer = "1 rank, all threads";
    row.ratio = speed_ratio(own[1], own[0]);
  }
  own.clear();  // Their memory is needed for the pairs.
  if (options.peers.empty()) return;
  for (const std::string& mode : options.peer_modes) {
    std::vector<Contender> pair;
    pair.push_back(start_ours(options, precision, 1, options.cpus, "ours"));
    pair.push_back(start_peer(options, config, precision, mode));
    race(options, pair);
    Row& row = add(pair[0], fmt::format("_beside_{}", mode));
    row.peer = fmt::format("{} ({:.1f} tokens/s)", pair[1].name,
                           static_cast<double>(pair[1].tokens) / statistics(pair[1].seconds).median);
    row.ratio = speed_ratio(pair[0], pair[1]);
    rows.push_back({.name = row_name(options, precision, fmt::format("_memory_beside_{}", mode)),
                    .value = static_cast<double>(pair[0].resident) * 1e-9,
                    .unit = "GB",
                    .peer = fmt::format("{} ({:.2f} GB)", pair[1].name, static_cast<double>(pair[1].resident) * 1e-9),
                    .ratio = static_cast<double>(pair[0].resident) / static_cast<double>(pair[1].resident)});
  }
}

}  // namespace

std::vector<Row> train_rows(const TrainBenchOptions& options) {
  std::vector<Row> rows;
  Machine machine;
  {
    device::WorkerTeam team(options.cpus);
    machine = measure_machine(team);
  }
  for (const std::string& precision : options.precisions) add_precision(options, precision, machine, rows);
  return rows;
}

}  // namespace ridgeline::bench
